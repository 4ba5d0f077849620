"""Exact statistics of a dataset, one episode at a time."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from flux_core.norm_stats import FeatureStats

TAIL = 0.01
"""The fraction of values beyond each of the two quantiles, q01 and q99."""
MIN_TAIL_BUFFER = 4096


class RunningStats:
    """Computes what `compute_stats` returns, for values that arrive in parts.

    Only the outermost hundredth of each dimension is kept: it contains the two quantiles. Values
    that are not finite are counted and left out.
    """

    def __init__(self, dim: int, max_count: int) -> None:
        """Prepares for at most `max_count` rows."""
        keep = min(math.ceil(TAIL * max_count) + 3, max_count)
        self._low, self._high = _Smallest(dim, keep), _Smallest(dim, keep)
        self._rows = 0
        self._count = np.zeros(dim)
        self._mean = np.zeros(dim)
        self._squares = np.zeros(dim)

    def add(self, values: NDArray[np.float64]) -> None:
        """Adds (rows, dim) values."""
        finite = np.isfinite(values)
        count = finite.sum(axis=0)
        mean = np.where(finite, values, 0.0).sum(axis=0) / np.maximum(count, 1)
        squares = (np.where(finite, values - mean, 0.0) ** 2).sum(axis=0)
        # Combines two sets of values: Chan, Golub and LeVeque (1983), eq. 2.1.
        both, step = np.maximum(self._count + count, 1), mean - self._mean
        self._squares += squares + step**2 * self._count * count / both
        self._mean += step * count / both
        self._count += count
        self._rows += len(values)
        self._low.add(np.where(finite, values, np.inf))
        self._high.add(np.where(finite, -values, np.inf))

    @property
    def num_not_finite(self) -> NDArray[np.int64]:
        """The number of values left out per dimension, (dim,)."""
        return (self._rows - self._count).astype(np.int64)

    def result(self) -> FeatureStats:
        """Returns the statistics; those of a dimension without finite values are NaN."""
        low, high = self._low.sorted(), -self._high.sorted()
        is_empty = self._count == 0
        columns = {
            "mean": self._mean,
            "std": np.sqrt(self._squares / np.maximum(self._count, 1)),
            "min": low[0],
            "max": high[0],
            "q01": self._quantile(low, TAIL, from_top=False),
            "q99": self._quantile(high, 1.0 - TAIL, from_top=True),
        }
        return FeatureStats(
            **{
                name: tuple(float(x) for x in np.where(is_empty, np.nan, column))
                for name, column in columns.items()
            },
            count=self._rows,
        )

    def _quantile(
        self, tail: NDArray[np.float64], share: float, *, from_top: bool
    ) -> NDArray[np.float64]:
        """Returns numpy's quantile: linear between the two values next to `share` of the way."""
        last = np.maximum(self._count.astype(np.int64) - 1, 0)
        place = share * last
        below = np.floor(place).astype(np.int64)
        above = np.minimum(below + 1, last)
        dims = np.arange(len(last))
        if from_top:
            lower, upper = tail[last - below, dims], tail[last - above, dims]
        else:
            lower, upper = tail[below, dims], tail[above, dims]
        with np.errstate(invalid="ignore"):
            return lower + (upper - lower) * (place - below)


class _Smallest:
    """Keeps the smallest `keep` values of each dimension."""

    def __init__(self, dim: int, keep: int) -> None:
        self._keep = keep
        self._buffer = np.full((keep + max(keep, MIN_TAIL_BUFFER), dim), np.inf)
        self._used = keep

    def add(self, values: NDArray[np.float64]) -> None:
        while len(values):
            room = len(self._buffer) - self._used
            part, values = values[:room], values[room:]
            self._buffer[self._used : self._used + len(part)] = part
            self._used += len(part)
            if self._used == len(self._buffer):
                self._buffer.partition(self._keep - 1, axis=0)
                self._used = self._keep

    def sorted(self) -> NDArray[np.float64]:
        """Returns (keep, dim) values, ascending, with infinity in place of missing ones."""
        return np.sort(self._buffer[: self._used], axis=0)[: self._keep]
