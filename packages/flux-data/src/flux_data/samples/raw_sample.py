"""A sample as it is in the dataset's files, before any transform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.transforms import Sample


@dataclass(frozen=True, kw_only=True, eq=False)
class RawSample:
    """One frame of an episode, with the window of actions that follows it.

    Attributes:
        position: position of the episode in the dataset, 0 .. num_episodes - 1.
        episode_index: number of the episode in the metadata.
        frame: number of the frame in its episode.
        times_s: (frames,) times of all rows of the episode, in seconds since its start.
        columns: the dataset's columns at this frame, except for the cameras.
        state: (S,) in robot units.
        actions: (H, A) float32 in robot units.
        action_masks: (H,) bool, False where the window repeats its last action.
        task: the text of the task.
    """

    position: int
    episode_index: int
    frame: int
    times_s: NDArray[np.float64]
    columns: Mapping[str, Any]
    state: NDArray[Any]
    actions: NDArray[np.float32]
    action_masks: NDArray[np.bool_]
    task: str

    @property
    def time_s(self) -> float:
        """Time of the frame, in seconds since the episode's start."""
        return float(self.columns["timestamp"])

    def named(self) -> Sample:
        """Returns the columns and the other values under the names that transforms use."""
        return {
            **self.columns,
            "states": self.state,
            "actions": self.actions,
            "action_masks": self.action_masks,
            "task_description": self.task,
            "episode_index": self.episode_index,
        }
