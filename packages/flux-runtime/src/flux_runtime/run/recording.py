"""Records episodes while they happen, so that whatever ends the process leaves them readable.

An episode is first a stream, `episode_000000.stream`, to which ticks are appended as they happen.
When it ends, as planned or not, it becomes `episode_000000.npz` and a line in `episodes.jsonl`.
Only a process that is killed, or a machine that loses power, leaves a stream behind. Beside it,
`episode_000000.replay` holds what the control loop was given, for `flux-runtime replay`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from flux_core.errors import DataError, UsageError
from flux_core.robots import RobotSpec

from ..control.episode import EpisodeResult
from ..control.episode_log import Event, InferenceTimes, Rows, realtime_rows, tick_rows
from .recorded_episode import (
    FACTS_KEY,
    STREAM_SUFFIX,
    SUMMARY_NAME,
    RecordedEpisode,
    episode_of,
    facts_of,
)
from .replay_file import REPLAY_SUFFIX
from .replay_recording import ReplayRecording
from .stream import END, EVENT, INFERENCE, ROWS, StreamWriter, read_stream


def prepare_recording(directory: Path) -> None:
    """Creates the directory; refuses one that already holds a recording, finished or not."""
    for path in sorted(directory.glob(f"episode_*{STREAM_SUFFIX}")):
        raise UsageError(
            f"--record {directory}: holds an episode that was cut off when its process ended "
            f"({path.name}). Read it with flux_runtime.read_recording, and name another directory."
        )
    if (directory / SUMMARY_NAME).exists() or any(directory.glob(f"episode_*{REPLAY_SUFFIX}")):
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
    """Records episodes in a directory that `prepare_recording` has created."""

    def __init__(self, directory: Path, spec: RobotSpec) -> None:
        self._directory = directory
        self._spec = spec
        self._num_episodes = 0

    def begin(
        self,
        *,
        prompt: str,
        seed: int,
        is_realtime: bool = False,
        cameras: Sequence[str] = (),
        command_hz: float | None = None,
        replay_header: Mapping[str, object] | None = None,
    ) -> EpisodeRecording:
        """Begins the next episode.

        Args:
            prompt: the task in words.
            seed: of the episode.
            is_realtime: whether its rows have the fields of `realtime_rows`.
            cameras: the cameras that the policy uses.
            command_hz: commands per second; the control rate by default.
            replay_header: what a replay must know of the run; without it none is recorded.
        """
        spec = self._spec
        dimensions = spec.state_dim, spec.action_dim
        rows = realtime_rows(*dimensions, len(cameras)) if is_realtime else tick_rows(*dimensions)
        header = {
            "robot": spec.name,
            "prompt": prompt,
            "seed": seed,
            "control_hz": spec.control_hz,
            "command_hz": command_hz or spec.control_hz,
            "joint_names": spec.joint_names,
            "state_names": spec.state_names or spec.joint_names,
            "cameras": list(cameras),
            "began_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "rows": rows.descr,
        }
        stem = self._directory / f"episode_{self._num_episodes:06d}"
        self._num_episodes += 1
        stream = StreamWriter(stem.with_suffix(STREAM_SUFFIX), header)
        if replay_header is None:
            return EpisodeRecording(stream)
        path = stem.with_suffix(REPLAY_SUFFIX)
        return EpisodeRecording(
            stream, ReplayRecording(path, replay_header, is_realtime=is_realtime)
        )


class EpisodeRecording:
    """One episode on its way to the disk; an `EpisodeLog`.

    Attributes:
        replay: receives what a replay needs; None if none is recorded.
    """

    def __init__(self, stream: StreamWriter, replay: ReplayRecording | None = None) -> None:
        self.replay = replay
        self._stream = stream

    def add_rows(self, rows: Rows) -> None:
        """Appends ticks."""
        if self.replay is not None:
            self.replay.raise_if_failed()
        self._stream.append(ROWS, rows.tobytes())

    def add_event(self, event: Event) -> None:
        """Appends an event."""
        self._stream.append_json(EVENT, event.as_data())

    def add_inference(self, times: InferenceTimes) -> None:
        """Appends the times of an inference."""
        self._stream.append_json(INFERENCE, times.as_data())

    def finish(self, result: EpisodeResult) -> Path:
        """Turns the stream into the episode's file and its line, and returns the file.

        Raises:
            DataError: one of them cannot be written, for example because the disk is full; the
                stream stays.
        """
        end = {"outcome": result.outcome, "stopped_by": result.stopped_by, "reason": result.reason}
        try:
            return self._finish_rows(result, end)
        finally:
            if self.replay is not None:
                self.replay.finish(end)

    def _finish_rows(self, result: EpisodeResult, end: dict[str, Any]) -> Path:
        self._stream.append_json(END, end)
        self._stream.close()
        stream = self._stream.path
        episode = episode_of(*read_stream(stream))
        path = stream.with_suffix(".npz")
        line = {"file": path.name, "robot": episode.robot, "prompt": episode.prompt}
        with _naming(path, stream):
            _write_npz(path, episode)
        with _naming(path.with_name(SUMMARY_NAME), stream):
            _append_line(path.with_name(SUMMARY_NAME), line | result.summary() | end)
        stream.unlink()
        return path


@contextmanager
def _naming(path: Path, stream: Path) -> Iterator[None]:
    """Makes a failure to write `path` say where the episode is kept."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}). The whole episode is kept in "
            f"{stream}; read it with flux_runtime.read_recording. Make room on the disk, or record "
            f"to another directory."
        ) from error


def _write_npz(path: Path, episode: RecordedEpisode) -> None:
    """Writes the file under another name first, so that it is never there in part."""
    partial = path.with_name(f"{path.name}.partial")
    facts = np.array(json.dumps(facts_of(episode), ensure_ascii=False))
    arrays: dict[str, Any] = {**episode.arrays, FACTS_KEY: facts}
    try:
        with partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with suppress(OSError):  # a failure to write it is what the operator must read
            partial.unlink(missing_ok=True)


def _append_line(path: Path, line: dict[str, object]) -> None:
    """Appends the whole line or nothing, so that the lines before it stay readable."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            os.truncate(path, size)
        raise
