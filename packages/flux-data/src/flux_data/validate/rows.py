"""Finds what is wrong with a dataset: every file, count, time, frame and number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flux_core.errors import DataError

from ..lerobot.arrow import first_line
from ..lerobot.dataset import LeRobotDataset, LeRobotV2, open_lerobot
from ..lerobot.metadata import NO_NUMBERS, image_size
from ..lerobot.state_action import usual_columns
from ..video.reader import VideoReader, video_facts
from .fault import Fault, episode_fault
from .files import file_faults
from .images import image_faults
from .metadata import FRAMES_OFF, episode_lines, metadata_faults, task_faults
from .ranges import RangeWarnings
from .stats import StatedStats

JUMP_OVER_USUAL = 10.0
"""A step this many times larger than 99 % of all steps, and than 1 % of the range, is a jump."""

CheckTable = Callable[[int, Path, Mapping[str, NDArray[Any]]], Iterator[Fault]]
"""Called with an episode's position, file and numeric columns."""


def validate(
    root: Path,
    *,
    decode: bool = True,
    advance: Callable[[int, int], None] = lambda *_: None,
    warnings: list[Fault] | None = None,
) -> list[Fault]:
    """Returns all faults of a dataset; an empty list if it is sound.

    Args:
        root: the dataset.
        decode: whether to decode every frame and image, or to read only the times of frames.
        advance: called with the number of episodes done, and the number of all.
        warnings: takes what is no fault, but what training should know of.
    """
    try:
        source = open_lerobot(root)
        lines = episode_lines(source)
    except DataError as error:
        file, _, message = str(error).partition(": ")
        return [Fault(kind="metadata", file=file, where="", message=message)]
    stated, ranges = StatedStats(source, lines), RangeWarnings(source)
    faults = [*metadata_faults(source, lines), *stated.stated_faults()]
    checks = (
        _UsualSteps(source).jumps,
        partial(task_faults, source, lines),
        stated.episode_faults,
        ranges.add,
    )
    reader = VideoReader(max_open=len(source.video_keys) or 1) if decode else None
    rows = 0
    for position in range(source.num_episodes):
        faults += _check_table(source, position, rows, checks)
        faults += _check_videos(source, position, reader)
        faults += image_faults(source, position) if decode else ()
        rows += int(source.lengths[position])
        advance(position + 1, source.num_episodes)
    if warnings is not None:
        warnings += ranges.found()
    return [*faults, *stated.whole_faults(), *file_faults(source)]


def _check_table(
    source: LeRobotDataset, position: int, first_row: int, checks: Sequence[CheckTable]
) -> Iterator[Fault]:
    """Checks the numbers of one episode, and runs `checks` on them."""
    path = source.data_file(position)
    if not path.is_file():
        yield episode_fault(source, position, "data_missing", path, "the parquet file is missing")
        return
    try:
        names = set(pq.read_schema(path).names)
    except (OSError, pa.ArrowException) as error:
        message = f"cannot be read as parquet ({first_line(error)})"
        yield episode_fault(source, position, "data_damaged", path, message)
        return
    wanted = [key for key in source.info["features"] if key not in source.video_keys]
    for key in (key for key in wanted if key not in names):
        message = f"expected column {key!r}, found none of that name"
        yield episode_fault(source, position, "column_missing", path, message)
    try:
        columns = source.read_episode(
            position, [key for key in wanted if key in names and not _is_image(source, key)]
        )
    except DataError as error:
        kind = "length" if "rows (the metadata)" in str(error) else "data_damaged"
        yield episode_fault(source, position, kind, path, str(error).partition(": ")[2])
        return
    for key, values in columns.items():
        yield from _check_values(source, position, path, key, values)
    columns = {key: v for key, v in columns.items() if np.issubdtype(v.dtype, np.number)}
    yield from _check_counters(source, position, path, columns, first_row)
    for check in checks:
        yield from check(position, path, columns)


def _is_image(source: LeRobotDataset, key: str) -> bool:
    return source.info["features"][key]["dtype"] == "image"


def _check_values(
    source: LeRobotDataset, position: int, path: Path, key: str, values: NDArray[Any]
) -> Iterator[Fault]:
    feature = source.info["features"][key]
    if feature["dtype"] in NO_NUMBERS:
        return
    if not np.issubdtype(values.dtype, np.number) and values.dtype != np.bool_:
        message = f"{key}: expected {feature['dtype']}, got {type(values[0]).__name__}"
        yield episode_fault(source, position, "type", path, message)
        return
    expected, width = int(np.prod(feature["shape"])), values[0].size
    if width != expected:
        message = f"{key}: expected {expected} dimensions (info.json), got {width}"
        yield episode_fault(source, position, "shape", path, message)
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        place = tuple(np.argwhere(~np.isfinite(values))[0])
        frame = int(place[0])
        message = f"{key}: frame {frame}: expected a finite value, got {values[place]}"
        yield episode_fault(source, position, "not_finite", path, message, frame)


