"""Draws figures as inline SVG in the page's colours, so that they follow light and dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.html import Html

from ..control.latency import Histogram

# matplotlib accepts only real colours: these are placeholders for the page's colours.
INK, MUTED, GRID = "#010203", "#010204", "#010205"
COMMAND, STATE, LIMIT = "#010206", "#010207", "#010208"
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    COMMAND: "var(--action)",
    STATE: "var(--state)",
    LIMIT: "var(--bad)",
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "path.simplify_threshold": 0.2,
}
_PADDING_SHARE = 0.08
_LEAST_RANGE = 0.05
_LEAST_SECONDS = 0.02
_MAX_BARS = 48
_MAX_LINES = 200


def joint_figure(
    *,
    seconds: NDArray[np.float64],
    commands: NDArray[np.float32],
    states: NDArray[np.float32] | None,
    chunk_starts_s: NDArray[np.float64],
    limits: tuple[float, float],
    label: str,
) -> Html:
    """Draws one joint over an episode.

    Args:
        seconds: (T,) when the commands were sent.
        commands, states: (T,) in joint units; states are None if commands are differences.
        chunk_starts_s: when a new chunk was requested, drawn as thin lines.
        limits: lowest and highest position; drawn if they are in view.
        label: for the figure's accessible name.
    """
    low, high = _view(commands if states is None else np.concatenate([commands, states]))
    with _figure(3.4, 1.35, label) as (axes, svg):
        for start in chunk_starts_s[:: math.ceil(len(chunk_starts_s) / _MAX_LINES) or 1]:
            axes.axvline(start, color=GRID, linewidth=0.6)
        for limit in limits:
            if low <= limit <= high:
                axes.axhline(limit, color=LIMIT, linewidth=0.9, linestyle=(0, (4, 3)))
        if states is not None:
            axes.plot(seconds, states, color=STATE, linewidth=1.0)
        axes.plot(seconds, commands, color=COMMAND, linewidth=1.2)
        axes.set_xlim(0, max(float(seconds[-1]), _LEAST_SECONDS))
        axes.set_ylim(low, high)
        axes.locator_params(axis="y", nbins=4)
    return svg.html


def prediction_figure(
    recorded: tuple[NDArray[np.float64], NDArray[np.float32]],
    predicted: Sequence[tuple[NDArray[np.float64], NDArray[np.float32]]],
    label: str,
) -> Html:
    """Draws what was recorded of one joint, and each chunk that was predicted.

    Args:
        recorded: (T,) seconds and actions.
        predicted: for each chunk, (H,) seconds and actions.
        label: for the figure's accessible name.
    """
    seconds, actions = recorded
    drawn = predicted[:: math.ceil(len(predicted) / _MAX_LINES) or 1]
    low, high = _view(np.concatenate([actions, *(values for _, values in drawn)]))
    with _figure(3.4, 1.35, label) as (axes, svg):
        for times, values in drawn:
            axes.plot(times, values, color=COMMAND, linewidth=0.6)
        axes.plot(seconds, actions, color=STATE, linewidth=1.4)
        axes.set_xlim(0, max(float(seconds[-1]), _LEAST_SECONDS))
        axes.set_ylim(low, high)
        axes.locator_params(axis="y", nbins=4)
    return svg.html


def offsets_figure(errors: NDArray[np.float64], control_hz: float, label: str) -> Html:
    """Draws a joint's mean absolute error over how far ahead it was predicted.

    Args:
        errors: (H,) in the joint's unit.
        control_hz: rows per second.
        label: for the figure's accessible name.
    """
    seconds = np.arange(len(errors)) / control_hz
    with _figure(3.4, 1.0, label) as (axes, svg):
        axes.plot(seconds, errors, color=LIMIT, linewidth=1.0)
        axes.set_xlim(0, max(float(seconds[-1]), _LEAST_SECONDS))
        axes.set_ylim(0, max(1.1 * float(errors.max()), 1e-9))
        axes.locator_params(axis="y", nbins=3)
    return svg.html


def intervals_figure(
    seconds: NDArray[np.float64],
    intervals_ms: NDArray[np.float64],
    *,
    period_ms: float,
    gap_ms: float,
    label: str,
) -> Html:
    """Draws the longest intervals between commands over time, with gaps as marks.

    Args:
        seconds, intervals_ms: (N,) when, and how long.
        period_ms: the nominal interval, drawn as a dashed line.
        gap_ms: longer intervals are marked.
        label: for the figure's accessible name.
    """
    is_gap = intervals_ms > gap_ms
    with _figure(10.6, 1.5, label) as (axes, svg):
        axes.axhline(period_ms, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.vlines(seconds[is_gap], period_ms, intervals_ms[is_gap], color=LIMIT, linewidth=0.9)
        axes.plot(seconds[is_gap], intervals_ms[is_gap], "o", color=LIMIT, markersize=3)
        axes.plot(seconds, intervals_ms, color=COMMAND, linewidth=0.9)
        axes.set_xlim(0, max(float(seconds[-1]), _LEAST_SECONDS))
        axes.set_ylim(0, 1.1 * max(float(intervals_ms.max()), 2 * period_ms))
        axes.locator_params(axis="y", nbins=4)
    return svg.html


def ages_figure(
    seconds: NDArray[np.float64], ages_ms: NDArray[np.float64], limit_ms: float, label: str
) -> Html:
    """Draws the age of a sensor at each inference, and the largest age that is allowed.

    Args:
        seconds: (N,) when each inference began.
        ages_ms: (N,) with NaN where the sensor had delivered nothing.
        limit_ms: drawn if it is in view; NaN if there is none.
        label: for the figure's accessible name.
    """
    finite = ages_ms[np.isfinite(ages_ms)]
    highest = max(float(finite.max()) if finite.size else 0.0, 1.0)
    with _figure(3.4, 1.2, label) as (axes, svg):
        if limit_ms <= 2 * highest:
            axes.axhline(limit_ms, color=LIMIT, linewidth=0.9, linestyle=(0, (4, 3)))
            highest = max(highest, limit_ms)
        axes.plot(seconds, ages_ms, "o-", color=STATE, linewidth=0.9, markersize=1.8)
        axes.set_xlim(0, max(float(seconds[-1]), _LEAST_SECONDS))
        axes.set_ylim(0, 1.1 * highest)
        axes.locator_params(axis="y", nbins=3)
    return svg.html


def events_figure(events: Mapping[str, Sequence[float]], end_s: float, label: str) -> Html:
    """Draws events on a time line, one row per kind.

    Args:
        events: kind -> times in seconds.
        end_s: end of the time line.
        label: for the figure's accessible name.
    """
    with _figure(10.6, 0.4 + 0.2 * len(events), label) as (axes, svg):
        for place, times in enumerate(events.values()):
            axes.plot(times, [place] * len(times), "|", color=LIMIT, markersize=9)
        axes.set_yticks(range(len(events)), [name.replace("_", " ") for name in events])
        axes.set_ylim(len(events) - 0.5, -0.5)
        axes.set_xlim(0, max(end_s, _LEAST_SECONDS))
    return svg.html


def latency_figure(histogram: Histogram, label: str) -> Html:
    """Draws one stage's histogram over a logarithmic axis of milliseconds, with p50 and p99."""
    counts, edges = _visible_bins(histogram)
    left, right = edges[:-1], edges[1:]
    with _figure(3.4, 1.2, label) as (axes, svg):
        axes.bar(left, counts, right - left, align="edge", color=COMMAND)
        for key, style in (("p50_ms", "-"), ("p99_ms", (0, (4, 3)))):
            axes.axvline(max(histogram[key], left[0]), color=INK, linewidth=0.9, linestyle=style)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, position: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, position: "")
        axes.set_xlim(edges[0], edges[-1])
        axes.locator_params(axis="y", nbins=3)
    return svg.html


