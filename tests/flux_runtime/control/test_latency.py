"""Latency histograms: exact for samples, interpolated when merged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_runtime.control.latency import (
    StageTimes,
    histogram_of,
    merge,
    merge_stages,
    since,
)


def test_the_percentiles_of_samples_match_numpy() -> None:
    samples = np.random.default_rng(0).gamma(2.0, 3.0, 500)
    histogram = histogram_of(samples.tolist())
    assert histogram["count"] == sum(histogram["counts"]) == 500
    assert histogram["p95_ms"] == pytest.approx(np.percentile(samples, 95))
    assert histogram["max_ms"] == samples.max()
    assert len(histogram["edges_ms"]) == len(histogram["counts"]) + 1


def test_values_beyond_the_ends_are_counted_in_the_end_bins() -> None:
    counts = histogram_of([0.0, 1e9])["counts"]
    assert counts[0] == counts[-1] == 1


def test_a_histogram_without_samples_is_empty() -> None:
    assert histogram_of([])["count"] == 0
    assert merge([histogram_of([]), histogram_of([])])["p99_ms"] == 0.0


@settings(deadline=None)
@given(
    parts=st.lists(
        st.lists(st.floats(0.01, 1000.0), min_size=1, max_size=30), min_size=2, max_size=5
    )
)
def test_merged_percentiles_are_within_a_bin_of_the_exact_ones(parts: list[list[float]]) -> None:
    merged = merge([histogram_of(part) for part in parts])
    everything = np.sort(np.concatenate(parts))
    assert merged["count"] == len(everything)
    assert merged["max_ms"] == everything[-1]
    for key, share in (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99)):
        exact = everything[int(np.ceil(share * len(everything))) - 1]
        assert exact / 1.13 <= merged[key] <= exact * 1.13  # a bin is a factor of 1.122 wide


def test_stages_are_merged_by_name() -> None:
    merged = merge_stages(
        [{"tick": histogram_of([1.0])}, {"tick": histogram_of([2.0]), "x": histogram_of([3.0])}]
    )
    assert (merged["tick"]["count"], merged["x"]["count"]) == (2, 1)


def test_histograms_with_different_edges_are_not_merged() -> None:
    other = histogram_of([1.0]) | {"edges_ms": [0.0, 1.0], "counts": [1]}
    with pytest.raises(ValueError, match="same edges"):
        merge([histogram_of([1.0]), other])


def test_what_a_growing_histogram_has_gained_is_counted_alone() -> None:
    before, later = [1.0, 2.0, 50.0], [3.0, 4.0, 4.1]
    gained = since(histogram_of(before), histogram_of(before + later))
    exact = histogram_of(later)
    assert (gained["count"], gained["counts"]) == (3, exact["counts"])
    assert gained["sum_ms"] == pytest.approx(exact["sum_ms"])
    assert gained["max_ms"] == pytest.approx(4.1, rel=0.13)
    assert since(None, exact) is exact
    assert since(exact, exact)["count"] == 0


def test_stage_times_come_from_the_injected_clock() -> None:
    clock = iter([1.0, 1.25])
    times = StageTimes(lambda: next(clock))
    with times.measure("encode"):
        pass
    assert times.histograms()["encode"]["p50_ms"] == 250.0
