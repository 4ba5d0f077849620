"""Statistics of values that arrive in parts, in constant memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.norm_stats import FeatureStats

TAIL = 0.01
"""The share of values beyond each of the two quantiles, q01 and q99."""

MAX_TAIL_BYTES = 128 << 20
"""The memory for the values of one tail, in all dimensions."""

MIN_ROOM = 4096
"""The values that a tail takes, at least, before it is cut back."""

SPARE = 3
"""Values kept beyond the tail: the quantile lies between two, and its place is rounded."""

SAMPLING_SEED = 0


class RunningStats:
    """Computes what `compute_stats` returns, for values that arrive in parts.

    One pass, constant memory. Mean, standard deviation, minimum, maximum and count are exact
    whatever the number of rows. q01 and q99 equal numpy's up to `exact_rows` rows: 120 million rows
    of 14 float32 dimensions, 2.4 million frames with windows of 50 actions. Beyond that they are
    the quantiles of a random sample of half as many rows, drawn with a fixed seed: whatever the
    distribution, the share of values below them is 0.01 and 0.99 with a standard deviation of
    0.1 / sqrt(rows of the sample), 0.00002 for 14 dimensions.

    Only the outermost hundredth of each dimension is kept: it contains the two quantiles. Values
    that are not finite are counted and left out.
    """

    def __init__(self, dim: int, max_count: int, *, max_tail_bytes: int = MAX_TAIL_BYTES) -> None:
        """Prepares for at most `max_count` rows; `max_tail_bytes` bounds the memory of a tail."""
        self._max_count, self._max_tail_bytes = max_count, max_tail_bytes
        self._rows = 0
        self._count = np.zeros(dim, np.int64)
        self._mean = np.zeros(dim)
        self._squares = np.zeros(dim)
        self._min, self._max = np.full(dim, np.inf), np.full(dim, -np.inf)
        self._tails: _Tails | None = None

    def add(self, values: NDArray[np.floating]) -> None:
        """Adds (rows, dim) values; all parts must have one dtype."""
        if not len(values):
            return
        columns = np.ascontiguousarray(values.T)  # reduced several times faster
        finite = np.isfinite(columns)
        is_whole = bool(finite.all())
        self._add_moments(columns if is_whole else np.where(finite, columns, 0.0), finite)
        low = columns if is_whole else np.where(finite, columns, np.inf)
        high = columns if is_whole else np.where(finite, columns, -np.inf)
        self._min = np.minimum(self._min, low.min(axis=1))
        self._max = np.maximum(self._max, high.max(axis=1))
        if self._tails is None:
            dim = len(self._count)
            self._tails = _Tails(dim, self._max_count, values.dtype, self._max_tail_bytes)
        self._tails.add(columns, finite)

    def _add_moments(self, columns: NDArray[Any], finite: NDArray[np.bool_]) -> None:
        """Adds to mean and squares; values that are not finite are 0 here."""
        data = columns.astype(np.float64)
        count = finite.sum(axis=1)
        mean = data.sum(axis=1) / np.maximum(count, 1)
        data -= mean[:, None]
        if (count < data.shape[1]).any():
            data[~finite] = 0.0
        squares = np.einsum("dr,dr->d", data, data)
        # Combines two sets of values: Chan, Golub and LeVeque (1983), eq. 2.1.
        both, step = np.maximum(self._count + count, 1), mean - self._mean
        self._squares += squares + step**2 * self._count * count / both
        self._mean += step * count / both
        self._count += count
        self._rows += data.shape[1]

    @property
    def num_not_finite(self) -> NDArray[np.int64]:
        """The number of values left out per dimension, (dim,)."""
        return self._rows - self._count

    def upper_quantile(self, tail: float) -> NDArray[np.float64]:
        """Returns the value that a share of `tail`, at most `TAIL`, of the values exceeds, (dim,).

        As exact as q99; NaN for dimensions without finite values.
        """
        assert 0 <= tail <= TAIL
        if self._tails is None:
            return np.full(len(self._count), np.nan)
        return np.where(self._count == 0, np.nan, self._tails.upper(tail))

    def result(self) -> FeatureStats:
        """Returns the statistics; those of a dimension without finite values are NaN."""
        is_empty = self._count == 0
        q01, q99 = (is_empty, is_empty) if self._tails is None else self._tails.quantiles()
        columns = {
            "mean": self._mean,
            "std": np.sqrt(self._squares / np.maximum(self._count, 1)),
            "min": self._min,
            "max": self._max,
            "q01": q01,
            "q99": q99,
        }
        return FeatureStats(
            **{
                name: tuple(float(x) for x in np.where(is_empty, np.nan, column))
                for name, column in columns.items()
            },
            count=self._rows,
        )


def exact_rows(dim: int, dtype: np.dtype[Any], max_tail_bytes: int = MAX_TAIL_BYTES) -> int:
    """Returns up to how many rows the quantiles are exact."""
    # Room for as many new values as are kept.
    kept = max_tail_bytes // (2 * dim * dtype.itemsize)
    return math.floor(max(kept - SPARE, 1) / TAIL)


class _Tails:
    """The smallest and the largest values of each dimension, or of a sample of the rows."""

    def __init__(self, dim: int, max_count: int, dtype: np.dtype[Any], max_bytes: int) -> None:
        # float32 values are kept as such, which loses nothing.
        kind = np.dtype(np.float32 if dtype in (np.float32, np.float16) else np.float64)
        exact = exact_rows(dim, kind, max_bytes)
        # Half as many rows as fit: their number is random.
        self._share = 1.0 if max_count <= exact else exact / max_count / 2
        keep = min(math.ceil(TAIL * min(max_count, exact)) + SPARE, max_count)
        self._low, self._high = _Smallest(dim, keep, kind), _Smallest(dim, keep, kind)
        self._count = np.zeros(dim, np.int64)
        self._rng = np.random.default_rng(SAMPLING_SEED)

    def add(self, columns: NDArray[Any], finite: NDArray[np.bool_]) -> None:
        """Takes (dim, rows) values."""
        if self._share < 1.0:
            chosen = self._rng.random(columns.shape[1]) < self._share
            columns, finite = columns[:, chosen], finite[:, chosen]
        self._count += finite.sum(axis=1)
        for dim, (column, is_finite) in enumerate(zip(columns, finite, strict=True)):
            found = column if is_finite.all() else column[is_finite]
            self._low.add(dim, found[found < self._low.limits[dim]])
            self._high.add(dim, -found[found > -self._high.limits[dim]])

    def quantiles(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns q01 and q99 as numpy does: linear between the two values next to the place."""
        low = self._low.sorted()
        last = np.maximum(self._count - 1, 0)
        dims = np.arange(len(last))
        below, above, weight = _neighbours(TAIL, last)
        return _between(low[dims, below], low[dims, above], weight), self.upper(TAIL)

    def upper(self, tail: float) -> NDArray[np.float64]:
        """Returns the quantile at 1 - `tail`, which is at most `TAIL`."""
        high = -self._high.sorted()
        last = np.maximum(self._count - 1, 0)
        dims = np.arange(len(last))
        below, above, weight = _neighbours(1.0 - tail, last)
        return _between(high[dims, last - below], high[dims, last - above], weight)


