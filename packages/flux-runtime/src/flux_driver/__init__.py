"""The side of a robot driver that runs in a process of its own, apart from the policy's.

It needs Python 3.8 or newer and numpy, and nothing else of flux, because a robot's driver brings an
interpreter and pins of its own.
"""

from .memory import (
    Command,
    CommandResult,
    Counters,
    DriverMemory,
    DriverMemoryError,
    DriverPhase,
    Layout,
    Watch,
    WatchResult,
    library_path,
)

__all__ = [
    "Command",
    "CommandResult",
    "Counters",
    "DriverMemory",
    "DriverMemoryError",
    "DriverPhase",
    "Layout",
    "Watch",
    "WatchResult",
    "library_path",
]
