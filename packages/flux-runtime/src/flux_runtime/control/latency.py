"""Latency histograms: those of the C++ core, and those of stages timed in Python.

A histogram is plain data: {count, sum_ms, p50_ms, p95_ms, p99_ms, max_ms, counts, edges_ms}.
`counts[i]` values lie in [edges_ms[i], edges_ms[i + 1]); values outside all bins are counted in the
first or last one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

DEFAULT_EDGES_MS: NDArray[np.float64] = np.geomspace(1e-3, 1e4, 141)
"""From 1 us to 10 s, with 20 bins per decade."""
INTERVAL_EDGES_MS: NDArray[np.float64] = np.geomspace(1e-1, 1e5, 1201)
"""From 0.1 ms to 100 s, with 200 bins per decade: 1.2 % wide, because intervals are alike."""
MAX_EXACT = 20_000
"""Samples kept as they are; when there are more, only their counts are kept."""


class Histogram(TypedDict):
    """Counts of one stage's latencies."""

    count: int
    sum_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    counts: list[int]
    edges_ms: list[float]


class RunningHistogram:
    """Collects latencies in bounded memory; percentiles are exact up to `MAX_EXACT` samples."""

    def __init__(self, edges_ms: NDArray[np.float64] = DEFAULT_EDGES_MS) -> None:
        self._edges_ms = edges_ms
        self._samples_ms: list[float] = []
        self._binned: Histogram | None = None

    def add(self, samples_ms: Iterable[float]) -> None:
        """Adds samples."""
        self._samples_ms.extend(samples_ms)
        if len(self._samples_ms) > MAX_EXACT:
            self._binned, self._samples_ms = self.histogram(), []

    def histogram(self) -> Histogram:
        """Returns the histogram of all samples so far."""
        newest = histogram_of(self._samples_ms, self._edges_ms)
        return newest if self._binned is None else merge([self._binned, newest])


class StageTimes:
    """Collects the times of the stages that run in Python."""

    def __init__(self, now_s: Callable[[], float] = time.perf_counter) -> None:
        self._now_s = now_s
        self._stages: dict[str, RunningHistogram] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Adds the time spent inside the `with` block to `stage`."""
        begin = self._now_s()
        yield
        elapsed_ms = (self._now_s() - begin) * 1e3
        self._stages.setdefault(stage, RunningHistogram()).add((elapsed_ms,))

    def histograms(self) -> dict[str, Histogram]:
        """Returns one histogram per stage."""
        return {stage: times.histogram() for stage, times in self._stages.items()}


def histogram_of(
    samples_ms: Sequence[float], edges_ms: NDArray[np.float64] = DEFAULT_EDGES_MS
) -> Histogram:
    """Builds a histogram with the samples' exact percentiles and maximum; 0 without samples."""
    samples, edges = np.asarray(samples_ms, np.float64), edges_ms
    inside = np.clip(samples, edges[0], np.nextafter(edges[-1], 0.0))
    counts, _ = np.histogram(inside, edges)
    p50, p95, p99 = np.percentile(samples, [50, 95, 99]).tolist() if samples.size else (0.0,) * 3
    return Histogram(
        count=int(samples.size),
        sum_ms=float(samples.sum()),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        max_ms=float(samples.max(initial=0.0)),
        counts=counts.tolist(),
        edges_ms=edges.tolist(),
    )


def merge(histograms: Sequence[Histogram]) -> Histogram:
    """Adds histograms with the same edges; percentiles are interpolated within a bin."""
    first = histograms[0]
    if len(histograms) == 1:
        return first
    if any(entry["edges_ms"] != first["edges_ms"] for entry in histograms):
        raise ValueError("edges_ms: expected the same edges in all histograms, got different ones")
    counts = np.sum([entry["counts"] for entry in histograms], axis=0)
    maximum = max(entry["max_ms"] for entry in histograms)
    edges = np.asarray(first["edges_ms"])
    p50, p95, p99 = (percentile(counts, edges, share, maximum) for share in (0.5, 0.95, 0.99))
    return Histogram(
        count=int(counts.sum()),
        sum_ms=sum(entry["sum_ms"] for entry in histograms),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        max_ms=maximum,
        counts=counts.tolist(),
        edges_ms=first["edges_ms"],
    )


def since(before: Histogram | None, now: Histogram) -> Histogram:
    """Returns what a growing histogram has gained; percentiles are interpolated within a bin.

    Args:
        before: an earlier state of the histogram; None if there was none.
        now: its state now.
    """
    if before is None or not before["count"]:
        return now
    counts = np.asarray(now["counts"]) - np.asarray(before["counts"])
    edges = np.asarray(now["edges_ms"])
    used = np.flatnonzero(counts)
    largest = float(edges[used[-1] + 1]) if used.size else 0.0
    maximum = min(largest, now["max_ms"])
    p50, p95, p99 = (percentile(counts, edges, share, maximum) for share in (0.5, 0.95, 0.99))
    return Histogram(
        count=int(counts.sum()),
        sum_ms=now["sum_ms"] - before["sum_ms"],
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        max_ms=maximum,
        counts=counts.tolist(),
        edges_ms=now["edges_ms"],
    )


def percentile(
    counts: NDArray[np.int64], edges_ms: NDArray[np.float64], share: float, maximum_ms: float
) -> float:
    """Returns the value below which `share` of the counts lie, never above `maximum_ms`."""
    total = int(counts.sum())
    if total == 0:
        return 0.0
    cumulative = np.cumsum(counts)
    rank = share * total
    index = int(np.searchsorted(cumulative, rank))
    before = int(cumulative[index]) - int(counts[index])
    inside = (rank - before) / max(int(counts[index]), 1)
    value = edges_ms[index] + inside * (edges_ms[index + 1] - edges_ms[index])
    return float(min(value, maximum_ms))


def merge_stages(per_episode: Sequence[Mapping[str, Histogram]]) -> dict[str, Histogram]:
    """Merges the histograms of several episodes stage by stage."""
    stages = dict.fromkeys(stage for entry in per_episode for stage in entry)
    return {
        stage: merge([entry[stage] for entry in per_episode if stage in entry]) for stage in stages
    }
