"""Reads a LeRobot dataset's episodes for a writer, with the checks that the loader makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flux_core.errors import DataError

from ..lerobot.dataset import (
    LeRobotDataset,
    LeRobotV3,
    VideoSegment,
    check_ascending,
    check_values,
)
from ..lerobot.episode_stats import ImageStats, is_complete
from ..lerobot.metadata import NO_NUMBERS, json_rows, read_table
from ..lerobot.writer import COUNTERS, Episode
from ..parquet.arrow import first_line, to_array
from ..pictures.stored_image import decode_image
from .source_videos import SourceVideos

OWN_KEYS = ("episode_index", "length", "dataset_from_index", "dataset_to_index")
OWN_PREFIXES = ("stats/", "videos/", "data/", "meta/")

Renumber = Callable[[str, NDArray[Any], str], NDArray[Any]]
"""Called with a column, its numbers and its place."""

ReencodeVideos = Callable[[LeRobotDataset, str, int, SourceVideos], VideoSegment]
"""Called with a dataset, a camera, the position of an episode, and the dataset's videos."""

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def read_episodes(
    source: LeRobotDataset,
    positions: Sequence[int],
    *,
    renumber: Renumber = lambda name, numbers, where: numbers,
    types: Mapping[str, pa.DataType] = MappingProxyType({}),
    reencode: ReencodeVideos | None = None,
) -> Iterator[Episode]:
    """Yields episodes for a writer, with their statistics and other metadata.

    Args:
        source: the dataset.
        positions: its episodes, in the order in which to yield them.
        renumber: returns the numbers of a column in the tables of the dataset that is written.
        types: the type of columns that may have several.
        reencode: writes new videos; default: the videos are to be copied.

    Raises:
        DataError: a file or column is missing or damaged, a value is not finite, times do not
            ascend, or rows and pictures contradict each other.
    """
    stats, facts = _image_stats(source), _facts(source)
    videos = SourceVideos(source)
    tables: dict[Path, pa.Table] = {}
    for position in positions:
        index, spans = int(source.episode_indices[position]), source.rows(position)
        for path in (span.path for span in spans if span.path not in tables):
            tables[path] = _read_table(source, path)
        tables = {span.path: tables[span.path] for span in spans}  # few files at a time
        rows = _one_table(
            [tables[span.path].slice(span.first, span.length) for span in spans], source
        )
        table = rows.select([k for k in _stored_keys(source) if k not in COUNTERS])
        _check_numbers(table, source, position)
        table = _with_own_images(table, source, position)
        for key, kind in types.items():
            at = table.column_names.index(key)
            table = table.set_column(at, key, table.column(key).cast(kind))
        where = source.where(position)
        for key in table.column_names:
            table = _renumbered(table, key, renumber, f"{where}, {key}")
        facts_here = dict(facts.get(index, {}))
        tasks, stated = _tasks(rows, source, position), facts_here.pop("tasks", None)
        yield Episode(
            table=table,
            tasks=tasks,
            task_index=renumber("task_index", _numbers(rows, "task_index"), where),
            frame_index=_numbers(rows, "frame_index")
            if "frame_index" in rows.schema.names
            else None,
            stated_tasks=_stated(stated, tasks),
            where=where,
            videos={
                key: _video(source, key, position, videos, reencode) for key in source.video_keys
            },
            image_stats=stats.get(index, {}) | _picture_stats(source, table, position),
            is_temporary=reencode is not None,
            facts=facts_here,
        )


def _numbers(rows: pa.Table, key: str) -> NDArray[np.int64]:
    return to_array(rows.column(key), key).ravel().astype(np.int64)


def _renumbered(table: pa.Table, key: str, renumber: Renumber, where: str) -> pa.Table:
    """Replaces a column of numbers that stand for texts, if their numbers change."""
    column = table.column(key)
    if not pa.types.is_integer(column.type):
        return table
    old = to_array(column, where)
    new = renumber(key, old, where)
    if np.array_equal(old, new):
        return table
    return table.set_column(table.column_names.index(key), key, pa.array(new))


def _stated(stated: object, tasks: Sequence[str]) -> list[str] | None:
    """Returns the tasks that the metadata lists, if they include those of the frames.

    GR00T's datasets also list the texts of annotations.
    """
    if isinstance(stated, list) and {*tasks} <= {str(text) for text in stated}:
        return [str(text) for text in stated]
    return None


def _video(
    source: LeRobotDataset,
    key: str,
    position: int,
    videos: SourceVideos,
    reencode: ReencodeVideos | None,
) -> VideoSegment:
    if reencode is not None:
        return reencode(source, key, position, videos)
    videos.check(key, position)
    return source.video(key, position)


def _stored_keys(source: LeRobotDataset) -> list[str]:
    """Returns the columns that the files must have; `index` is computed anew."""
    keys = [key for key in source.info["features"] if key not in (*COUNTERS, *source.video_keys)]
    return list(dict.fromkeys([*keys, "timestamp", "episode_index", "task_index"]))


def _read_table(source: LeRobotDataset, path: Path) -> pa.Table:
    table = read_table(path)
    for key in _stored_keys(source):
        if key not in table.column_names:
            names = ", ".join(table.column_names)
            raise DataError(f"{path}: expected column {key!r}, got {names}")
    return table


