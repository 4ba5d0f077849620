"""Caches statistics between runs, under a fingerprint of everything they depend on."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flux_core.config import unbind
from flux_core.errors import DataError
from flux_core.norm_stats import NormStats, stats_from_json, stats_to_json
from flux_core.transforms import Transform

from ..lerobot.dataset import LeRobotDataset
from ..whole_file import whole_file

logger = logging.getLogger("flux.data")

VERSION = 4

Kept = TypeVar("Kept")


@dataclass(frozen=True, kw_only=True)
class GroupStatistics:
    """The statistics of a group of datasets by name, and the summary of its data as plain data."""

    stats: NormStats
    summary: Mapping[str, object]


def cached_stats(
    sources: Sequence[LeRobotDataset], settings: object, compute: Callable[[], GroupStatistics]
) -> GroupStatistics:
    """Returns the statistics of an earlier run, or computes and stores them.

    Args:
        sources: the datasets; a changed file changes the fingerprint.
        settings: everything else that the statistics depend on, as plain data or configs.
        compute: computes them.
    """
    path = cache_directory() / f"{fingerprint(sources, settings)}.json"
    found = _read(path, _group_from_json)
    if found is None:
        found = compute()
        _write(path, {**stats_to_json({"stats": found.stats}), "summary": found.summary})
    return found


def cached_cameras(
    sources: Sequence[LeRobotDataset],
    settings: object,
    compute: Callable[[], Mapping[str, object]],
) -> Mapping[str, object]:
    """The same for the summary of the cameras; `settings` must name the state of the videos."""
    path = cache_directory() / f"{fingerprint(sources, ['cameras', settings])}.json"
    found = _read(path, dict[str, object])
    if found is None:
        found = compute()
        _write(path, found)
    return found


def _group_from_json(data: Mapping[str, Any]) -> GroupStatistics:
    stats = stats_from_json({"stats": data["stats"]})["stats"]
    return GroupStatistics(stats=stats, summary={**data["summary"]})


def _read(path: Path, parse: Callable[[dict[str, Any]], Kept]) -> Kept | None:
    """Returns what is stored at `path`, or None if there is nothing or it is damaged."""
    if not path.is_file():
        return None
    try:
        return parse(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, AttributeError, LookupError, DataError) as error:
        logger.warning("%s: is damaged (%s). Computing the statistics again", path, error)
        return None


def _write(path: Path, data: Mapping[str, object]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, "Set XDG_CACHE_HOME") as file:
            file.write(json.dumps(data).encode())
    except (OSError, DataError) as error:
        # This run has them; only the next one has to compute them again.
        logger.warning("the statistics cannot be stored for the next run: %s", error)


def cache_directory() -> Path:
    """Returns `$XDG_CACHE_HOME/flux/stats`, by default in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "flux" / "stats"


def code_of(steps: Sequence[Transform]) -> list[str]:
    """Returns the checksums of custom steps' source files; changed code may give other numbers."""
    files = [inspect.getsourcefile(type(step)) for step in steps if not step.is_ours]
    return [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files if file]


def fingerprint(sources: Sequence[LeRobotDataset], settings: object) -> str:
    """Hashes name, size and time of every metadata and data file, the tasks, and the settings."""
    digest = hashlib.sha256(json.dumps([VERSION, unbind(settings)], sort_keys=True).encode())
    for source in sources:
        metadata = sorted((source.root / "meta").rglob("*"))
        # In the order of the episodes, which determines the file of each.
        files = source.data_files()
        for path in (*metadata, *files):
            if path.is_file():
                stat = path.stat()
                digest.update(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        # Renaming a task to `empty` drops frames, and a copied file may keep its size and time.
        digest.update(repr(sorted(source.tasks.items())).encode())
        digest.update(source.lengths.tobytes())
    return digest.hexdigest()
