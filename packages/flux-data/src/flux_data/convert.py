"""LeRobot datasets to LeRobot datasets: other versions, several as one, one as several.

Videos are copied, not encoded again: every pixel stays what it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flux_core.errors import DataError, UsageError

from .episode_stats import ImageStats
from .lerobot import LeRobotDataset, LeRobotV3, open_lerobot
from .lerobot_writer import COUNTERS, WRITERS, Episode
from .process_inputs import decode_image

Advance = Callable[[int, int], None]
"""Called with the episodes that are written, and all of them."""


def convert(
    roots: Sequence[Path], out: Path, version: str, advance: Advance = lambda *_: None
) -> dict[str, Any]:
    """Writes the episodes of one or several datasets, in their order, as one of `version`.

    Raises:
        DataError: they differ in rate, robot or features, or one is damaged.
    """
    sources = [open_lerobot(root) for root in roots]
    _check_alike(sources)
    chosen = [(source, range(source.num_episodes)) for source in sources]
    return _write(chosen, out, version, advance)


def split(
    root: Path,
    out: Path,
    parts: Mapping[str, str],
    *,
    seed: int = 0,
    advance: Advance = lambda *_: None,
) -> dict[str, dict[str, Any]]:
    """Writes disjoint sets of a dataset's episodes to `out`/name.

    Args:
        root: the dataset.
        out: a folder.
        parts: name -> a share like '0.9', of episodes drawn with `seed`, or episodes like '0-39'
            or '3,7,10-12'.
        seed: of the draw.
        advance: called with the episodes that are written, and all of them.
    """
    source = open_lerobot(root)
    positions = choose_parts(source, parts, seed)
    total, done = sum(len(chosen) for chosen in positions.values()), 0
    reports: dict[str, dict[str, Any]] = {}
    for name, chosen in positions.items():
        before = done

        def count(part: int, _: int, before: int = before) -> None:
            advance(before + part, total)

        reports[name] = _write([(source, chosen)], out / name, version_of(source), count)
        done += len(chosen)
    return reports


def version_of(source: LeRobotDataset) -> str:
    """The version a dataset like this one is written as: v2.0 becomes v2.1."""
    return "v3.0" if isinstance(source, LeRobotV3) else "v2.1"


def choose_parts(
    source: LeRobotDataset, parts: Mapping[str, str], seed: int
) -> dict[str, Sequence[int]]:
    """The positions of each part's episodes.

    Raises:
        UsageError: a part cannot be read, is empty, or the parts overlap.
    """
    if all(re.fullmatch(r"0?\.\d+|1(\.0*)?", share) for share in parts.values()):
        return _drawn(source.num_episodes, {k: float(v) for k, v in parts.items()}, seed)
    position_of = {int(index): i for i, index in enumerate(source.episode_indices)}
    chosen: dict[str, Sequence[int]] = {}
    taken: dict[int, str] = {}
    for name, text in parts.items():
        if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
            raise UsageError(f"{name}={text}: expected a share like 0.9 or episodes like 0-39,45")
        indices: list[int] = []
        for piece in text.split(","):
            first, _, last = piece.partition("-")
            indices += range(int(first), int(last or first) + 1)
        for index in indices:
            if index not in position_of:
                raise UsageError(f"{name}={text}: the dataset has no episode {index}")
            if index in taken:
                raise UsageError(f"{name}={text}: episode {index} is in {taken[index]!r} too")
            taken[index] = name
        if not indices:
            raise UsageError(f"{name}={text}: names no episode")
        chosen[name] = [position_of[index] for index in indices]
    return chosen


def _drawn(num_episodes: int, shares: Mapping[str, float], seed: int) -> dict[str, Sequence[int]]:
    if sum(shares.values()) > 1 + 1e-9:
        raise UsageError(f"the shares add up to {sum(shares.values()):g}, expected at most 1")
    order = np.random.default_rng(seed).permutation(num_episodes)
    ends = np.round(np.cumsum(list(shares.values())) * num_episodes).astype(int)
    chosen: dict[str, Sequence[int]] = {}
    for name, first, last in zip(shares, [0, *ends[:-1]], ends, strict=True):
        if first == last:
            raise UsageError(f"{name}={shares[name]:g}: is none of {num_episodes} episodes")
        chosen[name] = sorted(order[first:last].tolist())
    return chosen


def _write(
    chosen: Sequence[tuple[LeRobotDataset, Sequence[int]]],
    out: Path,
    version: str,
    advance: Advance,
) -> dict[str, Any]:
    first = chosen[0][0]
    total, done = sum(len(positions) for _, positions in chosen), 0
    writer = WRITERS[version](
        out,
        fps=first.fps,
        robot_type=first.info.get("robot_type"),
        features=first.info["features"],
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with writer:
        for source, positions in chosen:
            for episode in read_episodes(source, positions):
                writer.add(episode)
                done += 1
                advance(done, total)
    frames = sum(int(source.lengths[list(positions)].sum()) for source, positions in chosen)
    return {"out": str(out), "num_episodes": total, "num_frames": frames}


def _check_alike(sources: Sequence[LeRobotDataset]) -> None:
    first = sources[0]
    for other in sources[1:]:
        pairs: dict[str, tuple[Any, Any]] = {
            "fps": (first.fps, other.fps),
            "robot_type": (first.info.get("robot_type"), other.info.get("robot_type")),
        }
        keys = dict.fromkeys((*first.info["features"], *other.info["features"]))
        for key in keys:
            pairs[f"features.{key}"] = (_kind(first, key), _kind(other, key))
        for name, (expected, found) in pairs.items():
            if expected != found:
                raise DataError(
                    f"{other.root}: {name}: expected {expected} as in {first.root}, got {found}"
                )


def _kind(source: LeRobotDataset, key: str) -> tuple[Any, ...] | None:
    feature = source.info["features"].get(key)
    return None if feature is None else (feature["dtype"], tuple(feature["shape"]))


def read_episodes(source: LeRobotDataset, positions: Sequence[int]) -> Iterator[Episode]:
    """Yields episodes as a writer takes them, with what the dataset says of them."""
    stats, facts = _image_stats(source), _facts(source)
    tables: dict[Path, pa.Table] = {}
    for position in positions:
        path = source.data_file(position)
        if path not in tables:
            tables = {path: pq.read_table(path)}  # one file at a time
        index = int(source.episode_indices[position])
        table = _rows(tables[path], source, position)
        tasks = [_task(source, position, i) for i in table.column("task_index").to_pylist()]
        kept = [k for k in source.info["features"] if k in table.column_names]
        table = _with_own_images(table.select([k for k in kept if k not in COUNTERS]), source)
        yield Episode(
            table=table,
            tasks=tasks,
            videos={key: source.video(key, position) for key in source.video_keys},
            image_stats=stats.get(index, {}) | _picture_stats(source, table, position),
            facts=facts.get(index, {}),
        )


def _rows(table: pa.Table, source: LeRobotDataset, position: int) -> pa.Table:
    index, length = int(source.episode_indices[position]), int(source.lengths[position])
    rows = np.flatnonzero(table.column("episode_index").to_numpy() == index)
    if len(rows) != length:
        raise DataError(
            f"{source.data_file(position)}: episode {index}: expected {length} rows (the "
            f"metadata), got {len(rows)}"
        )
    return table.slice(int(rows[0]), length)


def _task(source: LeRobotDataset, position: int, task_index: int) -> str:
    if task_index not in source.tasks:
        raise DataError(
            f"{source.data_file(position)}: task_index {task_index} is not among the tasks"
        )
    return source.tasks[task_index]


def _image_stats(source: LeRobotDataset) -> dict[int, dict[str, Any]]:
    """Episode index -> what the dataset says of its cameras."""
    features = source.info["features"]
    cameras = [key for key, feature in features.items() if feature["dtype"] in ("video", "image")]
    if isinstance(source, LeRobotV3):
        return {
            int(row["episode_index"]): {
                key: found
                for key in cameras
                if (found := _nested(row, f"stats/{key}/")) is not None
            }
            for row in _episode_rows(source)
        }
    path = source.root / "meta" / "episodes_stats.jsonl"
    if not path.is_file():  # v2.0
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {
        line["episode_index"]: {key: line["stats"][key] for key in cameras if key in line["stats"]}
        for line in lines
    }


def _nested(row: Mapping[str, Any], prefix: str) -> dict[str, Any] | None:
    found = {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}
    return found or None


def _episode_rows(source: LeRobotDataset) -> list[dict[str, Any]]:
    files = sorted((source.root / "meta" / "episodes").glob("chunk-*/file-*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


OWN_KEYS = ("episode_index", "tasks", "length", "dataset_from_index", "dataset_to_index")
OWN_PREFIXES = ("stats/", "videos/", "data/", "meta/")


def _facts(source: LeRobotDataset) -> dict[int, dict[str, Any]]:
    """Episode index -> what else its line says."""
    if isinstance(source, LeRobotV3):
        rows = _episode_rows(source)
    else:
        text = (source.root / "meta" / "episodes.jsonl").read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    return {
        int(row["episode_index"]): {
            k: v for k, v in row.items() if k not in OWN_KEYS and not k.startswith(OWN_PREFIXES)
        }
        for row in rows
    }


def _with_own_images(table: pa.Table, source: LeRobotDataset) -> pa.Table:
    """The table with the bytes of every image, also of those that lie in files beside it."""
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for key, feature in source.info["features"].items():
        if feature["dtype"] != "image":
            continue
        rows = []
        for row in table.column(key).to_pylist():
            data, path = (None, row) if isinstance(row, str) else (row["bytes"], row["path"])
            if data is None and path is not None:
                if not (source.root / path).is_file():
                    raise DataError(f"{source.root / path}: the image file of {key} is missing")
                data = (source.root / path).read_bytes()
            rows.append({"bytes": data, "path": path})
        table = table.set_column(table.column_names.index(key), key, pa.array(rows, struct))
    return table


def _picture_stats(source: LeRobotDataset, table: pa.Table, position: int) -> dict[str, Any]:
    """Statistics of the cameras whose pictures lie in the table."""
    found: dict[str, Any] = {}
    for key in source.image_keys:
        stats = ImageStats()
        column = table.column(key).to_pylist()
        for frame in np.unique(np.linspace(0, len(column) - 1, 100).round().astype(int)):
            where = f"{source.data_file(position)}: {key}, frame {frame}"
            stats.add(decode_image(column[frame]["bytes"], where))
        found[key] = stats.result()
    return found
