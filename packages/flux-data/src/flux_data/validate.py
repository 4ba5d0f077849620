"""Finds what is wrong with a dataset: every file, count, time, frame and number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flux_core.errors import DataError

from .arrow import first_line
from .lerobot import NO_NUMBERS, LeRobotDataset, open_lerobot
from .metadata import image_size
from .process_inputs import StoredImage
from .stated_stats import stats_faults
from .video_reader import VideoReader, video_facts

INDEX_COLUMNS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
JUMP_OVER_USUAL = 10.0
"""A step so many times larger than 99 of 100 (of at least 1 % of the range) is no motion."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong: its kind, the file, the place within it, and what it is."""

    kind: str
    file: str
    where: str
    message: str


def validate(
    root: Path, *, decode: bool = True, advance: Callable[[int, int], None] = lambda *_: None
) -> list[Fault]:
    """Returns every fault of a dataset, none if it is good.

    Args:
        root: the dataset.
        decode: decode every frame of every video; otherwise only their times are read.
        advance: called with the episodes done and all episodes.
    """
    try:
        source = open_lerobot(root)
    except DataError as error:
        file, _, message = str(error).partition(": ")
        return [Fault(kind="metadata", file=file, where="", message=message)]
    faults = [*_check_totals(source), *_check_stats(source)]
    usual = _UsualSteps(source)
    reader = VideoReader(max_open=len(source.video_keys) or 1) if decode else None
    rows = 0
    for position in range(source.num_episodes):
        faults += _check_table(source, position, rows, usual)
        faults += _check_videos(source, position, reader)
        faults += _check_images(source, position) if decode else ()
        rows += int(source.lengths[position])
        advance(position + 1, source.num_episodes)
    return [*faults, *_check_strangers(source)]


def _check_totals(source: LeRobotDataset) -> Iterator[Fault]:
    path = str(source.root / "meta" / "info.json")
    counts = {
        "total_episodes": source.num_episodes,
        "total_frames": source.num_frames,
        "total_tasks": len(source.tasks),
    }
    for key, count in counts.items():
        said = source.info.get(key, count)
        if said != count:
            message = f"{key}: expected {count}, as listed, got {said}"
            yield Fault(kind="total", file=path, where=key, message=message)
    for task_index, task in source.tasks.items():
        if not str(task).strip():
            message = f"task {task_index} has no text"
            yield Fault(kind="task_text", file=path, where=str(task_index), message=message)


def _check_stats(source: LeRobotDataset) -> Iterator[Fault]:
    for file, message in stats_faults(source):
        yield Fault(kind="stats", file=file, where="", message=message)


def _check_table(
    source: LeRobotDataset, position: int, first_row: int, usual: _UsualSteps
) -> Iterator[Fault]:
    """The numbers of one episode."""
    path = source.data_file(position)
    if not path.is_file():
        yield _fault(source, position, "data_missing", path, "the parquet file is missing")
        return
    try:
        names = set(pq.read_schema(path).names)
    except (OSError, pa.ArrowException) as error:
        message = f"cannot be read as parquet ({first_line(error)})"
        yield _fault(source, position, "data_damaged", path, message)
        return
    wanted = [key for key in source.info["features"] if key not in source.video_keys]
    for key in (key for key in wanted if key not in names):
        yield _fault(source, position, "column_missing", path, f"has no column {key!r}")
    try:
        columns = source.read_episode(
            position, [key for key in wanted if key in names and key not in source.image_keys]
        )
    except DataError as error:
        kind = "length" if "rows (the metadata)" in str(error) else "data_damaged"
        yield _fault(source, position, kind, path, str(error).partition(": ")[2])
        return
    for key, values in columns.items():
        yield from _check_values(source, position, path, key, values)
    columns = {key: v for key, v in columns.items() if np.issubdtype(v.dtype, np.number)}
    yield from _check_counters(source, position, path, columns, first_row)
    yield from usual.jumps(position, path, columns)


def _check_values(
    source: LeRobotDataset, position: int, path: Path, key: str, values: NDArray[Any]
) -> Iterator[Fault]:
    feature = source.info["features"][key]
    if feature["dtype"] in NO_NUMBERS:
        return
    if not np.issubdtype(values.dtype, np.number) and values.dtype != np.bool_:
        message = f"{key}: expected {feature['dtype']}, got {type(values[0]).__name__}"
        yield _fault(source, position, "type", path, message)
        return
    expected, width = int(np.prod(feature["shape"])), values[0].size
    if width != expected:
        message = f"{key}: expected {expected} dimensions (info.json), got {width}"
        yield _fault(source, position, "shape", path, message)
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        place = tuple(np.argwhere(~np.isfinite(values))[0])
        frame, message = int(place[0]), f"{key}: frame {place[0]} holds {values[place]}"
        yield _fault(source, position, "not_finite", path, message, frame)


