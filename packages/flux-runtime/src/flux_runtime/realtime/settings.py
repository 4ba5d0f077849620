"""The settings of the control thread, checked and complete, as the C++ loop takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from flux_core.robots import GripperClosing, MotionLimits

from ..chunking import Mode
from ..engines.core import load_core
from .options import RealtimeOptions, StopCategory

STALE_AFTER_S = 1.0


@dataclass(frozen=True, kw_only=True)
class RealtimeSettings:
    """What the control thread needs beside the safety filter's limits.

    Tuples of floats have one value per joint, in the joint's unit; an empty one turns its check
    off, as for a robot that is commanded by differences.

    Attributes:
        control_hz: steps of a chunk per second at full speed.
        command_hz: commands per second, at least `control_hz`.
        speed: the share of `control_hz` at which chunks are executed.
        execution_horizon: steps of a chunk that are executed before the next one.
        mode: 'sync' holds while a chunk is inferred, 'async' infers while the previous one runs,
            'ensemble' asks for one after another and averages them, 'rtc' lets a chunk begin with
            the steps that are executed while it is inferred.
        continuation: the arguments of `_core.ContinuationSettings`, for 'rtc'.
        first_latency_s: how long a chunk takes, until that is measured, for 'rtc'; 0 if unknown.
        slow_start_s: for how long a session that begins slowly executes rows at
            `slow_start_speed`; over the following second it becomes as fast as others.
        slow_start_speed: a share of `speed`.
        closes_below: a command below this becomes `closed_command`; None where a joint has no
            threshold, and empty if none has.
        closed_command: of the joints that have a threshold.
        hold_for_s: a hold that lasts longer becomes a stop.
        chunk_hold_for_s: the same for a hold that only lacks a chunk, during which failures of
            inference are not counted against `max_retries`; 0 for `hold_for_s`.
        stale_after_s: a chunk is executed until its observation is older than the chunk's duration
            and this time.
        max_state_age_s: the robot is held while its newest state is older.
        max_frame_age_s: the same for the newest frame of each of `cameras`.
        max_following_error: largest distance between command and measured position.
        max_border_jump: largest distance between the last command and a chunk's first row.
        start_tolerance: how far outside the position limits the robot may stand before a run.
        rest_command: the command that requests no motion; empty if repeating a command does.
        cameras: positions, among the robot's cameras, of those that the policy uses.
        inference_deadline_s: a chunk that takes longer is dropped.
        max_retries: failures in a row of the driver or of inference before a stop.
        stop_category: how the robot is stopped.
        priority: under SCHED_FIFO; 0 for ordinary scheduling.
        cpu: the CPU of the control thread; -1 for any.
    """

    control_hz: float
    command_hz: float
    speed: float
    execution_horizon: int
    mode: Mode
    hold_for_s: float
    stale_after_s: float
    max_state_age_s: float
    max_frame_age_s: float
    max_following_error: tuple[float, ...]
    max_border_jump: tuple[float, ...]
    start_tolerance: tuple[float, ...]
    rest_command: tuple[float, ...]
    cameras: tuple[int, ...]
    inference_deadline_s: float
    max_retries: int
    stop_category: StopCategory
    priority: int
    cpu: int
    continuation: Mapping[str, Any] = field(default_factory=dict[str, Any])
    first_latency_s: float = 0.0
    slow_start_s: float = 0.0
    slow_start_speed: float = 1.0
    closes_below: tuple[float | None, ...] = ()
    closed_command: tuple[float | None, ...] = ()
    chunk_hold_for_s: float = 0.0

    def __post_init__(self) -> None:
        for name in (
            *("control_hz", "command_hz", "speed"),
            *("hold_for_s", "stale_after_s", "max_state_age_s", "max_frame_age_s"),
            "inference_deadline_s",
        ):
            value: float = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name}: expected a finite number above 0, got {value!r}")
        if self.execution_horizon < 1:
            raise ValueError(
                f"execution_horizon: expected at least 1, got {self.execution_horizon}"
            )

    def as_data(self) -> dict[str, Any]:
        """Returns the arguments of the C++ loop's settings."""
        return asdict(self)

    def max_observation_age_s(self, action_horizon: int) -> float:
        """Returns how old the observation behind a command may be, in seconds."""
        slowest = self.slow_start_speed if self.slow_start_s > 0 else 1.0
        return action_horizon / (self.control_hz * self.speed * slowest) + self.stale_after_s