def _check_counters(
    source: LeRobotDataset,
    position: int,
    path: Path,
    columns: Mapping[str, NDArray[Any]],
    first_row: int,
) -> Iterator[Fault]:
    """Checks times, frame numbers, indices and tasks."""
    length = int(source.lengths[position])
    frames = np.arange(length)
    if "timestamp" in columns:
        times = columns["timestamp"].astype(np.float64).ravel()
        for frame in np.flatnonzero(np.diff(times) <= 0)[:1]:
            message = f"timestamp: frame {frame + 1}: expected a later time than frame {frame}'s"
            yield episode_fault(source, position, "time_order", path, message, int(frame) + 1)
        off = np.abs(times - frames / source.fps) > FRAMES_OFF / source.fps
        for frame in np.flatnonzero(off)[:1]:
            message = (
                f"timestamp: frame {frame}: expected {frame / source.fps:.4f} s, got "
                f"{times[frame]:.4f} s"
            )
            yield episode_fault(source, position, "time", path, message, int(frame))
    expected = {
        "frame_index": frames,
        "episode_index": np.full(length, source.episode_indices[position]),
        "index": frames + first_row,
    }
    for key, values in expected.items():
        found = columns.get(key, values).ravel()
        for frame in np.flatnonzero(found != values)[:1]:
            message = f"{key}: frame {frame}: expected {values[frame]}, got {found[frame]}"
            yield episode_fault(source, position, key, path, message, int(frame))
    tasks = columns.get("task_index", np.zeros(0, np.int64)).ravel()
    for frame in np.flatnonzero(~np.isin(tasks, list(source.tasks)))[:1]:
        message = f"task_index: frame {frame}: expected a known task, got {tasks[frame]}"
        yield episode_fault(source, position, "task_index", path, message, int(frame))


class _UsualSteps:
    """The usual movement of each joint between frames, over the whole dataset."""

    def __init__(self, source: LeRobotDataset) -> None:
        self.source = source
        self.limits: dict[str, NDArray[np.float64]] = {}
        columns = usual_columns(source.info["features"]).values()
        for key in (key for keys in columns for key in keys):
            values = [
                v for i in range(source.num_episodes) if (v := self._read(i, key)) is not None
            ]
            if values and len({v.shape[1] for v in values}) == 1:
                self.limits[key] = self._limit(values)

    def _read(self, position: int, key: str) -> NDArray[Any] | None:
        try:
            values = self.source.read_episode(position, [key])[key]
        except DataError:  # reported with the episode
            return None
        is_good = values.ndim == 2 and np.issubdtype(values.dtype, np.number)
        return values if is_good and np.isfinite(values).all() else None

    @staticmethod
    def _limit(values: list[NDArray[Any]]) -> NDArray[np.float64]:
        steps = np.concatenate([np.abs(np.diff(v, axis=0)) for v in values])
        low, high = np.quantile(np.concatenate(values), [0.01, 0.99], axis=0)
        if not len(steps):
            return np.full(values[0].shape[1], np.inf)
        usual = np.maximum(np.quantile(steps, 0.99, axis=0), 0.01 * (high - low))
        return np.where(usual > 0, JUMP_OVER_USUAL * usual, np.inf)

    def jumps(
        self, position: int, path: Path, columns: Mapping[str, NDArray[Any]]
    ) -> Iterator[Fault]:
        """Yields the first jump of each column of an episode."""
        for key, limit in self.limits.items():
            values = columns.get(key)
            if values is None or values.ndim != 2 or values.shape[1] != len(limit):
                continue
            steps = np.abs(np.diff(values, axis=0))
            for frame, dim in np.argwhere((steps > limit) & np.isfinite(steps))[:1]:
                message = (
                    f"{key}: frame {frame + 1}: dimension {dim} jumps by {steps[frame, dim]:.4g}, "
                    f"{steps[frame, dim] / limit[dim] * JUMP_OVER_USUAL:.0f} times its usual step"
                )
                yield episode_fault(self.source, position, "jump", path, message, int(frame) + 1)


def _check_videos(
    source: LeRobotDataset, position: int, reader: VideoReader | None
) -> Iterator[Fault]:
    for key in source.video_keys:
        segment = source.video(key, position)
        path, length = segment.path, int(source.lengths[position])
        if not path.is_file():
            yield episode_fault(
                source, position, "video_missing", path, "the video file is missing"
            )
            continue
        try:
            facts = video_facts(path)
        except DataError as error:
            message = str(error).partition(": ")[2]
            yield episode_fault(source, position, "video_damaged", path, message)
            continue
        height, width = image_size(source.info["features"][key])
        if (facts.height, facts.width) != (height, width):
            message = f"expected {height}x{width} (info.json), got {facts.height}x{facts.width}"
            yield episode_fault(source, position, "video_size", path, message)
        times = segment.start_s + np.arange(length) / source.fps
        at = np.clip(np.searchsorted(facts.times_s, times), 1, max(len(facts.times_s) - 1, 1))
        near = np.minimum(
            np.abs(facts.times_s[at - 1] - times),
            np.abs(facts.times_s[np.minimum(at, len(facts.times_s) - 1)] - times),
        )
        missing = np.flatnonzero(near > FRAMES_OFF / source.fps)
        if len(missing):
            message = (
                f"{len(missing)} of {length} frames are not in the video; first: frame "
                f"{missing[0]} at {times[missing[0]]:.4f} s"
            )
            yield episode_fault(source, position, "video_frames", path, message, int(missing[0]))
            continue
        # A v3.0 video joins many episodes.
        if isinstance(source, LeRobotV2) and len(facts.times_s) != length:
            message = f"expected {length} frames (the metadata), got {len(facts.times_s)}"
            yield episode_fault(source, position, "video_length", path, message)
        if reader is not None:
            yield from _check_pictures(source, position, reader, path, times)


def _check_pictures(
    source: LeRobotDataset,
    position: int,
    reader: VideoReader,
    path: Path,
    times: NDArray[np.float64],
) -> Iterator[Fault]:
    """Decodes an episode's frames and yields the first that fails."""
    for frame, time_s in enumerate(times):
        try:
            reader.frame(path, float(time_s), FRAMES_OFF / source.fps)
        except DataError as error:
            message = f"frame {frame}: {str(error).partition(': ')[2]}"
            yield episode_fault(source, position, "video_frame", path, message, frame)
            return
