"""Runs in real time: the driver's process, the settings, and what this machine permits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .arguments import add_realtime_options as add_realtime_options
    from .arguments import realtime_options_from as realtime_options_from
    from .driver_process import DriverCancelled as DriverCancelled
    from .driver_process import DriverEvent as DriverEvent
    from .driver_process import DriverProcess as DriverProcess
    from .driver_process import SimulatedTask as SimulatedTask
    from .inference_thread import InferenceThread as InferenceThread
    from .inference_thread import is_inference_stuck as is_inference_stuck
    from .machine import MachineFacts as MachineFacts
    from .machine import granted_text as granted_text
    from .machine import machine_facts as machine_facts
    from .options import RealtimeOptions as RealtimeOptions
    from .settings import RealtimeSettings as RealtimeSettings
    from .settings import core_grippers as core_grippers
    from .settings import core_settings as core_settings
    from .settings import gripper_settings as gripper_settings
    from .settings import realtime_settings as realtime_settings

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "arguments": ("add_realtime_options", "realtime_options_from"),
        "driver_process": ("DriverCancelled", "DriverEvent", "DriverProcess", "SimulatedTask"),
        "inference_thread": ("InferenceThread", "is_inference_stuck"),
        "machine": ("MachineFacts", "granted_text", "machine_facts"),
        "options": ("RealtimeOptions",),
        "settings": (
            *("RealtimeSettings", "core_grippers", "core_settings", "gripper_settings"),
            "realtime_settings",
        ),
    },
)
