"""Robots in real time: the driver's process and what the policy's side keeps of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .driver_process import DriverCancelled as DriverCancelled
    from .driver_process import DriverEvent as DriverEvent
    from .driver_process import DriverProcess as DriverProcess
    from .driver_process import SimulatedTask as SimulatedTask

__getattr__, __dir__ = lazy_exports(
    __name__,
    {"driver_process": ("DriverCancelled", "DriverEvent", "DriverProcess", "SimulatedTask")},
)