def _visible_bins(histogram: Histogram) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the used bins and a margin, merged into at most `_MAX_BARS`, and their edges."""
    counts = np.asarray(histogram["counts"], np.float64)
    edges = np.asarray(histogram["edges_ms"], np.float64)
    used = np.flatnonzero(counts)
    first, last = max(int(used[0]) - 2, 0), min(int(used[-1]) + 3, len(counts))
    joined = math.ceil((last - first) / _MAX_BARS)
    starts = np.arange(first, last, joined)
    bounds = edges[np.append(starts, last)]
    bounds[0] = max(bounds[0], bounds[1] / 10)  # zero is not on a logarithmic axis
    return np.add.reduceat(counts[:last], starts), bounds


def _view(values: NDArray[np.float32]) -> tuple[float, float]:
    """Returns the range to show: that of the finite values plus a margin."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    middle, half = (low + high) / 2, max(high - low, _LEAST_RANGE) * (0.5 + _PADDING_SHARE)
    return middle - half, middle + half


class _Svg:
    """Holds the finished figure once the `with` block has ended."""

    def __init__(self) -> None:
        self.html = Html()


@contextmanager
def _figure(width_in: float, height_in: float, label: str) -> Iterator[tuple[Any, _Svg]]:
    """Yields axes to draw on, then holds the figure as SVG. Uses no global state of pyplot."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    svg = _Svg()
    # The label salts the ids, so that no two figures of a page share one.
    settings: Any = _STYLE | {"svg.hashsalt": label}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        axes: Any = figure.add_subplot()
        yield axes, svg
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
        svg.html = _inline(buffer.getvalue(), label)


def _inline(text: str, label: str) -> Html:
    """Takes the drawing out of matplotlib's file and names it for who cannot see it.

    Size and colours are the page's, and styles become attributes: the content policy of our pages
    allows no style inside the body.
    """
    found = re.search(r'<svg[^>]* viewBox="([^"]*)"[^>]*>', text)
    assert found, "matplotlib wrote no <svg> with a viewBox"
    body = text[found.end() :]
    body = re.sub(r"<(metadata|style)\b.*?</\1>", "", body, flags=re.DOTALL)
    body = re.sub(r' style="([^"]*)"', lambda style: _attributes(style[1]), body)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # the same in every figure, and never referred to
    body = body.replace("xlink:href=", "href=")
    for placeholder, variable in _VARIABLES.items():
        body = body.replace(placeholder, variable)
    name = escape(label, quote=True)
    # matplotlib's own style sheet says the same of joins and caps.
    start = f'<svg viewBox="{found[1]}" role="img" aria-label="{name}"'
    return Html(f'{start} stroke-linejoin="round" stroke-linecap="butt">{body}')


def _attributes(style: str) -> str:
    """Returns a style's declarations as attributes; the page chooses the font."""
    pairs = (declaration.split(":", 1) for declaration in style.split(";") if declaration.strip())
    named = ((name.strip(), value.strip()) for name, value in pairs)
    return "".join(f' {name}="{value}"' for name, value in named if not name.startswith("font"))
