"""Statistics in parts: exact while the tails fit, and within the stated bound beyond that."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from flux_core.norm_stats import compute_stats
from flux_data.lerobot.statistics import RunningStats, exact_rows

RNG = np.random.default_rng(0)
ROWS = 60_000


def bimodal(count: int) -> np.ndarray:
    return np.where(RNG.random(count) < 0.5, RNG.normal(-5, 0.01, count), RNG.normal(5, 1, count))


def rare_spikes(count: int) -> np.ndarray:
    values = np.zeros(count)
    values[RNG.choice(count, count // 200, replace=False)] = 1e6
    return values


DISTRIBUTIONS: dict[str, Callable[[int], np.ndarray]] = {
    "normal": lambda count: RNG.normal(3, 2, count),
    "constant": lambda count: np.full(count, 0.1),
    "rare spikes": rare_spikes,
    "huge range": lambda count: (
        RNG.choice([-1.0, 1.0], count) * 10.0 ** RNG.uniform(-30, 30, count)
    ),
    "bimodal": bimodal,
    "ascending": lambda count: np.arange(count) / 7,
    "descending": lambda count: -np.arange(count) / 7,
    "few values": lambda count: RNG.integers(0, 3, count).astype(float),
    "far from zero": lambda count: 1e6 + RNG.normal(0, 1e-3, count),
}


def in_parts(values: np.ndarray, running: RunningStats, size: int = 1000) -> RunningStats:
    for first in range(0, len(values), size):
        running.add(values[first : first + size])
    return running


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_quantiles_are_numpys_to_the_last_bit_while_the_tails_fit(name: str, dtype: type) -> None:
    values = DISTRIBUTIONS[name](ROWS).astype(dtype)[:, None]
    got, expected = in_parts(values, RunningStats(1, ROWS)).result(), compute_stats(values)
    for field in ("min", "max", "q01", "q99", "count"):
        assert getattr(got, field) == getattr(expected, field), field
    scale = float(np.abs(values).max())
    np.testing.assert_allclose(got.mean, expected.mean, rtol=1e-9, atol=1e-12 * scale)
    np.testing.assert_allclose(got.std, expected.std, rtol=1e-6, atol=1e-12 * scale)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_quantiles_of_more_rows_than_fit_are_within_the_stated_bound(name: str) -> None:
    values = DISTRIBUTIONS[name](ROWS)[:, None]
    budget = 2 * 203 * 8  # 200 values of a tail: 20,000 rows
    assert exact_rows(1, values.dtype, budget) == 20_000
    running = in_parts(values, RunningStats(1, ROWS, max_tail_bytes=budget))
    got, expected = running.result(), compute_stats(values)
    assert (got.min, got.max, got.count) == (expected.min, expected.max, expected.count)
    # Five standard deviations of the share, for a sample of about 10,000 rows.
    bound = 5 * 0.1 / 10_000**0.5
    for share, quantile in ((0.01, got.q01[0]), (0.99, got.q99[0])):
        assert (values < quantile).mean() - bound <= share <= (values <= quantile).mean() + bound


def test_memory_does_not_grow_with_the_number_of_rows() -> None:
    peaks = []
    for parts in (100, 1000):
        tracemalloc.start()
        running = RunningStats(2, parts * 1000, max_tail_bytes=1 << 13)
        for _ in range(parts):
            running.add(RNG.normal(size=(1000, 2)))
        running.result()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_values_that_are_not_finite_change_nothing_but_their_count() -> None:
    values = RNG.normal(1e3, 1, (5000, 1))
    spoiled = np.concatenate([values, np.full((300, 1), np.nan), np.full((50, 1), -np.inf)])
    spoiled = RNG.permutation(spoiled)
    running = in_parts(spoiled, RunningStats(1, len(spoiled)), 777)
    assert running.num_not_finite == [350]
    got, expected = running.result(), compute_stats(values)
    for field in ("mean", "std", "min", "max", "q01", "q99"):
        np.testing.assert_allclose(getattr(got, field), getattr(expected, field), rtol=1e-9)


def test_a_million_frames_with_windows_of_fifty_are_exact() -> None:
    """That is the size up to which users see numpy's own numbers, for two arms."""
    assert exact_rows(14, np.dtype(np.float32)) > 50 * 1_000_000
