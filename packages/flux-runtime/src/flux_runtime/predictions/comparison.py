"""Sums up how far predicted chunks are from the recorded actions, joint by joint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A predicted chunk of an episode, and the actions that were recorded then.

    Attributes:
        step: the control step of its observation.
        predicted: (H, A) in robot units.
        recorded: (at most H, A) in robot units.
    """

    step: int
    predicted: NDArray[np.float32]
    recorded: NDArray[np.float32]


@dataclass(kw_only=True)
class PlayedEpisode:
    """One episode of the recordings.

    Attributes:
        index: its number in the dataset.
        task: what the policy was asked for.
        num_chunks: how many chunks were predicted.
        chunks: these chunks, if the report draws them.
    """

    index: int
    task: str
    num_chunks: int = 0
    chunks: list[Chunk] = field(default_factory=list[Chunk])


class Comparison:
    """Adds chunk after chunk; its memory does not grow with their number.

    Attributes:
        episodes: in the order of the run.
        num_actions: how many rows of chunks were compared.
    """

    def __init__(self, joints: Sequence[str], horizon: int, *, num_drawn: int) -> None:
        """Starts with nothing.

        Args:
            joints: the names of the joints.
            horizon: rows per chunk.
            num_drawn: the episodes whose chunks are kept for the report.
        """
        self.joints = tuple(joints)
        self.episodes: list[PlayedEpisode] = []
        self._num_drawn = num_drawn
        self._counts = np.zeros(horizon, np.int64)
        self._sums = np.zeros((horizon, len(joints)))
        self._held = np.zeros((horizon, len(joints)))
        self._worst = np.full(len(joints), -1.0)
        self._worst_at: list[dict[str, int]] = [{} for _ in joints]

    @property
    def num_actions(self) -> int:
        """How many rows of chunks were compared."""
        return int(self._counts.sum())

    def begin(self, index: int, task: str) -> None:
        """Starts an episode."""
        self.episodes.append(PlayedEpisode(index=index, task=task))

    def add(self, chunk: Chunk, held: NDArray[np.float32] | None) -> None:
        """Adds a chunk of the present episode.

        Args:
            chunk: it may be longer than what is left of the recording.
            held: (A,) the command that holds the observed state, to compare with; None if commands
                are differences.
        """
        episode = self.episodes[-1]
        episode.num_chunks += 1
        if len(self.episodes) <= self._num_drawn:
            episode.chunks.append(chunk)
        count = len(chunk.recorded)
        if not count:
            return
        errors = np.abs(chunk.predicted[:count].astype(np.float64) - chunk.recorded)
        self._counts[:count] += 1
        self._sums[:count] += errors
        if held is not None:
            self._held[:count] += np.abs(held.astype(np.float64) - chunk.recorded)
        offsets = errors.argmax(axis=0)
        for joint, offset in enumerate(offsets):
            error = float(errors[offset, joint])
            if not error <= self._worst[joint]:  # also if it is no number
                self._worst[joint] = error
                place = {"episode": episode.index, "step": chunk.step, "offset": int(offset)}
                self._worst_at[joint] = place

    def by_offset(self) -> NDArray[np.float64]:
        """Returns the mean absolute errors, (offsets, A), of the offsets that were compared."""
        used = self._counts > 0
        return self._sums[used] / self._counts[used, None]

    def as_data(self) -> dict[str, Any]:
        """Returns plain data for the JSON report; errors are in each joint's unit."""
        total = max(self.num_actions, 1)
        means, held = self._sums.sum(axis=0) / total, self._held.sum(axis=0) / total
        by_offset = self.by_offset()
        has_held = bool(self._held.any())
        return {
            "actions": self.num_actions,
            "episodes": [
                {"episode": each.index, "task": each.task, "chunks": each.num_chunks}
                for each in self.episodes
            ],
            "joints": {
                name: {
                    "mean_abs_error": float(means[place]),
                    "mean_abs_error_of_holding": float(held[place]) if has_held else None,
                    "worst": float(self._worst[place]) if self._worst_at[place] else 0.0,
                    "worst_at": self._worst_at[place],
                    "mean_abs_error_by_offset": by_offset[:, place].tolist(),
                }
                for place, name in enumerate(self.joints)
            },
        }
