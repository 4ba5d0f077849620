"""Reads the rows of any LeRobot dataset as LeRobot pairs them, with pyarrow and PyAV alone.

It shares no code with flux_data, so that it can judge what flux_data wrote: rows by their own
episode_index, pictures by the stamp nearest to the episode's from_timestamp plus the row's time,
and numbers by the tables that they refer to.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from .coded_dataset import ACTION, STATE, Row
from .coded_pictures import BASE, DEPTH_12, Code, code_in

COUNTERS = ("timestamp", "frame_index", "episode_index", "index", "task_index")

Texts = Mapping[int, str]


class Shown(NamedTuple):
    """A decoded video: the stamps in seconds and the pictures' codes."""

    stamps_s: NDArray[np.float64]
    codes: tuple[Code, ...]


def rows_of(root: Path) -> list[Row]:
    """Returns the rows of a dataset by episode and time, each with everything that belongs to it.

    Args:
        root: the dataset, of any version.

    Raises:
        AssertionError: the dataset contradicts itself.
    """
    info = json.loads((root / "meta/info.json").read_text())
    lines, tables = _lines(root), _reference_tables(root, info)
    rows = [row for path in sorted((root / "data").rglob("*.parquet")) for row in _table(path)]
    rows.sort(key=lambda row: (row["episode_index"], row["timestamp"]))
    for episode, line in lines.items():
        count = sum(row["episode_index"] == episode for row in rows)
        assert count == line["length"], f"episode {episode}: {line['length']} rows, got {count}"
    assert {row["episode_index"] for row in rows} == set(lines)
    return [_row(root, info, lines, tables, row) for row in rows]


def _row(
    root: Path,
    info: Mapping[str, Any],
    lines: Mapping[int, Mapping[str, Any]],
    tables: Mapping[str, Texts],
    row: Mapping[str, Any],
) -> Row:
    features, line = info["features"], lines[row["episode_index"]]
    cameras = [key for key, f in features.items() if f["dtype"] in ("video", "image")]
    others = [k for k in features if k not in (STATE, ACTION, *COUNTERS, *cameras, *tables)]
    return Row(
        episode=row["episode_index"],
        state=tuple(row[STATE]),
        action=tuple(row[ACTION]),
        time_s=row["timestamp"],
        task=_text(tables, "task_index", row["task_index"]),
        texts=tuple((k, _text(tables, k, row[k])) for k in tables if k != "task_index"),
        values=tuple((key, row[key]) for key in others),
        pictures=tuple((key, _picture(root, info, line, row, key)) for key in cameras),
    )


def _text(tables: Mapping[str, Texts], key: str, number: int) -> str:
    assert number in tables[key], f"{key}: {number} is not in its table {dict(tables[key])}"
    return tables[key][number]


def _table(path: Path) -> list[dict[str, Any]]:
    return pq.ParquetFile(path).read().to_pylist()


def _lines(root: Path) -> dict[int, dict[str, Any]]:
    """The metadata of each episode."""
    path = root / "meta/episodes.jsonl"
    if path.is_file():
        lines = _json_lines(path)
    else:
        files = sorted((root / "meta/episodes").rglob("*.parquet"))
        lines = [line for file in files for line in _table(file)]
    return {line["episode_index"]: line for line in lines}


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _reference_tables(root: Path, info: Mapping[str, Any]) -> dict[str, Texts]:
    """Returns, for each column that numbers texts, the text of each number."""
    tasks = _texts(root, "tasks", "task_index")
    found = {"task_index": tasks}
    for key in info["features"]:
        if key.startswith("annotation."):
            found[key] = tasks
        elif key.endswith("_index") and key not in COUNTERS:
            found[key] = _texts(root, f"{key.removesuffix('_index')}s", key)
    return found


def _texts(root: Path, name: str, number: str) -> Texts:
    """The table `meta/name.*`; LeRobot stores the text as pandas' index, or in lines by name."""
    path = root / f"meta/{name}.parquet"
    assert path.is_file() or path.with_suffix(".jsonl").is_file(), f"{path} is lost"
    if path.is_file():
        rows = _table(path)
        described = json.loads((pq.read_schema(path).metadata or {}).get(b"pandas", b"{}"))
        indices = [key for key in described.get("index_columns", ()) if isinstance(key, str)]
        names = (*indices, name.removesuffix("s"), "__index_level_0__")
    else:
        rows, names = _json_lines(path.with_suffix(".jsonl")), (name.removesuffix("s"),)
    text = next(key for key in names if key in rows[0])
    assert len({row[number] for row in rows}) == len(rows), f"{path}: a number occurs twice"
    return {row[number]: row[text] for row in rows}


def _picture(
    root: Path,
    info: Mapping[str, Any],
    line: Mapping[str, Any],
    row: Mapping[str, Any],
    key: str,
) -> Code | None:
    if info["features"][key]["dtype"] == "image":
        return _stored(root, row[key])
    episode, start_s = line["episode_index"], 0.0
    place = {"episode_chunk": episode // info.get("chunks_size", 1000), "episode_index": episode}
    if f"videos/{key}/from_timestamp" in line:
        start_s = line[f"videos/{key}/from_timestamp"]
        place = {part: line[f"videos/{key}/{part}"] for part in ("chunk_index", "file_index")}
    path = root / info["video_path"].format(video_key=key, **place)
    return _at(decoded(path), start_s + row["timestamp"], 0.5 / info["fps"])


def _at(shown: Shown, time_s: float, tolerance_s: float) -> Code | None:
    nearest = int(np.argmin(np.abs(shown.stamps_s - time_s)))
    is_near = abs(shown.stamps_s[nearest] - time_s) <= tolerance_s
    return shown.codes[nearest] if is_near else None


def _stored(root: Path, value: Mapping[str, Any]) -> Code:
    data = value["bytes"] or (root / value["path"]).read_bytes()
    image = np.asarray(Image.open(io.BytesIO(data)))
    return code_in(image, BASE if image.ndim == 3 else DEPTH_12)


def decoded(path: Path) -> Shown:
    """Decodes a whole video; its stamps are the file's own, in seconds."""
    return _decoded(path.read_bytes())


@functools.lru_cache(maxsize=4096)
def _decoded(data: bytes) -> Shown:
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(video=0))
    stamps = [float(frame.pts * frame.time_base) for frame in frames]
    return Shown(np.array(stamps), tuple(map(_code_of, frames)))


def _code_of(frame: av.VideoFrame) -> Code:
    if frame.format.name.startswith("gray1"):
        return code_in(frame.to_ndarray(format="gray12le"), DEPTH_12)
    return code_in(frame.to_ndarray(format="rgb24"))


def renumbered(parts: Sequence[Sequence[Row]]) -> list[Row]:
    """Joins the rows of datasets, with the episodes numbered in turn, as a merge does."""
    joined: list[Row] = []
    first = 0
    for rows in parts:
        numbers = {e: first + i for i, e in enumerate(dict.fromkeys(row.episode for row in rows))}
        joined += [row._replace(episode=numbers[row.episode]) for row in rows]
        first += len(numbers)
    return joined
