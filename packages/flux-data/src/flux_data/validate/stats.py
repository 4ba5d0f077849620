"""Checks the statistics in a dataset's metadata, per episode and of the whole.

Training computes its own from the data, but other programs read these. v2.1 has
`meta/episodes_stats.jsonl`, v3.0 columns of `meta/episodes`, v2.0 and v3.0 `meta/stats.json`;
a dataset may have none. Statistics without a count are not compared with the data: LeRobot v2.0
could sample frames and did not record how many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError

from ..lerobot.dataset import LeRobotDataset, LeRobotV3
from ..lerobot.episode_stats import Stats, column_stats, pooled
from ..lerobot.metadata import NO_NUMBERS, Row, json_object, json_rows
from .fault import Fault, episode_fault

NAMES = ("min", "max", "mean", "std")
RENUMBERED = ("episode_index", "index", "task_index")
"""Counters, whose statistics go stale when episodes are removed or datasets are joined."""

SLACK = 1e-4
"""The rounding of statistics that are written with few digits, relative to the largest value."""

HALF_ULP = 2.0**-24
"""The rounding of one float32 addition, relative to the sum: LeRobot sums in float32."""


class StatedStats:
    """Compares the statistics in the metadata with the rows, one episode after the other."""

    def __init__(self, source: LeRobotDataset, lines: Sequence[Row]) -> None:
        """Reads the stated statistics; `lines` is the metadata of each episode."""
        self._source = source
        self._of_episode: dict[int, Row] = {}
        self._whole: Row | None = None
        self._found: dict[str, list[Stats]] = {}
        self._faults = list(self._read(lines))

    def stated_faults(self) -> Iterator[Fault]:
        """Yields the faults that do not depend on rows: malformed values and wrong episodes."""
        yield from self._faults
        for file, stats in (*self._of_episode.values(), *([self._whole] if self._whole else ())):
            for key, feature in self._source.info["features"].items():
                for fault in _form_faults(stats[key], feature) if key in stats else ():
                    message = f"{key}: {fault}"
                    yield Fault(kind="stats", file=file, where="", message=message)

    def episode_faults(
        self, position: int, path: Path, columns: Mapping[str, NDArray[Any]]
    ) -> Iterator[Fault]:
        """Compares an episode's statistics with its rows, and remembers those of the rows."""
        file, stats = self._of_episode.get(position, (str(path), {}))
        for key, values in columns.items():
            size = int(np.prod(self._source.info["features"][key]["shape"]))
            if key in RENUMBERED or values[0].size != size or not np.isfinite(values).all():
                continue  # reported where values are checked
            found = column_stats(values)
            self._found.setdefault(key, []).append(found)
            for kind, message in self._contradictions(key, stats, found, len(values)):
                yield episode_fault(self._source, position, kind, file, message)

    def whole_faults(self) -> Iterator[Fault]:
        """Compares the whole dataset's statistics with the rows, after the last episode."""
        file, stats = self._whole or ("", {})
        longest = int(self._source.lengths.max())
        for key, parts in self._found.items():
            if len(parts) == self._source.num_episodes:
                for kind, message in self._contradictions(key, stats, pooled(parts), longest):
                    yield Fault(kind=kind, file=file, where="", message=message)

    def _read(self, lines: Sequence[Row]) -> Iterator[Fault]:
        meta = self._source.root / "meta"
        try:
            if isinstance(self._source, LeRobotV3):
                self._of_episode = {
                    position: (file, stats)
                    for position, (file, line) in enumerate(lines)
                    if (stats := _columns_of_stats(line))
                }
            elif (meta / "episodes_stats.jsonl").is_file():
                yield from self._sort(json_rows(self._source.root, "episodes_stats.jsonl"))
            if (meta / "stats.json").is_file():
                self._whole = str(meta / "stats.json"), json_object(meta / "stats.json")
        except DataError as error:
            file, _, message = str(error).partition(": ")
            yield Fault(kind="stats", file=file, where="", message=message)

    def _sort(self, rows: Sequence[Row]) -> Iterator[Fault]:
        """Finds the episode of each line."""
        count = self._source.num_episodes
        for file, row in rows:
            index, stats = row.get("episode_index"), row.get("stats", {})
            if type(index) is not int or not 0 <= index < count or index in self._of_episode:
                message = f"episode_index: expected each of 0 to {count - 1} once, got {index!r}"
                yield Fault(kind="stats_unknown", file=file, where="", message=message)
            elif not isinstance(stats, Mapping):
                self._of_episode[index] = file, {}
                message = f"expected statistics by feature, got {type(stats).__name__}"
                yield Fault(kind="stats", file=file, where="", message=message)
            else:
                self._of_episode[index] = file, stats
        path = self._source.root / "meta" / "episodes_stats.jsonl"
        for position in (p for p in range(count) if p not in self._of_episode):
            message = f"expected a line for episode {position}, found none"
            yield episode_fault(self._source, position, "stats_missing", path, message)

    def _contradictions(
        self, key: str, stated: Mapping[str, Any], found: Stats, num_summed: int
    ) -> Iterator[tuple[str, str]]:
        """Returns the first contradiction of a feature whose statistics are well formed."""
        stats, feature = stated.get(key), self._source.info["features"][key]
        if stats is None or next(_form_faults(stats, feature), None) or "count" not in stats:
            return
        if _numbers(stats["count"]) != [float(found["count"][0])]:
            message = f"{key}: count: expected {found['count'][0]} frames, got {stats['count']}"
            yield "stats_count", message
            return
        for name, (low, high) in _ranges(found, num_summed).items():
            values = np.asarray(_numbers(stats[name]) if name in stats else low)
            for dim in np.flatnonzero((values < low) | (values > high))[:1]:
                message = (
                    f"{key}: {name}: dimension {dim}: expected {low[dim]:.6g} to {high[dim]:.6g} "
                    f"(the data), got {values[dim]:.6g}"
                )
                yield "stats_value", message
                return


