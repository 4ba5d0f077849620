"""Converts LeRobot datasets to other versions, merges several into one, and splits one.

Videos are copied without encoding them again, so no pixel changes.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flux_core.errors import DataError, UsageError

from ..lerobot.dataset import LeRobotDataset, LeRobotV3, open_lerobot
from ..lerobot.metadata import flat_names
from ..lerobot.new_folder import check_new, missing_folders, remove_empty
from ..lerobot.stored_columns import is_numeric
from ..lerobot.writer import WRITERS
from .source_episodes import read_episodes

INFO_KEYS = (
    *("codebase_version", "robot_type", "fps", "features", "data_path", "video_path"),
    *("total_episodes", "total_frames", "total_tasks", "total_videos", "total_chunks"),
    *("chunks_size", "data_files_size_in_mb", "video_files_size_in_mb"),
)
"""The keys of info.json that a writer computes."""

META_FILES = ("info.json", "stats.json", "episodes_stats.jsonl")
META_FILES += ("tasks.jsonl", "tasks.parquet", "episodes.jsonl", "episodes")
"""The files in `meta/` of any version that a writer computes."""

ROOT_FILES = ("README.md", "LICENSE")

SHARE = r"0?\.\d+|1\.0*"
"""A share needs a decimal point, because a whole number is an episode."""

Advance = Callable[[int, int], None]
"""Called with the number of episodes written so far, and the number of all."""


def convert(
    roots: Sequence[Path], out: Path, version: str, advance: Advance = lambda *_: None
) -> dict[str, Any]:
    """Writes the episodes of one or several datasets, in order, as one dataset of `version`.

    A single dataset keeps its other keys of info.json, other files in `meta/` and its README.

    Raises:
        DataError: the datasets differ in rate, robot or features, or one is damaged.
    """
    sources = [open_lerobot(root) for root in roots]
    _check_alike(sources)
    chosen = [(source, range(source.num_episodes)) for source in sources]
    whole = sources[0] if len(sources) == 1 else None
    return _write(chosen, out, version, advance, whole)


def split(
    root: Path,
    out: Path,
    parts: Mapping[str, str],
    *,
    seed: int = 0,
    advance: Advance = lambda *_: None,
) -> dict[str, dict[str, Any]]:
    """Writes disjoint sets of a dataset's episodes to `out`/name; after an error none is left.

    Args:
        root: the dataset.
        out: the folder for the parts.
        parts: name -> a share like '0.9' of the episodes, drawn with `seed`, or episodes like
            '0-39' or '3,7,10-12'.
        seed: seed of the random draw.
        advance: called with the number of episodes written so far, and the number of all.
    """
    source = open_lerobot(root)
    positions = choose_parts(source, parts, seed)
    total, done = sum(len(chosen) for chosen in positions.values()), 0
    for name in positions:
        check_new(out / name)
    reports: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as undo:
        undo.callback(remove_empty, missing_folders(out))
        for name, chosen in positions.items():
            before = done

            def count(part: int, _: int, before: int = before) -> None:
                advance(before + part, total)

            reports[name] = _write([(source, chosen)], out / name, version_of(source), count)
            undo.callback(shutil.rmtree, out / name, ignore_errors=True)
            done += len(chosen)
        undo.pop_all()
    return reports


def version_of(source: LeRobotDataset) -> str:
    """Returns the version to write for a dataset of this version: v2.0 becomes v2.1."""
    return "v3.0" if isinstance(source, LeRobotV3) else "v2.1"


def choose_parts(
    source: LeRobotDataset, parts: Mapping[str, str], seed: int
) -> dict[str, Sequence[int]]:
    """Returns the positions of each part's episodes.

    Raises:
        UsageError: a part is malformed or empty, or parts overlap.
    """
    others = [name for name, text in parts.items() if not re.fullmatch(SHARE, text)]
    if not others:
        return _drawn(source.num_episodes, {k: float(v) for k, v in parts.items()}, seed)
    if len(others) < len(parts):
        text = f"{others[0]}={parts[others[0]]}"
        raise UsageError(f"{text}: expected a share like 0.9, as other parts have")
    position_of = {int(index): i for i, index in enumerate(source.episode_indices)}
    chosen: dict[str, Sequence[int]] = {}
    taken: dict[int, str] = {}
    for name, text in parts.items():
        indices = _indices(f"{name}={text}", text, max(position_of))
        for index in indices:
            if index not in position_of:
                raise UsageError(f"{name}={text}: expected existing episodes, got {index}")
            if index in taken:
                raise UsageError(
                    f"{name}={text}: expected disjoint parts, got episode {index} of "
                    f"{taken[index]!r} again"
                )
            taken[index] = name
        chosen[name] = [position_of[index] for index in indices]
    return chosen


def _indices(where: str, text: str, largest: int) -> list[int]:
    """Returns the episodes, at least one, that a text like '3,7,10-12' names."""
    if not re.fullmatch(r"\d{1,18}(-\d{1,18})?(,\d{1,18}(-\d{1,18})?)*", text):
        raise UsageError(f"{where}: expected a share like 0.9 or episodes like 0-39,45")
    indices: list[int] = []
    for piece in text.split(","):
        first, _, last = piece.partition("-")
        if int(last or first) > largest:  # before building a possibly huge list
            raise UsageError(
                f"{where}: expected episodes up to {largest}, the last, got {int(last or first)}"
            )
        indices += range(int(first), int(last or first) + 1)
    if not indices:
        raise UsageError(f"{where}: expected at least one episode, got none")
    return indices


def _drawn(num_episodes: int, shares: Mapping[str, float], seed: int) -> dict[str, Sequence[int]]:
    if sum(shares.values()) > 1 + 1e-9:
        raise UsageError(
            f"shares: expected a sum of at most 1, got {sum(shares.values()):g}. Lower one of them"
        )
    order = np.random.default_rng(seed).permutation(num_episodes)
    ends = np.round(np.cumsum(list(shares.values())) * num_episodes).astype(int)
    chosen: dict[str, Sequence[int]] = {}
    for name, first, last in zip(shares, [0, *ends[:-1]], ends, strict=True):
        if first == last:
            raise UsageError(
                f"{name}={shares[name]:g}: expected at least one of {num_episodes} episodes, got "
                "none. Raise the share"
            )
        chosen[name] = sorted(order[first:last].tolist())
    return chosen


def _write(
    chosen: Sequence[tuple[LeRobotDataset, Sequence[int]]],
    out: Path,
    version: str,
    advance: Advance,
    whole: LeRobotDataset | None = None,
) -> dict[str, Any]:
    """Writes the episodes; `whole` is the dataset if they are exactly all of its episodes."""
    first = chosen[0][0]
    total, done = sum(len(positions) for _, positions in chosen), 0
    writer = WRITERS[version](
        out,
        fps=first.fps,
        robot_type=first.info.get("robot_type"),
        features=first.info["features"],
        more_info=_more_info(whole) if whole else None,
    )
    with writer:
        for name, path in _more_files(whole.root) if whole else ():
            writer.keep(path, name)
        for source, positions in chosen:
            for episode in read_episodes(source, positions):
                writer.add(episode)
                done += 1
                advance(done, total)
    frames = sum(int(source.lengths[list(positions)].sum()) for source, positions in chosen)
    return {"out": str(out), "num_episodes": total, "num_frames": frames}


def _more_info(source: LeRobotDataset) -> dict[str, Any]:
    """Returns the other keys of info.json, including `splits`: episode numbers do not change."""
    return {key: value for key, value in source.info.items() if key not in INFO_KEYS}


def _more_files(root: Path) -> Iterator[tuple[str, Path]]:
    """Yields name and path of the files that are not part of LeRobot's format."""
    meta = root / "meta"
    paths = [root / name for name in ROOT_FILES]
    paths += [p for p in sorted(meta.rglob("*")) if p.relative_to(meta).parts[0] not in META_FILES]
    for path in paths:
        if path.is_file():
            yield str(path.relative_to(root)), path


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
                    f"{other.root}: {name}: expected {expected}, as in {first.root}, got {found}"
                )
        for key in keys:
            _check_names(first, other, key)


def _kind(source: LeRobotDataset, key: str) -> tuple[Any, ...] | None:
    feature = source.info["features"].get(key)
    return None if feature is None else (feature["dtype"], tuple(feature["shape"]))


def _check_names(first: LeRobotDataset, other: LeRobotDataset, key: str) -> None:
    """Refuses joints with different names; a dataset may be without names."""
    expected, found = _names(first, key), _names(other, key)
    for dim, (ours, theirs) in enumerate(zip(expected, found, strict=False)):
        if ours != theirs:
            raise DataError(
                f"{other.root}: features.{key}: dimension {dim}: expected {ours!r}, as in "
                f"{first.root}, got {theirs!r}. If they mean the same, rename it in meta/info.json"
            )


def _names(source: LeRobotDataset, key: str) -> list[str]:
    """Returns the name of each dimension; () for cameras, and if the number of names differs."""
    feature = source.info["features"][key]
    names = flat_names(feature.get("names"))
    return names if is_numeric(feature) and [len(names)] == feature["shape"] else []
