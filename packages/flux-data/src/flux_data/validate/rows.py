"""Finds what is wrong with a dataset: every file, count, time, frame and number."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError

from ..lerobot.dataset import LeRobotDataset, open_lerobot
from ..lerobot.metadata import NO_NUMBERS
from ..lerobot.state_action import usual_columns
from ..lerobot.stored_columns import narrowed, number_type
from ..parquet.arrow import footer_of
from .fault import Fault, episode_fault
from .files import file_faults
from .images import image_faults
from .metadata import FRAMES_OFF, episode_lines, metadata_faults, task_faults
from .ranges import RangeWarnings
from .references import ReferenceChecks
from .stats import StatedStats
from .videos import VideoChecks, even_times

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
    references = ReferenceChecks(source)
    faults = [
        *metadata_faults(source, lines),
        *stated.stated_faults(),
        *references.table_faults(),
    ]
    overlapping = {fault.file for fault in faults if fault.kind == "video_overlap"}
    videos = VideoChecks(source, decode=decode, overlapping=overlapping)
    checks = (
        references.episode_faults,
        _UsualSteps(source).jumps,
        functools.partial(task_faults, source, lines),
        stated.episode_faults,
        ranges.add,
    )
    rows = 0
    for position in range(source.num_episodes):
        faults += _check_table(source, position, rows, checks)
        faults += videos.faults(position)
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
        names = footer_of(path).names
    except DataError as error:
        message = str(error).partition(": ")[2]
        yield episode_fault(source, position, "data_damaged", path, message)
        return
    if path != source.stated_file(position):
        message = f"expected its rows in this file (the metadata), which are in {path}"
        yield episode_fault(source, position, "data_file", source.stated_file(position), message)
    for key in source.info["features"]:
        if key not in source.video_keys and key not in names:
            message = f"expected column {key!r}, found none of that name"
            yield episode_fault(source, position, "column_missing", path, message)
    keys = _table_keys(source, names)
    contradiction = ""
    try:
        source.rows(position)
    except DataError as error:
        contradiction = str(error)
    try:
        read = source.read_stated if contradiction else source.read_episode
        columns = read(position, keys)
    except DataError as error:
        kind = "length" if "rows (the metadata)" in str(error) else "data_damaged"
        yield episode_fault(source, position, kind, path, str(error).partition(": ")[2])
        return
    for key, values in columns.items():
        yield from _check_values(source, position, path, key, values)
    columns = {key: v for key, v in columns.items() if np.issubdtype(v.dtype, np.number)}
    found = list(_check_counters(source, position, path, columns, first_row))
    yield from found
    # If the counters are wrong in these rows, their own faults already name the place.
    if contradiction and not {fault.kind for fault in found} & {"episode_index", "frame_index"}:
        message = contradiction.partition(": ")[2]
        yield episode_fault(source, position, "rows", path, message)
    for check in checks:
        yield from check(position, path, columns)


def _table_keys(source: LeRobotDataset, names: Collection[str]) -> list[str]:
    """Returns the features that are neither videos nor images, of those in `names`.

    Every check asks for these, so that an episode is read once.
    """
    features = source.info["features"]
    return [k for k, f in features.items() if f["dtype"] not in ("video", "image") and k in names]


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
        return
    dtype = number_type(feature["dtype"])
    try:
        if dtype is not None:
            narrowed(values, dtype, key, source.fps if key == "timestamp" else None)
    except DataError as error:
        frame = int(str(error).partition(": frame ")[2].partition(":")[0])
        yield episode_fault(source, position, "value", path, str(error), frame)


def _check_counters(
    source: LeRobotDataset,
    position: int,
    path: Path,
    columns: Mapping[str, NDArray[Any]],
    first_row: int,
) -> Iterator[Fault]:
    """Checks times, frame numbers and indices."""
    length = int(source.lengths[position])
    frames = np.arange(length)
    if "timestamp" in columns:
        times = columns["timestamp"].astype(np.float64).ravel()
        for frame in np.flatnonzero(np.diff(times) <= 0)[:1]:
            message = f"timestamp: frame {frame + 1}: expected a later time than frame {frame}'s"
            yield episode_fault(source, position, "time_order", path, message, int(frame) + 1)
        expected_s = even_times(source, times)
        for frame in np.flatnonzero(np.abs(times - expected_s) > FRAMES_OFF / source.fps)[:1]:
            message = (
                f"timestamp: frame {frame}: expected {expected_s[frame]:.4f} s, got "
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


def _is_good(values: NDArray[Any]) -> bool:
    """Whether a column is a vector of finite numbers."""
    is_vector = values.ndim == 2 and np.issubdtype(values.dtype, np.number)
    return is_vector and bool(np.isfinite(values).all())


class _UsualSteps:
    """The usual movement of each joint between frames, over the whole dataset."""

    def __init__(self, source: LeRobotDataset) -> None:
        self.source = source
        self.limits: dict[str, NDArray[np.float64]] = {}
        columns = usual_columns(source.info["features"]).values()
        found: dict[str, list[NDArray[Any]]] = {key: [] for keys in columns for key in keys}
        for position in range(source.num_episodes):
            read = self._read(position)
            for key in (key for key in found if key in read and _is_good(read[key])):
                found[key].append(read[key])
        for key, values in found.items():
            if values and len({v.shape[1] for v in values}) == 1:
                self.limits[key] = self._limit(values)

    def _read(self, position: int) -> Mapping[str, NDArray[Any]]:
        """Returns an episode's columns; none if they cannot be read."""
        try:
            names = footer_of(self.source.data_file(position)).names
            return self.source.read_episode(position, _table_keys(self.source, names))
        except DataError:  # reported with the episode
            return {}

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