def realtime_settings(
    options: RealtimeOptions,
    limits: MotionLimits,
    *,
    execution_horizon: int,
    action_horizon: int,
    mode: Mode,
    cameras: Sequence[str],
    continuation: Mapping[str, Any],
    first_latency_s: float = 0.0,
    grippers: GripperClosing | None = None,
    chunk_hold_for_s: float = 0.0,
) -> RealtimeSettings:
    """Returns the settings of one run.

    A chunk that arrives later than its own duration and `STALE_AFTER_S` after its observation
    could not be executed any more; so this is the deadline of an inference.

    Args:
        options: of the command line.
        limits: the complete limits in force.
        execution_horizon: steps of a chunk that are executed before the next one.
        action_horizon: steps that the policy predicts per chunk.
        mode: how chunks are timed.
        cameras: the cameras that the policy uses.
        continuation: the arguments of `_core.ContinuationSettings`; empty unless the mode is 'rtc'.
        first_latency_s: how long a chunk takes at first, for 'rtc'.
        grippers: which commands close a gripper.
        chunk_hold_for_s: how long a hold may last that only lacks a chunk; 0 as any other.

    Raises:
        UsageError: the robot does not allow an option.
    """
    spec = limits.spec
    options.check(spec)
    thresholds = gripper_settings(grippers)
    return RealtimeSettings(
        control_hz=spec.control_hz,
        command_hz=options.commands_hz(spec),
        speed=options.speed,
        execution_horizon=execution_horizon,
        mode=mode,
        hold_for_s=options.hold_for_s,
        stale_after_s=STALE_AFTER_S,
        max_state_age_s=options.state_age_s(spec.control_hz),
        max_frame_age_s=options.max_frame_age_s,
        max_following_error=limits.max_following_error,
        max_border_jump=limits.max_border_jump,
        start_tolerance=limits.start_tolerance,
        rest_command=spec.rest_command,
        cameras=tuple(spec.cameras.index(name) for name in cameras),
        inference_deadline_s=inference_deadline_s(options.speed, spec.control_hz, action_horizon),
        max_retries=options.max_retries,
        stop_category=options.stop_category,
        priority=options.priority,
        cpu=-1 if options.cpu is None else options.cpu,
        continuation=continuation,
        first_latency_s=first_latency_s,
        closes_below=thresholds["closes_below"],
        closed_command=thresholds["closed_command"],
        chunk_hold_for_s=chunk_hold_for_s,
    )


def inference_deadline_s(speed: float, control_hz: float, action_horizon: int) -> float:
    """Returns after which time a chunk could not be executed any more."""
    return action_horizon / (control_hz * speed) + STALE_AFTER_S


def gripper_settings(grippers: GripperClosing | None) -> dict[str, tuple[float | None, ...]]:
    """Returns `closes_below` and `closed_command` of a control loop, as plain data."""
    if not grippers:
        return {"closes_below": (), "closed_command": ()}
    return {
        name: tuple(None if math.isnan(value) else value for value in values)
        for name, values in (
            ("closes_below", grippers.closes_below),
            ("closed_command", grippers.closed_command),
        )
    }


def core_grippers(data: Mapping[str, Any]) -> dict[str, list[float]]:
    """Returns what `gripper_settings` gave as C++ takes it, with NaN for None; older data has
    neither of them."""
    return {
        name: [math.nan if value is None else value for value in data.get(name, ())]
        for name in ("closes_below", "closed_command")
    }


def core_settings(data: Mapping[str, Any]) -> Any:
    """Returns the `_core.RealtimeSettings` of plain data that `RealtimeSettings.as_data` gave."""
    core = load_core()
    continuation = core.ContinuationSettings(**data["continuation"])
    return core.RealtimeSettings(
        **{**data, "continuation": continuation, **core_grippers(data)},
    )
