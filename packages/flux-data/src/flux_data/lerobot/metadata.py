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
from flux_core.incomplete_file import POINTER, is_lfs_pointer

from ..parquet.arrow import unreadable
from ..video.pixel_formats import is_deep_grey

REQUIRED_INFO = ("fps", "features", "data_path")
CHANNELS = (1, 3, 4)
NO_NUMBERS = ("video", "image", "string", "language", "audio")
"""The dtypes of features that are not numbers; `language` is a list of messages per frame."""

NAMELESS = "__index_level_0__"
"""How parquet files call an index of pandas that has no name."""

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
    if "episode_chunk" in places and not is_count(info.get("chunks_size"), 1):
        got = _short(info.get("chunks_size"))
        raise DataError(f"{path}: chunks_size: expected a whole number above 0, got {got}")
    return cast(Info, info)


def _check_feature(where: str, feature: object) -> None:
    if not isinstance(feature, dict) or not isinstance(feature.get("dtype"), str):
        raise DataError(f"{where}: expected an object with a dtype, got {_short(feature)}")
    shape = feature.get("shape")
    if not isinstance(shape, list) or not all(is_count(size, 1) for size in shape):
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


def is_depth_map(feature: Mapping[str, Any]) -> bool:
    """Whether a video or image holds distances rather than colours.

    LeRobot marks depth in `info`, before in `video_info`, as `is_depth_map` or, before, as
    `video.is_depth_map`. A pixel format with more than 8 bits of grey says it too.
    """
    if feature["dtype"] not in ("video", "image"):
        return False
    places = [feature, feature.get("info"), feature.get("video_info")]
    return any(
        place.get(f"{prefix}is_depth_map") or is_deep_grey(place.get(f"{prefix}pix_fmt"))
        for place in places
        if isinstance(place, Mapping)
        for prefix in ("", "video.")
    )


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
    return file_rows(root / "meta" / name)


def file_rows(path: Path) -> list[Row]:
    """Reads the lines of a file of JSON objects.

    Raises:
        DataError: it is missing, or a line is not a JSON object.
    """
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
        raise unreadable(path, error) from error


def text_rows(path: Path, table: pa.Table, name: str) -> list[Row]:
    """Returns the rows of a table of texts, such as `tasks.parquet`.

    The text is pandas' index: nameless in LeRobot 0.4, called like the table in 0.6. Other columns
    may stand before it.

    Args:
        path: the file, for messages.
        table: its content.
        name: 'task', if `task_index` holds the numbers.

    Raises:
        DataError: no column, or more than one, can be the text.
    """
    index = f"{name}_index"
    if index not in table.column_names:
        names = ", ".join(table.column_names) or "no column"
        raise DataError(f"{path}: expected {index} and the {name}'s text, got {names}")
    texts = table.column(_text_column(path, table, name)).to_pylist()
    return table_rows(path, {index: table.column(index).to_pylist(), name: texts})


def _text_column(path: Path, table: pa.Table, name: str) -> str:
    """Returns the column that holds the texts."""
    metadata = table.schema.metadata or {}
    stated = _parse(metadata.get(b"pandas", b"{}"), f"{path}: the metadata of pandas")
    names = (stated.get("index_columns") or []) if isinstance(stated, dict) else []
    others = [key for key in table.column_names if key != f"{name}_index"]
    known = [key for key in dict.fromkeys([*map(str, names), name, NAMELESS]) if key in others]
    texts = [key for key in known or others if _is_text(table.schema.field(key).type)]
    same = texts[1:] and all(table.column(key).equals(table.column(texts[0])) for key in texts)
    if len(texts) == 1 or same:
        return texts[0]
    raise DataError(
        f"{path}: expected {name}_index and the text in one column called {name!r} or in pandas' "
        f"index, got {', '.join(texts or table.column_names) or 'no column'}"
    )


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def texts_of(rows: Sequence[Row], name: str) -> dict[int, str]:
    """Returns number -> text of a table whose rows have `name`_index and `name`."""
    key = f"{name}_index"
    texts: dict[int, str] = {}
    for where, row in rows:
        index, text = row.get(key), row.get(name)
        if not is_count(index, 0) or not isinstance(text, str):
            raise DataError(f"{where}: expected a {key} and a text, got {_short(row)}")
        if index in texts:
            raise DataError(
                f"{where}: expected each {key} once, got {index} again, after {texts[int(index)]!r}"
            )
        texts[int(index)] = text
    return texts


def order_of_episodes(rows: Sequence[Row]) -> NDArray[np.int64]:
    """Returns the row of each episode, 0, 1, 2 and so on.

    Raises:
        DataError: an episode is missing, occurs twice, or has no frames.
    """
    row_of: dict[int, int] = {}
    for number, (where, row) in enumerate(rows):
        index, length = row.get("episode_index"), row.get("length")
        if not is_count(index, 0) or not is_count(length, 1):
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
        reason = POINTER if is_lfs_pointer(data) else f"a syntax error ({error})"
        raise DataError(f"{where}: expected JSON, got {reason}") from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: object, least: int) -> TypeGuard[int | np.integer[Any]]:
    """Whether a value is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        return False
    return bool(value >= least)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
