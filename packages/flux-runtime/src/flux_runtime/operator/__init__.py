"""The person at the robot: commands as keys or lines, the dead-man, and what follows from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .commands import OperatorCommand as OperatorCommand
    from .dead_man import DeadMan as DeadMan
    from .dead_man import open_dead_man as open_dead_man
    from .desk import OperatorDesk as OperatorDesk
    from .keys import KeySource as KeySource
    from .lines import LineSource as LineSource
    from .opening import opened_desk as opened_desk
    from .pose import PoseMotion as PoseMotion
    from .station import OperatorStation as OperatorStation
    from .status import OperatorStatus as OperatorStatus
    from .status import Screen as Screen
    from .status import SilentScreen as SilentScreen

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "commands": ("OperatorCommand",),
        "dead_man": ("DeadMan", "open_dead_man"),
        "desk": ("OperatorDesk",),
        "keys": ("KeySource",),
        "lines": ("LineSource",),
        "opening": ("opened_desk",),
        "pose": ("PoseMotion",),
        "station": ("OperatorStation",),
        "status": ("OperatorStatus", "Screen", "SilentScreen"),
    },
)