def _neighbours(
    share: float, last: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Returns the ranks of the two values next to a quantile, and the weight of the second."""
    place = np.float64(share) * last.astype(np.float64)
    below = np.floor(place).astype(np.int64)
    return below, np.minimum(below + 1, last), place - below


def _between(
    lower: NDArray[np.float64], upper: NDArray[np.float64], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Interpolates with the same roundings as numpy."""
    with np.errstate(invalid="ignore"):  # dimensions without values
        difference = upper - lower
        return np.where(
            weight >= 0.5, upper - difference * (1 - weight), lower + difference * weight
        )


class _Smallest:
    """Keeps the smallest `keep` values of each dimension; `limits` are the largest of these."""

    def __init__(self, dim: int, keep: int, dtype: np.dtype[Any]) -> None:
        self._keep = keep
        self._buffer = np.full((dim, keep + max(keep, MIN_ROOM)), np.inf, dtype)
        self._used = [0] * dim
        self.limits = np.full(dim, np.inf)

    def add(self, dim: int, values: NDArray[Any]) -> None:
        """Takes values below the limit of a dimension."""
        row = self._buffer[dim]
        while len(values):
            used = self._used[dim]
            part, values = values[: len(row) - used], values[len(row) - used :]
            row[used : used + len(part)] = part
            self._used[dim] += len(part)
            if self._used[dim] == len(row):
                row.partition(self._keep - 1)
                self._used[dim] = self._keep
                self.limits[dim] = row[self._keep - 1]

    def sorted(self) -> NDArray[np.float64]:
        """Returns (dim, keep) values, ascending, with infinity in place of missing ones."""
        out = np.full((len(self._buffer), self._keep), np.inf)
        for dim, used in enumerate(self._used):
            values = np.sort(self._buffer[dim, :used])[: self._keep]
            out[dim, : len(values)] = values
        return out
