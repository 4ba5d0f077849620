"""Carries what no format knows: other files in `meta/`, and other keys of info.json."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..lerobot.dataset import LeRobotDataset, LeRobotV2
from ..lerobot.metadata import is_depth_map
from ..repairable import SoundDataError

logger = logging.getLogger("flux.data")

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
ROOT_FOLDERS = ("meta", "data", "videos", "images", "flux_frames")
"""The folders of a dataset: stored images move into the rows, frame caches are made anew."""


def more_info(sources: Sequence[LeRobotDataset], *, has_same_episodes: bool) -> dict[str, Any]:
    """Returns the other keys of info.json, if all sources agree on them.

    Args:
        sources: the datasets.
        has_same_episodes: whether the new dataset has the episodes of the source under the same
            numbers, so that `splits` stays true.
    """
    parts = [{k: v for k, v in s.info.items() if k not in INFO_KEYS} for s in sources]
    if not has_same_episodes:
        parts = [{k: v for k, v in part.items() if k != "splits"} for part in parts]
    kept = {k: v for k, v in parts[0].items() if all(k in p and p[k] == v for p in parts)}
    lost = [key for key in dict.fromkeys(k for part in parts for k in part) if key not in kept]
    if lost:
        logger.warning(
            "%s: not kept, because the datasets differ in it: %s",
            sources[0].root / "meta" / "info.json",
            ", ".join(lost),
        )
    return kept


def kept_files(
    sources: Sequence[LeRobotDataset],
    version: str,
    handled: Collection[str],
    *,
    has_same_episodes: bool,
) -> Iterator[tuple[str, Path]]:
    """Yields name and path of the files to copy: those of `meta/` that no format knows.

    Args:
        sources: the datasets.
        version: the version that is written.
        handled: the files that are written anew.
        has_same_episodes: as in `more_info`; statistics of the whole dataset then stay true.

    Raises:
        SoundDataError: several datasets are joined, and a file differs or is not in all of them.
    """
    # GR00T's; v2.1 itself has none.
    has_stats = has_same_episodes and version == "v2.1" and isinstance(sources[0], LeRobotV2)
    known = [name for name in META_FILES if name != "stats.json" or not has_stats]
    found = [dict(_more_files(source.root, known, len(sources) == 1)) for source in sources]
    for name in dict.fromkeys(name for files in found for name in files if name not in handled):
        paths = [files.get(name) for files in found]
        if _are_equal(paths):
            yield name, next(path for path in paths if path is not None)
        elif name in ROOT_FILES:
            logger.warning("%s: not copied, because the datasets differ in it", name)
        else:
            there = next(source.root for source, path in zip(sources, paths, strict=True) if path)
            missing = [s.root for s, path in zip(sources, paths, strict=True) if path is None]
            reason = f"it is not in {missing[0]}" if missing else "it differs"
            raise SoundDataError(
                f"{there / name}: expected the same file in all datasets, but {reason}. Only one "
                "that is equal everywhere can be kept; remove it or make it equal"
            )
    for source in sources:
        _tell_of_others(source)


def _are_equal(paths: Sequence[Path | None]) -> bool:
    if None in paths:
        return False
    contents = {path.read_bytes() for path in paths if path is not None}
    return len(contents) == 1


def _more_files(root: Path, known: Collection[str], is_single: bool) -> Iterator[tuple[str, Path]]:
    meta = root / "meta"
    paths = [root / name for name in ROOT_FILES]
    paths += [p for p in sorted(meta.rglob("*")) if p.relative_to(meta).parts[0] not in known]
    for path in paths:
        if path.is_file() and (is_single or not path.name.startswith(".")):
            yield str(path.relative_to(root)), path


def _tell_of_others(source: LeRobotDataset) -> None:
    """Names the folders and files beside `meta/` that no dataset has; hidden ones are tools'."""
    others = [
        path.name
        for path in sorted(source.root.iterdir())
        if path.name not in (*ROOT_FOLDERS, *ROOT_FILES) and not path.name.startswith(".")
    ]
    if others:
        logger.warning("%s: not copied: %s", source.root, ", ".join(others))


def merged_feature(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what datasets agree on about a feature of the same dtype and shape."""
    merged = dict(parts[0])
    for feature in parts[1:]:
        merged["names"] = merged.get("names") or feature.get("names")
        for name in ("info", "video_info"):
            ours, theirs = merged.get(name), feature.get(name)
            if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
                merged[name] = {k: v for k, v in ours.items() if theirs.get(k, ...) == v}
    if is_depth_map(parts[0]) and not is_depth_map(merged):  # each has its own mark of depth
        merged["info"] = {**(merged.get("info") or {}), "is_depth_map": True}
    return merged
