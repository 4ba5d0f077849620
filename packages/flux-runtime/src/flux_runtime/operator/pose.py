"""The motion to the prepare pose: slow and smooth, through the control loop and its filter."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import RobotError
from flux_core.robots import MotionLimits, RobotSpec

from ..control.realtime_episode import EpisodeOperator, drive_motion
from ..control.realtime_session import RealtimeSession
from ..realtime import DriverCancelled

VELOCITY_SHARE, RATE_SHARE = 0.2, 0.5
"""Of max_velocity, and of max_acceleration and max_jerk, that the motion uses."""
LEAST_S = 0.5
_PEAK_VELOCITY, _PEAK_ACCELERATION, _PEAK_JERK = 15 / 8, 10 / math.sqrt(3), 60.0
"""Of a minimum-jerk motion over a distance of 1 in 1 s (Flash and Hogan, 1985)."""


class PoseMotion:
    """A minimum-jerk motion from one pose to another; a `PlannedMotion`.

    Attributes:
        num_rows: how many rows it has; its last one is the pose.
        is_over: whether somebody has asked for what follows the last row.
    """

    def __init__(
        self, start: NDArray[np.float32], pose: NDArray[np.float32], limits: MotionLimits
    ) -> None:
        """Takes two poses in robot units, (A,) each."""
        self.is_over = False
        duration_s = motion_s(np.abs(np.asarray(pose, np.float64) - start), limits)
        self.num_rows = math.ceil(duration_s * limits.spec.control_hz) + 1
        share = np.linspace(0.0, 1.0, self.num_rows)[:, None]
        smooth = share**3 * (10 - 15 * share + 6 * share**2)
        self._rows = (start + smooth * (np.asarray(pose, np.float64) - start)).astype(np.float32)

    def rows(self, first: int, count: int) -> NDArray[np.float32]:
        """Returns `count` rows from row `first` on, (count, A); the last one is repeated."""
        if first >= self.num_rows:
            self.is_over = True
        return self._rows[np.minimum(np.arange(first, first + count), self.num_rows - 1)]


def motion_s(distance: NDArray[np.float64], limits: MotionLimits) -> float:
    """Returns how long a slow motion takes over distances in joint units, (A,)."""
    velocity = VELOCITY_SHARE * np.asarray(limits.max_velocity)
    acceleration = RATE_SHARE * np.asarray(limits.max_acceleration)
    jerk = RATE_SHARE * np.asarray(limits.max_jerk)
    times = (
        _PEAK_VELOCITY * distance / velocity,
        np.sqrt(_PEAK_ACCELERATION * distance / acceleration),
        np.cbrt(_PEAK_JERK * distance / jerk),
    )
    return max(LEAST_S, *(float(np.max(entry)) for entry in times))


def go_to_prepare_pose(session: RealtimeSession, operator: EpisodeOperator) -> str:
    """Moves the robot to the prepare pose of its spec, or else has its driver move it home.

    Returns:
        How that ended, in words.

    Raises:
        RobotError: a fault has stopped the robot.
        StoppedBySignal: a signal has.
    """
    spec = session.spec
    if spec.is_commanded_by_differences or not spec.prepare_pose:
        return _home_by_driver(session, operator)
    pose = np.asarray(spec.prepare_pose, np.float32)
    if (problem := outside(spec, pose)) is not None:
        return problem
    try:
        session.outside_limits()
    except RobotError as error:
        return str(error)
    start = np.clip(session.measured_state(), spec.lower, spec.upper).astype(np.float32)
    motion = PoseMotion(start, pose, session.limits)
    result = drive_motion(session, motion, motion.num_rows, operator=operator)
    if result.outcome != "finished" or not motion.is_over:
        return f"{spec.name}: prepare pose: not reached; {result.reason or 'stopped'}"
    return f"{spec.name}: prepare pose: reached"


def outside(spec: RobotSpec, pose: NDArray[np.float32]) -> str | None:
    """Returns why a pose cannot be reached within the limits in force; None if it can."""
    for name, value, lower, upper in zip(
        spec.joint_names, pose.tolist(), spec.lower, spec.upper, strict=True
    ):
        if not np.float32(lower) <= value <= np.float32(upper):
            return (
                f"{spec.name}: prepare pose: expected {name} within its limits in force "
                f"{lower:g} to {upper:g}, got {value:g}. Leave that limit as it is"
            )
    return None


def _home_by_driver(session: RealtimeSession, operator: EpisodeOperator) -> str:
    name = session.spec.name
    if not session.driver.can_home:
        return (
            f"{name}: prepare pose: expected a prepare_pose in the robot's description, or a "
            f"driver with home(), got neither"
        )
    operator.attend(session)
    try:
        session.driver.home(cancelled=lambda: session.is_signalled() or operator.has_paused)
    except DriverCancelled:
        session.raise_if_signalled()
        return f"{name}: prepare pose: not reached; stopped"
    finally:
        operator.leave()
    return f"{name}: prepare pose: reached by the driver's own home()"
