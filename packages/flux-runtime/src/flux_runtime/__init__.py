"""Runs a bundle on a robot: engines, control loop, safety, recording and report.

Importing this package is cheap: the C++ core, the simulators and the plotting libraries are
imported only where they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .control import open_policy as open_policy
    from .robots import Robot as Robot
    from .robots import SimulatedRobot as SimulatedRobot
    from .robots import make_robot as make_robot
    from .run import RecordedEpisode as RecordedEpisode
    from .run import read_recording as read_recording

__version__ = "2026.11.0"
__all__ = [
    "RecordedEpisode",
    "Robot",
    "SimulatedRobot",
    "make_robot",
    "open_policy",
    "read_recording",
    "__version__",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "control": ("open_policy",),
        "robots": ("Robot", "SimulatedRobot", "make_robot"),
        "run": ("RecordedEpisode", "read_recording"),
    },
)
