"""Checks every command sent against the limits, independently of the safety filter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flux_core.robots import RobotSpec

POSITION_TOLERANCE = 1e-5
"""In joint units. The float32 rounding of the limits and of previous + change is below 1e-6."""

GAP, RETURNING = 1 << 8, 1 << 11
"""Status bits of `_core.RealtimeLoop`: after a gap; led back to the limits."""


class CommandMonitor:
    """Counts the commands that are not finite, outside the position limits or too fast."""

    def __init__(
        self,
        spec: RobotSpec,
        start: NDArray[np.float32],
        command_hz: float | None = None,
        binary_mask: NDArray[np.bool_] | None = None,
    ) -> None:
        """Begins with `start`.

        Args:
            spec: the robot, with the limits in force.
            start: (action_dim,) the command before the first one.
            command_hz: commands per second; default: the control rate.
            binary_mask: (action_dim,) True where commands are 0 or 1, which may follow each other.
        """
        self._lower = np.asarray(spec.lower, np.float64) - POSITION_TOLERANCE
        self._upper = np.asarray(spec.upper, np.float64) + POSITION_TOLERANCE
        period_s = 1 / (command_hz or spec.control_hz)
        self._max_change = np.asarray(spec.max_velocity) * period_s + POSITION_TOLERANCE
        if binary_mask is not None:
            self._max_change[binary_mask] = np.inf
        self._previous = np.asarray(start, np.float64)
        self.num_out_of_limit = 0

    def check(self, command: NDArray[np.float32]) -> bool:
        """Checks the next command, (action_dim,), and returns whether it is within all limits."""
        now = np.asarray(command, np.float64)
        change = np.abs(now - self._previous)
        # Written so that a NaN fails every comparison.
        within = (now >= self._lower) & (now <= self._upper) & (change <= self._max_change)
        is_fine = bool(within.all())
        self.num_out_of_limit += not is_fine
        self._previous = now
        return is_fine

    def check_rows(self, commands: NDArray[np.float32], flags: NDArray[np.int64]) -> None:
        """Checks the next commands, (T, action_dim), of a run in real time.

        Args:
            commands: in the order in which they were sent.
            flags: (T,) their status bits. After a gap the robot starts again from the measured
                state, so that the change is not from the last command; and a robot that stands
                outside its limits is led back.
        """
        now = np.asarray(commands, np.float64)
        change = np.abs(np.diff(now, axis=0, prepend=self._previous[None]))
        is_after_gap = ((flags & GAP) != 0)[:, None]
        is_returning = ((flags & RETURNING) != 0)[:, None]
        # Written so that a NaN fails every comparison.
        is_inside = ((now >= self._lower) & (now <= self._upper)) | (
            is_returning & np.isfinite(now)
        )
        within = is_inside & ((change <= self._max_change) | is_after_gap)
        self.num_out_of_limit += int((~within.all(axis=1)).sum())
        if len(now):
            self._previous = now[-1]
