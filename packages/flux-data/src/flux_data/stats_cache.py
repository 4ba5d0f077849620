"""Statistics kept between runs, under a fingerprint of everything they depend on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from flux_core.config import unbind
from flux_core.norm_stats import NormStats, stats_from_json, stats_to_json

from .lerobot import LeRobotDataset

logger = logging.getLogger("flux.data")

VERSION = 1


def cached_stats(
    sources: Sequence[LeRobotDataset], settings: object, compute: Callable[[], NormStats]
) -> NormStats:
    """Returns the statistics of an earlier run, or computes and keeps them.

    Args:
        sources: the datasets; a changed file of theirs is another fingerprint.
        settings: what else the statistics depend on, as plain data or configs.
        compute: makes them.
    """
    path = cache_directory() / f"{fingerprint(sources, settings)}.json"
    if path.is_file():
        return stats_from_json(json.loads(path.read_text()))["stats"]
    stats = compute()
    partial = path.with_suffix(f".partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(stats_to_json({"stats": stats})))
        os.replace(partial, path)
    except OSError as error:
        # They are at hand; only the next run has to compute them again.
        logger.warning("%s: statistics cannot be kept (%s)", path, error)
    return stats


def cache_directory() -> Path:
    """`$XDG_CACHE_HOME/flux/stats`, by default in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "flux" / "stats"


def fingerprint(sources: Sequence[LeRobotDataset], settings: object) -> str:
    """Name, size and time of every metadata and data file, and the settings."""
    digest = hashlib.sha256(json.dumps([VERSION, unbind(settings)], sort_keys=True).encode())
    for source in sources:
        files = sorted({source.data_file(i) for i in range(source.num_episodes)})
        for path in (source.root / "meta" / "info.json", *files):
            if path.is_file():
                stat = path.stat()
                digest.update(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        digest.update(source.lengths.tobytes())
    return digest.hexdigest()
