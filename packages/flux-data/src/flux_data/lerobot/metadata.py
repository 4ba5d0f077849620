"""Reads and checks a dataset's metadata: readers can rely on its types and ranges."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Required, TypedDict, TypeGuard, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flux_core.errors import DataError

from .arrow import first_line

REQUIRED_INFO = ("fps", "features", "data_path")
CHANNELS = (1, 3, 4)
NO_NUMBERS = ("video", "image", "string")
"""The dtypes of features that are not numbers."""

Row = tuple[str, Mapping[str, Any]]
"""The place of a row of metadata, for messages, and its values."""


class Feature(TypedDict, total=False):
    """A feature as `info.json` describes it; other keys are kept unchanged.

    `shape` is the shape of one frame's value; `names` is a list, a list of lists or a dictionary.
    """

    dtype: Required[str]
    shape: Required[Sequence[int]]
    names: object
    fps: float
    info: Mapping[str, object] | None


class Info(TypedDict, total=False):
    """The keys of `info.json` that are read; a dataset may have more.

    `check_info` refuses a dataset without `video_path` or `chunks_size` if it needs them.
    """

    codebase_version: Required[str]
    fps: Required[float]
    features: Required[dict[str, Feature]]
    data_path: Required[str]
    video_path: Required[str]
    robot_type: str | None
    chunks_size: Required[int]
    splits: Mapping[str, str]


def read_info(root: Path) -> dict[str, Any]:
    """Reads `meta/info.json` of any version.

    Raises:
        DataError: it is missing or is not a JSON object.
    """
    path = root / "meta" / "info.json"
    if not path.is_file():
        raise DataError(f"{path}: not found. Is {str(root)!r} a LeRobot dataset?")
    return json_object(path)


def json_object(path: Path) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Raises:
        DataError: it holds something else.
    """
    value = _parse(path.read_bytes(), str(path))
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected an object, got {_short(value)}")
    return value


def check_info(path: Path, info: Mapping[str, Any], places: Mapping[str, object]) -> Info:
    """Returns `info`; refuses the first key that is missing or unusable.

    Args:
        path: the file, for the message.
        info: its content.
        places: an example value for each name that the path templates may use.
    """
    for key in REQUIRED_INFO:
        if key not in info:
            raise DataError(f"{path}: the key {key!r} is missing")
    if not _is_number(info["fps"]) or not 0 < info["fps"] < math.inf:
        raise DataError(f"{path}: fps: expected a number above 0, got {_short(info['fps'])}")
    if not isinstance(info["features"], dict) or not info["features"]:
        raise DataError(f"{path}: features: expected an object, got {_short(info['features'])}")
    for key, feature in info["features"].items():
        _check_feature(f"{path}: features.{key}", feature)
    has_videos = any(feature["dtype"] == "video" for feature in info["features"].values())
    templates = ("data_path", "video_path") if has_videos else ("data_path",)
    for key in templates:
        _check_template(f"{path}: {key}", info.get(key), places)
    if "episode_chunk" in places and not _is_count(info.get("chunks_size"), 1):
        got = _short(info.get("chunks_size"))
        raise DataError(f"{path}: chunks_size: expected a whole number above 0, got {got}")
    return cast(Info, info)


def _check_feature(where: str, feature: object) -> None:
    if not isinstance(feature, dict) or not isinstance(feature.get("dtype"), str):
        raise DataError(f"{where}: expected an object with a dtype, got {_short(feature)}")
    shape = feature.get("shape")
    if not isinstance(shape, list) or not all(_is_count(size, 1) for size in shape):
        raise DataError(f"{where}.shape: expected a list of whole numbers, got {_short(shape)}")
    if feature["dtype"] in ("video", "image") and len(shape) != 3:
        raise DataError(f"{where}.shape: expected [height, width, channels], got {_short(shape)}")


def _check_template(where: str, template: object, places: Mapping[str, object]) -> None:
    try:
        if isinstance(template, str) and template.format(**places):
            return
    except (LookupError, ValueError, AttributeError):
        pass
    names = ", ".join(places)
    raise DataError(f"{where}: expected a path with some of {names}, got {_short(template)}")


def image_size(feature: Mapping[str, Any]) -> tuple[int, int]:
    """Returns a camera's height and width; some datasets state (channels, height, width)."""
    shape = feature["shape"]
    return tuple(shape[:2]) if shape[2] in CHANNELS else tuple(shape[1:])


def flat_names(names: Any) -> list[str]:
    """Flattens names as LeRobot writes them: a list, a list of lists, or a dictionary of either."""
    if isinstance(names, Mapping):
        if all(isinstance(value, int) for value in names.values()):
            return sorted(names, key=lambda name: names[name])
        names = list(names.values())
    if isinstance(names, list):
        return [label for part in names for label in flat_names(part)]
    return [] if names is None else [str(names)]


def json_rows(root: Path, name: str) -> list[Row]:
    """Reads the lines of a file in `meta`.

    Raises:
        DataError: it is missing, or a line is not a JSON object.
    """
    path = root / "meta" / name
    if not path.is_file():
        raise DataError(f"{path}: not found")
    rows: list[Row] = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if line.strip():
            row = _parse(line, f"{path}:{number}")
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number}: expected an object, got {_short(row)}")
            rows.append((f"{path}:{number}", row))
    return rows


def table_rows(path: Path, columns: Mapping[str, Iterable[Any]]) -> list[Row]:
    """Returns the rows of a parquet file, given its columns."""
    rows = zip(*columns.values(), strict=True)
    return [
        (f"{path}: row {number}", dict(zip(columns, row, strict=True)))
        for number, row in enumerate(rows)
    ]


def read_table(path: Path) -> pa.Table:
    """Reads a whole parquet file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as parquet ({first_line(error)})") from error


def tasks_of(rows: Sequence[Row]) -> dict[int, str]:
    """Returns task_index -> text."""
    tasks: dict[int, str] = {}
    for where, row in rows:
        index, text = row.get("task_index"), row.get("task")
        if not _is_count(index, 0) or not isinstance(text, str):
            raise DataError(f"{where}: expected a task_index and a text, got {_short(row)}")
        if index in tasks:
            raise DataError(
                f"{where}: expected each task_index once, got {index} again, after "
                f"{tasks[int(index)]!r}"
            )
        tasks[int(index)] = text
    return tasks


def order_of_episodes(rows: Sequence[Row]) -> NDArray[np.int64]:
    """Returns the row of each episode, 0, 1, 2 and so on.

    Raises:
        DataError: an episode is missing, occurs twice, or has no frames.
    """
    row_of: dict[int, int] = {}
    for number, (where, row) in enumerate(rows):
        index, length = row.get("episode_index"), row.get("length")
        if not _is_count(index, 0) or not _is_count(length, 1):
            raise DataError(
                f"{where}: expected an episode_index and a length of at least 1, got "
                f"{_short({'episode_index': index, 'length': length})}"
            )
        if index in row_of:
            raise DataError(f"{where}: expected each episode_index once, got {index} again")
        row_of[int(index)] = number
    for expected, index in enumerate(sorted(row_of)):
        if index != expected:
            where = rows[row_of[index]][0]
            raise DataError(f"{where}: expected episode {expected}, got {index}")
    return np.asarray([row_of[index] for index in range(len(row_of))], dtype=np.int64)


def _parse(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise DataError(f"{where}: expected JSON, got a syntax error ({error})") from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object, least: int) -> TypeGuard[int | np.integer[Any]]:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        return False
    return bool(value >= least)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
