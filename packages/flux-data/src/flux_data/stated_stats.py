"""Checks the statistics that a dataset states: `meta/episodes_stats.jsonl` or `meta/stats.json`.

Training computes its own from the data; other programs read these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from flux_core.errors import DataError

from .lerobot import NO_NUMBERS, LeRobotDataset
from .metadata import Row, json_object, json_rows

NAMES = ("min", "max", "mean", "std")


def stats_faults(source: LeRobotDataset) -> Iterator[tuple[str, str]]:
    """Yields where a statistic is wrong, and what it is; a dataset may have none."""
    try:
        rows = list(_rows(source))
    except DataError as error:
        where, _, message = str(error).partition(": ")
        yield where, message
        return
    for where, stats in rows:
        if not isinstance(stats, Mapping):
            yield where, f"expected statistics by feature, got {type(stats).__name__}"
            continue
        for key, feature in source.info["features"].items():
            if key in stats:
                yield from ((where, f"{key}: {fault}") for fault in _faults(stats[key], feature))


def _rows(source: LeRobotDataset) -> Iterator[Row]:
    meta = source.root / "meta"
    if (meta / "episodes_stats.jsonl").is_file():
        for where, row in json_rows(source.root, "episodes_stats.jsonl"):
            yield where, row.get("stats", {})
    if (meta / "stats.json").is_file():
        yield str(meta / "stats.json"), json_object(meta / "stats.json")


def _faults(stats: Any, feature: Mapping[str, Any]) -> Iterator[str]:
    """The first fault of a feature."""
    is_image = feature["dtype"] in ("video", "image")
    if not is_image and feature["dtype"] in NO_NUMBERS:
        return
    if not isinstance(stats, Mapping):
        yield f"expected {', '.join(NAMES)}, got {type(stats).__name__}"
        return
    # A camera has one statistic a channel.
    expected = min(feature["shape"][0], feature["shape"][2]) if is_image else None
    size = expected or int(np.prod(feature["shape"]))
    for name in (name for name in NAMES if name in stats):
        try:
            values = np.asarray(stats[name], dtype=np.float64)
        except (TypeError, ValueError):
            yield f"{name}: expected numbers"
            return
        if values.size != size:
            yield f"{name}: expected {size} dimensions (info.json), got {values.size}"
            return
        if not np.isfinite(values).all():
            yield f"{name}: holds {values[~np.isfinite(values)][0]}"
            return