def _columns_of_stats(line: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Collects v3.0's columns stats/FEATURE/NAME; a row may lack some."""
    stats: dict[str, dict[str, Any]] = {}
    for column, value in line.items():
        if column.startswith("stats/") and value is not None:
            key, _, name = column.removeprefix("stats/").rpartition("/")
            stats.setdefault(key, {})[name] = value
    return stats


def _ranges(
    found: Stats, num_summed: int
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Returns the range in which each statistic must lie, by dimension.

    Args:
        found: the statistics of the data.
        num_summed: how many float32 values the program that wrote them added one by one.
    """
    low, high, mean, std = (np.asarray(found[k], np.float64) for k in ("min", "max", "mean", "std"))
    size = np.maximum(np.abs(low), np.abs(high))
    slack, lost = SLACK * size + 1e-6, num_summed * HALF_ULP * size
    # The variance is mean(x^2) - mean(x)^2, whose terms lose 1 and 2 times `lost`.
    cancelled = 3 * lost * size
    # Some programs divide by the count, others by the count minus one.
    count = found["count"][0]
    most = np.sqrt(std**2 * count / max(count - 1, 1) + cancelled)
    least = np.sqrt(np.maximum(std**2 - cancelled, 0))
    return {
        "min": (low - slack, low + slack),
        "max": (high - slack, high + slack),
        "mean": (mean - slack - lost, mean + slack + lost),
        "std": (least - slack, most + slack),
    }


def _form_faults(stats: Any, feature: Mapping[str, Any]) -> Iterator[str]:
    """Yields the first fault of a feature that can be found without data."""
    is_image = feature["dtype"] in ("video", "image")
    if not is_image and feature["dtype"] in NO_NUMBERS:
        return
    if not isinstance(stats, Mapping):
        yield f"expected {', '.join(NAMES)}, got {type(stats).__name__}"
        return
    # A camera has one statistic per channel.
    expected = min(feature["shape"][0], feature["shape"][2]) if is_image else None
    size = expected or int(np.prod(feature["shape"]))
    for name in (name for name in NAMES if name in stats):
        values = _numbers(stats[name])
        if values is None:
            yield f"{name}: expected numbers"
            return
        if len(values) != size:
            yield f"{name}: expected {size} dimensions (info.json), got {len(values)}"
            return
        for value in (value for value in values if not np.isfinite(value)):
            yield f"{name}: expected a finite value, got {value}"
            return


def _numbers(value: Any) -> list[float] | None:
    """Flattens a number or nested lists of numbers; None if there is anything else."""
    try:
        return np.asarray(value, dtype=np.float64).ravel().tolist()
    except (TypeError, ValueError):
        return None
