"""The part of a run's page about real time: intervals, events, and the ages of the sensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flux_core.html import (
    Html,
    card,
    cell,
    columns,
    definitions,
    details,
    element,
    figure,
    note,
    row,
    section,
    table,
)

from ..control.episode import EpisodeResult
from ..control.trace import GAP_PERIODS, Timing
from ..realtime import granted_text
from .plots import ages_figure, events_figure, intervals_figure

_MAX_LISTED = 50


def timing_section(results: Sequence[EpisodeResult], summary: Mapping[str, Any]) -> Html:
    """Returns the section; nothing for a run on simulated time."""
    drawn = [result for result in results if result.timing and result.timing.longest_intervals]
    if not drawn and "interval" not in summary:
        return Html()
    episodes = (
        details(f"Episode with seed {result.seed}", *_episode(result, summary), is_open=not index)
        for index, result in enumerate(drawn)
    )
    return section(
        "Time",
        element("div", definitions(_figures(summary)), card(*episodes), class_="stack"),
        beside=element("small", "seconds"),
    )


def _figures(summary: Mapping[str, Any]) -> dict[str, str]:
    interval: Mapping[str, Any] = summary.get("interval") or {}
    figures = {
        name: f"{interval[key]:.2f} ms"
        for name, key in (
            ("Interval p50", "p50_ms"),
            ("Interval p99", "p99_ms"),
            ("Longest interval", "max_ms"),
        )
        if key in interval
    }
    figures["Gaps"] = str(interval.get("gaps", 0))
    scheduling: Mapping[str, Any] = summary.get("scheduling") or {}
    return figures | {_title(name): granted_text(name, entry) for name, entry in scheduling.items()}


def _title(name: str) -> str:
    return f"Scheduling: {name.replace('_', ' ')}"


def _episode(result: EpisodeResult, summary: Mapping[str, Any]) -> Iterator[Html]:
    timing, seed = result.timing, result.seed
    assert timing is not None
    period_ms = 1e3 / float(summary["command_hz"])
    points = timing.longest_intervals
    wide = figure(
        "Intervals between commands",
        intervals_figure(
            np.array([point.time_s for point in points]),
            np.array([point.longest_ms for point in points]),
            period_ms=period_ms,
            gap_ms=GAP_PERIODS * period_ms,
            label=f"intervals between commands, seed {seed}",
        ),
        beside=f"ms; nominal {period_ms:.1f} ms, gaps marked",
    )
    events = _events(result, points[-1].time_s) if result.events else Html()
    yield element("div", wide, events, class_="figures wide")
    if timing.inferences:
        yield from _ages(timing, seed, summary)


def _events(result: EpisodeResult, end_s: float) -> Html:
    """Returns the events on a time line, and the first of them in words."""
    times: dict[str, list[float]] = {}
    for event in result.events:
        times.setdefault(event.name, []).append(event.time_s)
    end_s = max(end_s, result.events[-1].time_s)
    drawing = events_figure(times, end_s, f"events, seed {result.seed}")
    keys = ("time_s", "name", "what", "subject", "value", "limit", "text")
    rows = (
        row(
            map(
                cell,
                (
                    f"{e.time_s:.3f}",
                    e.name,
                    e.what,
                    e.subject,
                    _short(e.value),
                    _short(e.limit),
                    e.text,
                ),
            )
        )
        for e in result.events[:_MAX_LISTED]
    )
    shown = min(len(result.events), _MAX_LISTED)
    listed = details(f"The first {shown} of {len(result.events)}", table(columns(keys), rows))
    return figure("Events", drawing, listed)


def _ages(timing: Timing, seed: int, summary: Mapping[str, Any]) -> Iterator[Html]:
    """Yields one figure per sensor: how old its newest data was when each inference began."""
    bounds: Mapping[str, Any] = summary.get("staleness") or {}
    seconds = np.array([entry.time_s for entry in timing.inferences])
    sensors = {"state": [entry.state_age_s for entry in timing.inferences]}
    for camera in timing.inferences[0].frame_ages_s:
        sensors[camera] = [entry.frame_ages_s.get(camera, math.nan) for entry in timing.inferences]
    yield note(
        "Age of each sensor's newest data when an inference began, in ms. Dashed: the bound."
    )
    figures = (
        figure(
            name,
            ages_figure(
                seconds,
                np.array(ages) * 1e3,
                1e3 * float(bounds.get(name, bounds.get("frame", math.nan))),
                f"age of {name}, seed {seed}",
            ),
        )
        for name, ages in sensors.items()
    )
    yield element("div", *figures, class_="figures")


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
