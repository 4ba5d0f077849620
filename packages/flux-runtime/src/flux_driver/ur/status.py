"""What a UR controller says of its arm, and whether the arm may be commanded."""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple

RUNNING = 7
ROBOT_MODES = {
    -1: "no controller",
    0: "disconnected",
    1: "confirm safety",
    2: "booting",
    3: "power off",
    4: "power on",
    5: "idle",
    6: "backdrive",
    RUNNING: "running",
    8: "updating firmware",
}
NORMAL, REDUCED = 1, 2
SAFETY_MODES = {
    NORMAL: "normal",
    REDUCED: "reduced",
    3: "protective stop",
    4: "recovery",
    5: "safeguard stop",
    6: "system emergency stop",
    7: "emergency stop",
    8: "violation",
    9: "fault",
    10: "validate joint id",
    11: "undefined safety mode",
    12: "automatic mode safeguard stop",
    13: "three-position enabling stop",
}
"""The tables of UR's guide to RTDE, in the words of the pendant."""
STOPPED_FOR_SAFETY = 1 << 10
"""The bit of `safety_status_bits` that all stops for safety have in common."""
PAUSING, PAUSED, RESUMING = 3, 4, 5
PROGRAM_IS_RUNNING = 1 << 1


class Sample(NamedTuple):
    """One packet of the controller.

    Attributes:
        timestamp_s: on the controller's clock.
        captured_s: the same on `time.monotonic()`.
        positions: measured, (6,) rad.
        robot_mode: a key of ROBOT_MODES.
        safety_mode: a key of SAFETY_MODES.
        safety_bits: `safety_status_bits`.
        robot_bits: `robot_status_bits`.
        runtime_state: of the program.
        speed_scaling: share of its programmed speed at which the arm moves.
    """

    timestamp_s: float
    captured_s: float
    positions: tuple[float, ...]
    robot_mode: int
    safety_mode: int
    safety_bits: int
    robot_bits: int
    runtime_state: int
    speed_scaling: float

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> Sample:
        """Takes the fields from a message."""
        fields: dict[str, Any] = {name: message[name] for name in cls._fields}
        return cls(**fields)._replace(positions=tuple(fields["positions"]))

    @property
    def share_of_speed(self) -> float:
        """0 to 1; 0 while the program is paused on the pendant."""
        if self.runtime_state in (PAUSING, PAUSED, RESUMING):
            return 0.0
        return min(max(self.speed_scaling, 0.0), 1.0)


def why_not_ready(sample: Sample) -> str:
    """Returns why the arm cannot be commanded and what to do, or ''."""
    safety = SAFETY_MODES.get(sample.safety_mode, f"safety mode {sample.safety_mode}")
    if sample.safety_mode not in (NORMAL, REDUCED):
        return (
            f"the arm is in a {safety}. Find the cause, clear it on the pendant, then start a new "
            f"run"
        )
    if sample.safety_bits & STOPPED_FOR_SAFETY:
        return (
            "the arm was stopped by its safety system. Find the cause, clear it on the pendant, "
            "then start a new run"
        )
    if sample.robot_mode != RUNNING:
        mode = ROBOT_MODES.get(sample.robot_mode, f"mode {sample.robot_mode}")
        return (
            f"the arm is not ready: expected the mode running, got {mode}. Switch it on and "
            f"release its brakes on the pendant"
        )
    return ""


def why_ended(sample: Sample) -> str:
    """Returns why an arm under control is no longer so and what to do, or ''."""
    reason = why_not_ready(sample)
    if not reason and not sample.robot_bits & PROGRAM_IS_RUNNING:
        return (
            "the control program on the controller has ended: its watchdog had no command in time, "
            "or somebody stopped it on the pendant. Start a new run"
        )
    return reason
