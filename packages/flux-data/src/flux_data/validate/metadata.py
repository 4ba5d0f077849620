"""Checks that a dataset's metadata is consistent: totals, tasks, and the place of each episode."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError

from ..lerobot.dataset import LeRobotDataset, LeRobotV2, LeRobotV3
from ..lerobot.metadata import Row, json_rows, read_table
from .fault import Fault, episode_fault

INDEX_COLUMNS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""The features of every dataset."""

FRAMES_OFF = 0.5
"""The tolerance of times, in frames: a frame farther away is a different one."""


def episode_lines(source: LeRobotDataset) -> list[Row]:
    """Returns the metadata of each episode by position, and the file that holds it.

    Raises:
        DataError: a file cannot be read.
    """
    if isinstance(source, LeRobotV2):
        rows = json_rows(source.root, "episodes.jsonl")
    else:
        folder = source.root / "meta" / "episodes"
        files = sorted(folder.glob("chunk-*/file-*.parquet"))
        rows = [(str(file), row) for file in files for row in read_table(file).to_pylist()]
    return sorted(rows, key=lambda row: row[1]["episode_index"])


def metadata_faults(source: LeRobotDataset, lines: Sequence[Row]) -> Iterator[Fault]:
    """Yields the faults that can be found without opening a data file or a video."""
    yield from _check_features(source)
    yield from _check_totals(source)
    yield from _check_splits(source)
    yield from _check_tasks(source)
    if isinstance(source, LeRobotV3):
        yield from _check_rows(source, lines)
        yield from _check_ends(source, lines)
    for key in source.video_keys:
        yield from _check_overlaps(source, key)


def _check_features(source: LeRobotDataset) -> Iterator[Fault]:
    for key in INDEX_COLUMNS:
        if key not in source.info["features"]:
            message = f"features: expected {key!r}, got {', '.join(source.info['features'])}"
            yield _info_fault(source, "feature_missing", key, message)


