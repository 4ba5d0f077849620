"""What an episode in real time keeps in memory: bounded, and without losing the worst."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from flux_runtime.control.episode_log import Event, InferenceTimes, realtime_rows
from flux_runtime.control.latency import MAX_EXACT, RunningHistogram, histogram_of
from flux_runtime.control.trace import MAX_CLAMPS, MAX_EVENTS, MAX_POINTS, MAX_ROWS, RealtimeTrace


def rows_at(times_s: np.ndarray) -> np.ndarray:
    rows = np.zeros(len(times_s), realtime_rows(2, 2, 1))
    rows["timestamp_s"] = times_s
    rows["command"] = times_s[:, None]
    return rows


def test_hours_of_ticks_keep_a_bounded_number_of_rows_evenly() -> None:
    trace = RealtimeTrace(control_hz=50.0)
    times = np.arange(3600 * 50) / 50
    for batch in np.array_split(times, 1000):
        trace.add_rows(rows_at(batch))
    kept = np.array(trace.trace().times_s)
    assert MAX_ROWS / 2 <= len(kept) <= MAX_ROWS
    assert len(set(np.diff(kept).round(6))) == 1
    assert trace.num_rows == len(times)
    timing = trace.timing()
    assert timing.intervals["count"] == len(times) - 1
    assert timing.intervals["p50_ms"] == pytest.approx(20, rel=0.012)
    assert len(timing.longest_intervals) <= MAX_POINTS


def test_few_rows_at_a_time_take_no_more_memory_than_many() -> None:
    trace = RealtimeTrace(control_hz=50.0)
    for batch in np.array_split(np.arange(70_000) / 50, 35):
        trace.add_rows(rows_at(batch))
    two = rows_at(np.array([1400.0, 1400.02]))
    tracemalloc.start()
    try:
        for _ in range(2000):
            trace.add_rows(two)
        snapshot = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    of_rows = snapshot.filter_traces([tracemalloc.Filter(True, "*/trace.py")])
    # Without empty arrays; those would double it.
    assert sum(entry.size for entry in of_rows.statistics("filename")) < 280_000


def test_one_gap_within_hours_is_counted_and_shown() -> None:
    trace = RealtimeTrace(control_hz=50.0)
    times = np.arange(100_000) / 50
    times[61_234:] += 0.5
    for batch in np.array_split(times, 500):
        trace.add_rows(rows_at(batch))
    timing = trace.timing()
    assert timing.num_gaps == 1
    assert timing.intervals["max_ms"] == pytest.approx(520)
    worst = max(timing.longest_intervals, key=lambda point: point.longest_ms)
    assert worst.longest_ms == pytest.approx(520)
    assert worst.time_s == pytest.approx(times[61_234])


def test_inferences_with_the_oldest_data_are_kept() -> None:
    trace = RealtimeTrace(control_hz=50.0)
    for index in range(3 * MAX_POINTS):
        age = 0.4 if index == 7001 else 0.01
        ages = {"cam": age, "dead": math.nan}
        trace.add_inference(
            InferenceTimes(
                time_s=float(index), duration_s=0.1, state_age_s=0.002, frame_ages_s=ages
            )
        )
    kept = trace.timing().inferences
    assert len(kept) <= MAX_POINTS
    assert [entry.time_s for entry in kept if entry.frame_ages_s["cam"] == 0.4] == [7001.0]


def test_all_events_are_counted_and_clamps_displace_no_stop() -> None:
    trace = RealtimeTrace(control_hz=50.0)
    for index in range(3000):
        trace.add_event(Event(time_s=index, name="jerk", what="begin"))
        trace.add_event(Event(time_s=index, name="jerk", what="end"))
    for index in range(3 * MAX_EVENTS):
        trace.add_event(Event(time_s=index, name="frame_stale"))
    names = [event.name for event in trace.events]
    assert (names.count("jerk"), names.count("frame_stale")) == (MAX_CLAMPS, MAX_EVENTS)
    assert trace.timing().event_counts == {"jerk": 3000, "frame_stale": 3 * MAX_EVENTS}


def test_a_running_histogram_is_exact_until_it_has_too_many_samples() -> None:
    samples = np.random.default_rng(0).lognormal(1.0, 0.5, MAX_EXACT + 5000)
    running = RunningHistogram()
    running.add(samples[:100])
    assert running.histogram() == histogram_of(samples[:100].tolist())
    for sample in samples[100:]:
        running.add((sample,))
    binned, exact = running.histogram(), histogram_of(samples.tolist())
    assert (binned["count"], binned["counts"]) == (exact["count"], exact["counts"])
    assert binned["max_ms"] == exact["max_ms"]
    assert binned["p99_ms"] == pytest.approx(exact["p99_ms"], rel=0.13)