def _one_table(parts: Sequence[pa.Table], source: LeRobotDataset) -> pa.Table:
    """Returns the rows of an episode that may be split over files."""
    try:
        return pa.concat_tables(parts)
    except pa.ArrowException as error:
        raise DataError(
            f"{source.root}: expected the same columns in all data files ({first_line(error)})"
        ) from error


def _check_numbers(table: pa.Table, source: LeRobotDataset, position: int) -> None:
    """Checks what the loader checks, so that everything copied can be loaded."""
    for key in table.column_names:
        feature = source.info["features"].get(key)
        if feature is None or feature["dtype"] in NO_NUMBERS:
            continue
        where = f"{source.where(position)}, {key}"
        values = to_array(table.column(key), where)
        check_values(values, feature, where)
        if key == "timestamp":
            check_ascending(values, where)


def _tasks(rows: pa.Table, source: LeRobotDataset, position: int) -> list[str]:
    """Returns the task text of each frame."""
    path = source.data_file(position)
    indices = to_array(rows.column("task_index"), f"{path}: task_index").ravel().tolist()
    for index in indices:
        if index not in source.tasks:
            raise DataError(f"{path}: task_index: expected a task of the metadata, got {index}")
    return [source.tasks[index] for index in indices]


def _image_stats(source: LeRobotDataset) -> dict[int, dict[str, Any]]:
    """Returns episode index -> the complete statistics that the dataset has of its cameras."""
    channels = {
        key: min(feature["shape"][0], feature["shape"][2])
        for key, feature in source.info["features"].items()
        if feature["dtype"] in ("video", "image")
    }
    found: dict[int, dict[str, Any]] = {}
    for index, stats in _stated_stats(source, tuple(channels)):
        found[index] = {
            key: stats[key] for key in channels if is_complete(stats.get(key), channels[key])
        }
    return found


def _stated_stats(
    source: LeRobotDataset, cameras: Sequence[str]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if isinstance(source, LeRobotV3):
        for row in _episode_rows(source):
            yield int(row["episode_index"]), {k: _nested(row, f"stats/{k}/") for k in cameras}
        return
    if not (source.root / "meta" / "episodes_stats.jsonl").is_file():  # v2.0
        return
    for where, row in json_rows(source.root, "episodes_stats.jsonl"):
        index, stats = row.get("episode_index"), row.get("stats")
        if not isinstance(index, int):
            raise DataError(f"{where}: expected an episode_index, got {index!r}")
        yield index, stats if isinstance(stats, Mapping) else {}


def _nested(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}


def _episode_rows(source: LeRobotDataset) -> list[dict[str, Any]]:
    files = sorted((source.root / "meta" / "episodes").glob("chunk-*/file-*.parquet"))
    return [row for file in files for row in read_table(file).to_pylist()]


def _facts(source: LeRobotDataset) -> dict[int, dict[str, Any]]:
    """Returns episode index -> the other facts in its line of metadata."""
    if isinstance(source, LeRobotV3):
        rows: list[Mapping[str, Any]] = [*_episode_rows(source)]
    else:
        rows = [row for _, row in json_rows(source.root, "episodes.jsonl")]
    return {
        int(row["episode_index"]): {
            k: v for k, v in row.items() if k not in OWN_KEYS and not k.startswith(OWN_PREFIXES)
        }
        for row in rows
    }


def _with_own_images(table: pa.Table, source: LeRobotDataset, position: int) -> pa.Table:
    """Returns the table with all images as bytes, including those stored in separate files."""
    for key, feature in source.info["features"].items():
        if feature["dtype"] != "image":
            continue
        rows = [
            _image(row, source.root, f"{source.where(position)}, {key}, frame {frame}")
            for frame, row in enumerate(table.column(key).to_pylist())
        ]
        table = table.set_column(table.column_names.index(key), key, pa.array(rows, IMAGE))
    return table


def _image(row: object, root: Path, where: str) -> dict[str, Any]:
    """Converts one image to {bytes, path}, from that form, from bytes or from a path."""
    data, path = (row.get("bytes"), row.get("path")) if isinstance(row, Mapping) else (row, None)
    if isinstance(data, str):
        data, path = None, data
    path = path if isinstance(path, str) else None
    if data is None and path is not None:
        if not (root / path).is_file():
            raise DataError(f"{where}: the image file {root / path} is missing")
        data = (root / path).read_bytes()
    if not isinstance(data, bytes):
        raise DataError(f"{where}: expected an image {{bytes, path}}, got {row!r:.80}")
    return {"bytes": data, "path": path}


def _picture_stats(source: LeRobotDataset, table: pa.Table, position: int) -> dict[str, Any]:
    """Computes statistics of the cameras whose images are in the table."""
    found: dict[str, Any] = {}
    for key in source.image_keys:
        stats = ImageStats()
        column, shape = table.column(key).to_pylist(), source.info["features"][key]["shape"]
        for frame in np.unique(np.linspace(0, len(column) - 1, 100).round().astype(int)):
            where = f"{source.data_file(position)}: {key}, frame {frame}"
            picture = decode_image(column[frame]["bytes"], where)
            stats.add(_with_channels(picture, min(shape[0], shape[2])))
        found[key] = stats.result()
    return found


def _with_channels(picture: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Returns an RGB picture with the channels that info.json states: 1 is grey, 4 opaque."""
    opaque = np.full((*picture.shape[:2], 1), 255, np.uint8)
    return np.concatenate((picture, opaque), axis=2)[:, :, :channels]
