"""What a dataset's files say of one frame, before any transform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.transforms import Sample


@dataclass(frozen=True, kw_only=True, eq=False)
class RawSample:
    """One frame of an episode, with the actions from there on.

    Attributes:
        position: the episode's place in the dataset, 0 .. num_episodes - 1.
        episode_index: the episode's number in the metadata.
        frame: the frame's number in its episode.
        columns: the dataset's columns at this frame; a stored image is its bytes, or the path of
            its file.
        state: (S,) in robot units.
        actions: (H, A) float32 in robot units.
        action_masks: (H,) bool, False where the window repeats its last action.
        task: the text of the task.
    """

    position: int
    episode_index: int
    frame: int
    columns: Mapping[str, Any]
    state: NDArray[Any]
    actions: NDArray[np.float32]
    action_masks: NDArray[np.bool_]
    task: str

    @property
    def time_s(self) -> float:
        """When the frame was recorded, in seconds since the episode's start."""
        return float(self.columns["timestamp"])

    def named(self) -> Sample:
        """The values under the names that transforms know, the columns among them."""
        return {
            **self.columns,
            "states": self.state,
            "actions": self.actions,
            "action_masks": self.action_masks,
            "task_description": self.task,
            "episode_index": self.episode_index,
        }
