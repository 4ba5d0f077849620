"""Summarizes episodes as `flux-runtime run --json` prints them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..control.episode import EpisodeResult
from ..control.latency import Histogram, merge_stages
from ..control.success import wilson_interval


def summarize(
    results: Sequence[EpisodeResult], histograms: Mapping[str, Histogram]
) -> dict[str, object]:
    """Returns the totals over all episodes; rates are None if the robot cannot tell success."""
    violations: Counter[str] = Counter()
    for result in results:
        violations.update(violations_of(result.stats))
    inference = histograms.get("inference")
    return {
        "episodes": [result.summary() for result in results],
        **_rates("success_rate", "ci95", [result.success for result in results]),
        **_rates("strict_success_rate", "strict_ci95", [r.strict_success for r in results]),
        "ticks": _total(results, "ticks"),
        "deadline_misses": _total(results, "deadline_misses"),
        "held_ticks": _total(results, "held_ticks"),
        "chunks": _total(results, "chunks"),
        "jitter_p99_ms": histograms["jitter"]["p99_ms"] if "jitter" in histograms else 0.0,
        "inference_p50_ms": inference["p50_ms"] if inference and inference["count"] else None,
        "violations": dict(violations),
        "commands_out_of_limit": sum(result.commands_out_of_limit for result in results),
        **_realtime_totals(results, histograms.get("interval")),
    }


def violations_of(stats: Mapping[str, Any]) -> dict[str, int]:
    """Returns the number of violations of each kind in a ControlLoop's statistics."""
    return {str(kind): int(count) for kind, count in stats["violations"].items()}


def collect_histograms(
    results: Sequence[EpisodeResult], python_stages: Mapping[str, Histogram]
) -> dict[str, Histogram]:
    """Merges the stages of the episodes' loops and adds the stages timed in Python."""
    loops = merge_stages([stages_of(result) for result in results])
    return {**loops, **python_stages}


def stages_of(result: EpisodeResult) -> dict[str, Histogram]:
    """Returns the histograms of an episode's loop, with the intervals between its commands."""
    intervals = {} if result.timing is None else {"interval": result.timing.intervals}
    return {**result.stats["histograms"], **intervals}


def with_rtc_totals(
    report: Mapping[str, Any], results: Sequence[EpisodeResult]
) -> dict[str, object]:
    """Returns the report with what real-time chunking did over all episodes, under `rtc`.

    `delays` says how many chunks began with how many rows of the one before, and `late` how many
    came after more rows than that had been executed.
    """
    if report["rtc"] is None:
        return dict(report)
    delays: Counter[int] = Counter()
    late = 0
    for result in results:
        counts: Mapping[str, Any] = result.stats.get("rtc") or {"delays": {}, "late": 0}
        delays.update({int(rows): int(count) for rows, count in counts["delays"].items()})
        late += int(counts["late"])
    by_rows = {str(rows): delays[rows] for rows in sorted(delays)}
    return {**report, "rtc": {**report["rtc"], "delays": by_rows, "late": late}}


def _realtime_totals(
    results: Sequence[EpisodeResult], interval: Histogram | None
) -> dict[str, object]:
    """Returns what only a run in real time has: true intervals between commands, and events."""
    timings = [result.timing for result in results if result.timing is not None]
    if not timings or interval is None:
        return {}
    events: Counter[str] = Counter()
    for timing in timings:
        events.update(timing.event_counts)
    percentiles = {key: interval[key] for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms")}
    gaps = sum(timing.num_gaps for timing in timings)
    return {
        "interval": {**percentiles, "gaps": gaps},
        "commands": _command_totals(results),
        "event_counts": dict(events),
        # Records that did not fit in the control thread's rings; the loop counts over all episodes.
        "dropped": results[-1].stats.get("dropped"),
    }


def _command_totals(results: Sequence[EpisodeResult]) -> dict[str, int | None]:
    """Returns the sums over the episodes, None where a driver has not said."""
    episodes = [asdict(result.commands) for result in results if result.commands is not None]
    totals: dict[str, int | None] = {}
    for name in ("sent", "accepted", "superseded"):
        counts = [episode[name] for episode in episodes]
        totals[name] = None if None in counts else sum(counts)
    return totals


def _rates(rate_key: str, ci_key: str, outcomes: Sequence[bool | None]) -> dict[str, object]:
    known = [outcome for outcome in outcomes if outcome is not None]
    if not known:
        return {rate_key: None, ci_key: None}
    return {
        rate_key: sum(known) / len(known),
        ci_key: list(wilson_interval(sum(known), len(known))),
    }


def _total(results: Sequence[EpisodeResult], key: str) -> int:
    return sum(int(result.stats[key]) for result in results)
