"""Chooses the rows that a dataset keeps: one per control step, whatever the rate of commands."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..control.command_monitor import RETURNING
from ..control.episode_log import Rows
from ..control.realtime_rows import HOLDING, RUNNING

ROUNDING = 1e-3
"""Of a step: deadlines are float64 seconds."""


def rows_dtype(state_dim: int, action_dim: int, num_cameras: int) -> np.dtype[np.void]:
    """Returns the fields of a control step, as `flux-data record` expects them."""
    own: list[Any] = [
        ("time_ns", "<i8"),  # when the command left
        ("frames_ns", "<i8", (num_cameras,)),  # capture times of the newest pictures; 0 for none
        ("state", "<f4", (state_dim,)),
        ("action", "<f4", (action_dim,)),
    ]
    return np.dtype(own)


class ControlSteps:
    """Turns the rows of an episode in real time into control steps.

    Attributes:
        num_missed: steps at which no command was sent, within the sessions of an episode.
    """

    def __init__(self, control_hz: float, dtype: np.dtype[np.void]) -> None:
        self.num_missed = 0
        self._control_hz = control_hz
        self._dtype = dtype
        self._begin_s = 0.0
        self._step = -1
        self._sequence = -1

    def take(self, rows: Rows) -> NDArray[np.void]:
        """Returns the control steps among the next rows.

        The first command of each control step is kept: with more commands than steps, that is the
        one on the policy's own row.
        """
        are_steps = np.isin(rows["phase"], (RUNNING, HOLDING))
        are_steps &= (rows["flags"] & RETURNING) == 0
        kept = list(self._kept(rows[are_steps]))
        chosen = rows[are_steps][kept]
        steps = np.zeros(len(chosen), self._dtype)
        steps["time_ns"] = np.round(chosen["sent_s"] * 1e9)
        frames_s = chosen["sent_s"][:, None] - chosen["frame_age_s"]
        steps["frames_ns"] = np.round(np.nan_to_num(frames_s, nan=0.0) * 1e9)
        steps["state"], steps["action"] = chosen["state"], chosen["command"]
        return steps

    def _kept(self, rows: Rows) -> Iterator[int]:
        for index, (sequence, deadline_s) in enumerate(
            zip(rows["sequence"].tolist(), rows["deadline_s"].tolist(), strict=True)
        ):
            if sequence <= self._sequence or self._sequence < 0:  # another session of the loop
                self._begin_s, self._step = deadline_s, -1
            self._sequence = sequence
            step = math.floor((deadline_s - self._begin_s) * self._control_hz + ROUNDING)
            if step > self._step:
                self.num_missed += step - self._step - 1
                self._step = step
                yield index
