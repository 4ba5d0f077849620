"""Records episodes: one .npz per episode, and one line per episode in episodes.jsonl."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from flux_core.errors import UsageError
from flux_core.robots import RobotSpec

from ..control.episode import EpisodeResult

SUMMARY_NAME = "episodes.jsonl"


def prepare_recording(directory: Path) -> None:
    """Creates the directory; refuses one that already holds a recording."""
    if (directory / SUMMARY_NAME).exists():
        raise UsageError(
            f"--record {directory}: already holds a recording. Name another directory."
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--record {directory}: cannot be created ({error.strerror}). Name another directory."
        ) from error


class Recorder:
    """Records episodes in a directory that `prepare_recording` has created.

    Each `episode_000000.npz` holds, for T ticks, A joints and S states (usually S = A): `state`
    (T, S) and `command` (T, A) float32 in robot units, `timestamp_s` (T,) float64 since the
    episode's first tick, `lateness_s` (T,) float64, `flags` (T,) int64 and `chunk_starts` (C,)
    int64, the ticks at which a chunk was requested.
    """

    def __init__(self, directory: Path, spec: RobotSpec) -> None:
        self._directory = directory
        self._spec = spec
        self._num_episodes = 0

    def write(self, result: EpisodeResult, prompt: str) -> Path:
        """Writes one episode and returns its file."""
        trace, width = result.trace, self._spec.action_dim
        states = np.asarray(trace.states, np.float32).reshape(-1, self._spec.state_dim)
        path = self._directory / f"episode_{self._num_episodes:06d}.npz"
        steps = np.arange(result.steps, dtype=np.float64)
        np.savez_compressed(
            path,
            state=states,
            command=np.asarray(trace.commands, np.float32).reshape(-1, width),
            timestamp_s=steps / self._spec.control_hz + np.asarray(trace.lateness_s, np.float64),
            lateness_s=np.asarray(trace.lateness_s, np.float64),
            flags=np.asarray(trace.flags, np.int64),
            chunk_starts=np.asarray(trace.chunk_starts, np.int64),
        )
        line = {"file": path.name, "robot": self._spec.name, "prompt": prompt} | result.summary()
        with (self._directory / SUMMARY_NAME).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._num_episodes += 1
        return path