def _check_totals(source: LeRobotDataset) -> Iterator[Fault]:
    counts = {
        "total_episodes": source.num_episodes,
        "total_frames": source.num_frames,
        "total_tasks": len(source.tasks),
    }
    if isinstance(source, LeRobotV2):
        counts["total_videos"] = source.num_episodes * len(source.video_keys)
        counts["total_chunks"] = -(-source.num_episodes // source.info["chunks_size"])
    for key, count in counts.items():
        said = source.info.get(key, count)
        if said != count or isinstance(said, bool):  # true would be 1
            message = f"{key}: expected {count}, as listed, got {said}"
            yield _info_fault(source, "total", key, message)


def _check_splits(source: LeRobotDataset) -> Iterator[Fault]:
    """Checks ranges of episodes, `first:end`; values in other forms are not checked."""
    splits = source.info.get("splits")
    for name, text in splits.items() if isinstance(splits, Mapping) else ():
        found = re.fullmatch(r"(\d+):(\d+)", str(text))
        if found and not int(found[1]) <= int(found[2]) <= source.num_episodes:
            message = f"splits.{name}: expected a range within 0:{source.num_episodes}, got {text}"
            yield _info_fault(source, "split", name, message)


def _info_fault(source: LeRobotDataset, kind: str, where: str, message: str) -> Fault:
    path = source.root / "meta" / "info.json"
    return Fault(kind=kind, file=str(path), where=where, message=message)


def _check_tasks(source: LeRobotDataset) -> Iterator[Fault]:
    name = "tasks.jsonl" if isinstance(source, LeRobotV2) else "tasks.parquet"
    path, first = str(source.root / "meta" / name), dict[str, int]()
    for index, task in source.tasks.items():
        if not task.strip():
            message = f"task {index}: expected a text, got none"
            yield Fault(kind="task_text", file=path, where=str(index), message=message)
        elif first.setdefault(task, index) != index:
            message = f"task {index}: expected another text than task {first[task]}, got {task!r}"
            yield Fault(kind="task_twice", file=path, where=str(index), message=message)


def _check_rows(source: LeRobotDataset, lines: Sequence[Row]) -> Iterator[Fault]:
    """Checks which rows of the whole dataset belong to an episode."""
    for position, (file, line) in enumerate(lines):
        first, end = (int(row) for row in source.episode_starts[position : position + 2])
        for key, expected in (("dataset_from_index", first), ("dataset_to_index", end)):
            if line.get(key, expected) != expected:
                message = f"{key}: expected {expected} (the lengths), got {line[key]}"
                yield episode_fault(source, position, key, file, message)


def _check_ends(source: LeRobotDataset, lines: Sequence[Row]) -> Iterator[Fault]:
    """Checks the times at which episodes end in their videos."""
    for position, (file, line) in enumerate(lines):
        for camera in source.video_keys:
            key, end_s = f"videos/{camera}/to_timestamp", _end_s(source, camera, position)
            said = line.get(key, end_s)
            if _is_near(said, end_s, source) or _is_near(
                said, _end_of_last_row_s(source, camera, position), source
            ):
                continue
            message = f"{key}: expected {end_s:.4f} (start and length), got {said}"
            yield episode_fault(source, position, "to_timestamp", file, message)


def _is_near(said: object, end_s: float | None, source: LeRobotDataset) -> bool:
    if end_s is None or not isinstance(said, int | float):
        return False
    return abs(said - end_s) <= FRAMES_OFF / source.fps


def _end_of_last_row_s(source: LeRobotDataset, camera: str, position: int) -> float | None:
    """Returns where the picture of an episode's last row ends, if its rows can be read.

    It is later than the start and the length say if the rows begin late or have gaps.
    """
    try:
        times = source.read_episode(position, ["timestamp"])["timestamp"]
    except DataError:  # a fault of its own
        return None
    return source.video(camera, position).start_s + float(times.ravel()[-1]) + 1 / source.fps


def _end_s(source: LeRobotDataset, camera: str, position: int) -> float:
    return source.video(camera, position).start_s + int(source.lengths[position]) / source.fps


def _check_overlaps(source: LeRobotDataset, camera: str) -> Iterator[Fault]:
    """Finds episodes that begin in a video before the previous one ends."""
    segments = [source.video(camera, position) for position in range(source.num_episodes)]
    last: dict[Path, tuple[float, int]] = {}
    for position in sorted(range(len(segments)), key=lambda i: segments[i].start_s):
        path, start_s = segments[position].path, segments[position].start_s
        end_s, before = last.get(path, (0.0, position))
        if start_s < end_s - FRAMES_OFF / source.fps:
            message = (
                f"{camera}: begins at {start_s:.4f} s, before episode "
                f"{source.episode_indices[before]} ends at {end_s:.4f} s"
            )
            yield episode_fault(source, position, "video_overlap", path, message)
        last[path] = max((end_s, before), (_end_s(source, camera, position), position))


def task_faults(
    source: LeRobotDataset,
    lines: Sequence[Row],
    position: int,
    path: Path,
    columns: Mapping[str, NDArray[Any]],
) -> Iterator[Fault]:
    """Compares the tasks in an episode's metadata with those in its rows."""
    file, line = lines[position]
    done = _texts(source, columns.get("task_index"))
    if "tasks" not in line or not done:
        return
    # GR00T's datasets also list the texts of annotations, which share the tasks' numbers.
    notes = [v for key, v in columns.items() if key.startswith("annotation.")]
    allowed = done.union(*(_texts(source, values) for values in notes))
    stated = line["tasks"]
    if isinstance(stated, list) and done <= {str(text) for text in stated} <= allowed:
        return
    message = f"tasks: expected {sorted(done)} (task_index in {path.name}), got {stated}"
    yield episode_fault(source, position, "episode_tasks", file, message)


def _texts(source: LeRobotDataset, indices: NDArray[Any] | None) -> set[str]:
    """Returns the tasks in a column; none if one is unknown, which is reported elsewhere."""
    found = [source.tasks.get(index) for index in np.unique([] if indices is None else indices)]
    return set() if None in found else {text for text in found if text is not None}