def _check_counters(
    source: LeRobotDataset,
    position: int,
    path: Path,
    columns: Mapping[str, NDArray[Any]],
    first_row: int,
) -> Iterator[Fault]:
    """Times, frame numbers, indices and tasks."""
    length = int(source.lengths[position])
    frames = np.arange(length)
    if "timestamp" in columns:
        times = columns["timestamp"].astype(np.float64).ravel()
        for frame in np.flatnonzero(np.diff(times) <= 0)[:1]:
            message = f"timestamp: frame {frame + 1} is not later than the one before"
            yield _fault(source, position, "time_order", path, message, int(frame) + 1)
        off = np.abs(times - frames / source.fps) > 0.5 / source.fps
        for frame in np.flatnonzero(off)[:1]:
            message = (
                f"timestamp: frame {frame}: expected {frame / source.fps:.4f} s, got "
                f"{times[frame]:.4f} s"
            )
            yield _fault(source, position, "time", path, message, int(frame))
    expected = {
        "frame_index": frames,
        "episode_index": np.full(length, source.episode_indices[position]),
        "index": frames + first_row,
    }
    for key, values in expected.items():
        found = columns.get(key, values).ravel()
        for frame in np.flatnonzero(found != values)[:1]:
            message = f"{key}: frame {frame}: expected {values[frame]}, got {found[frame]}"
            yield _fault(source, position, key, path, message, int(frame))
    tasks = columns.get("task_index", np.zeros(0, np.int64)).ravel()
    for frame in np.flatnonzero(~np.isin(tasks, list(source.tasks)))[:1]:
        message = f"task_index: frame {frame}: {tasks[frame]} is not among the tasks"
        yield _fault(source, position, "task_index", path, message, int(frame))


class _UsualSteps:
    """How far each joint usually moves between frames, over the whole dataset."""

    def __init__(self, source: LeRobotDataset) -> None:
        self.source = source
        self.limits: dict[str, NDArray[np.float64]] = {}
        for key in ("observation.state", "action"):
            values = [
                v for i in range(source.num_episodes) if (v := self._read(i, key)) is not None
            ]
            if values and len({v.shape[1] for v in values}) == 1:
                self.limits[key] = self._limit(values)

    def _read(self, position: int, key: str) -> NDArray[Any] | None:
        if key not in self.source.info["features"]:
            return None
        try:
            values = self.source.read_episode(position, [key])[key]
        except DataError:  # told where the episode itself is checked
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
        """The first jump of each column of an episode."""
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
                yield _fault(self.source, position, "jump", path, message, int(frame) + 1)


def _check_videos(
    source: LeRobotDataset, position: int, reader: VideoReader | None
) -> Iterator[Fault]:
    for key in source.video_keys:
        segment = source.video(key, position)
        path, length = segment.path, int(source.lengths[position])
        if not path.is_file():
            yield _fault(source, position, "video_missing", path, "the video file is missing")
            continue
        try:
            facts = video_facts(path)
        except DataError as error:
            message = str(error).partition(": ")[2]
            yield _fault(source, position, "video_damaged", path, message)
            continue
        height, width = image_size(source.info["features"][key])
        if (facts.height, facts.width) != (height, width):
            message = f"expected {height}x{width} (info.json), got {facts.height}x{facts.width}"
            yield _fault(source, position, "video_size", path, message)
        times = segment.start_s + np.arange(length) / source.fps
        at = np.clip(np.searchsorted(facts.times_s, times), 1, max(len(facts.times_s) - 1, 1))
        near = np.minimum(
            np.abs(facts.times_s[at - 1] - times),
            np.abs(facts.times_s[np.minimum(at, len(facts.times_s) - 1)] - times),
        )
        missing = np.flatnonzero(near > 0.5 / source.fps)
        if len(missing):
            message = (
                f"{len(missing)} of {length} frames are not in the video; first: frame "
                f"{missing[0]} at {times[missing[0]]:.4f} s"
            )
            yield _fault(source, position, "video_frames", path, message, int(missing[0]))
        elif reader is not None:
            yield from _check_pictures(source, position, reader, path, times)


def _check_pictures(
    source: LeRobotDataset,
    position: int,
    reader: VideoReader,
    path: Path,
    times: NDArray[np.float64],
) -> Iterator[Fault]:
    """Decodes an episode's frames; the first that fails is told."""
    for frame, time_s in enumerate(times):
        try:
            reader.frame(path, float(time_s), 0.5 / source.fps)
        except DataError as error:
            message = f"frame {frame}: {str(error).partition(': ')[2]}"
            yield _fault(source, position, "video_frame", path, message, frame)
            return


def _check_images(source: LeRobotDataset, position: int) -> Iterator[Fault]:
    """Decodes an episode's images; the first of each camera that is wrong is told."""
    path = source.data_file(position)
    for key in source.image_keys:
        try:
            images = source.read_episode(position, [key])[key]
        except DataError as error:
            message = str(error).partition(": ")[2]
            yield _fault(source, position, "image", path, message)
            continue
        for frame, data in enumerate(images):
            message = _image_fault(source, key, StoredImage(data=data, root=source.root, where=key))
            if message:
                yield _fault(source, position, "image", path, message, frame)
                break


def _image_fault(source: LeRobotDataset, key: str, image: StoredImage) -> str:
    try:
        height, width = image.read().shape[:2]
    except DataError as error:
        return str(error)
    expected = image_size(source.info["features"][key])
    if (height, width) == expected:
        return ""
    return f"{key}: expected {expected[0]}x{expected[1]} (info.json), got {height}x{width}"


def _check_strangers(source: LeRobotDataset) -> Iterator[Fault]:
    """Data files that no episode names."""
    known = {source.data_file(position) for position in range(source.num_episodes)}
    for path in sorted((source.root / "data").rglob("*.parquet")):
        if path not in known:
            message = "belongs to no episode of the metadata"
            yield Fault(kind="unknown_file", file=str(path), where="", message=message)


def _fault(
    source: LeRobotDataset,
    position: int,
    kind: str,
    path: Path,
    message: str,
    frame: int | None = None,
) -> Fault:
    where = f"episode {source.episode_indices[position]}"
    if frame is not None:
        where += f", frame {frame}"
    return Fault(kind=kind, file=str(path), where=where, message=message)
