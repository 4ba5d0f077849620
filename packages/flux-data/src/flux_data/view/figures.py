"""Draws histograms as inline SVG in the page's colours, and writes numbers as text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flux_core.html import Html, cell, element, row, table
from flux_core.norm_stats import FeatureStats

from ..lerobot.state_action import ACTION, STATE
from .distribution import Panel
from .survey import Survey

WIDTH, HEIGHT = 480, 100
ROW = 16
"""Height of the strip under the bars that shows the mean and quantiles of one feature."""
COLUMNS = ("mean", "std", "min", "max", "q01", "q99")


def short(key: str) -> str:
    """Returns the name of a feature on the page and in its style sheet."""
    return {STATE: "state", ACTION: "action"}[key]


def histogram_figure(survey: Survey, position: int) -> Html:
    """Draws one panel's histograms on top of each other; heights are square roots of counts."""
    panel, (low, high) = survey.panels[position], survey.ranges[position]
    counts = {key: survey.counts[key][position] for key in panel.dims}
    most = max(max(int(each.max()) for each in counts.values()), 1)
    shapes = [element("line", class_="axis", x1=0, x2=WIDTH, y1=HEIGHT, y2=HEIGHT)]
    shapes += [_bars(short(key), each / most) for key, each in counts.items()]
    for line, (key, dim) in enumerate(panel.dims.items()):
        shapes += _spread(survey.stats[key], dim, (low, high), short(key), line)
    height = HEIGHT + ROW * len(panel.dims)
    return element(
        "svg",
        *shapes,
        viewBox=f"0 0 {WIDTH} {height}",
        preserveAspectRatio="none",
        role="img",
        aria_label="distribution",
    )


def _bars(name: str, shares: NDArray[np.float64]) -> Html:
    """Returns the outline of the bars as one path."""
    step = WIDTH / len(shares)
    path = [f"M0 {HEIGHT}"]
    for index, share in enumerate(np.sqrt(shares)):
        path.append(f"V{HEIGHT * (1 - 0.96 * share):.1f}H{(index + 1) * step:.4g}")
    return element("path", class_=f"bars {name}", d=f"{''.join(path)}V{HEIGHT}")


def _spread(
    stats: FeatureStats, dim: int, ends: tuple[float, float], name: str, line: int
) -> list[Html]:
    """Returns q01 to q99 as a line and the mean as a tick; nothing if no value is finite."""
    if not math.isfinite(stats.mean[dim]):
        return []
    low, high = ends
    width = (high - low) or 1.0
    # A constant is drawn in the middle, where numpy's histogram puts it.
    shift = 0.0 if high > low else 0.5
    q01, mean, q99 = (
        WIDTH * ((column[dim] - low) / width + shift)
        for column in (stats.q01, stats.mean, stats.q99)
    )
    y = HEIGHT + ROW * (line + 0.65)
    tick = f"M{mean:.1f} {y - ROW * 0.3:g}V{y + ROW * 0.3:g}"
    return [
        element("path", class_=f"spread {name}", d=f"M{q01:.1f} {y:g}H{q99:.1f}"),
        element("path", class_=f"mean {name}", d=tick),
    ]


def decimals(span: float) -> int:
    """Returns how many decimals distinguish thousandths of a range."""
    if not (span > 0 and math.isfinite(span)):
        return 3
    return min(max(2 - math.floor(math.log10(span)), 0), 8)


def formatted_number(value: float, places: int) -> str:
    """Returns a number with a true minus sign, which is as wide as a digit."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:.{places}f}"
    is_zero = not text.strip("-0.")
    return text.removeprefix("-") if is_zero else text.replace("-", "\N{MINUS SIGN}")


def stats_table(panel: Panel, survey: Survey, ends: Sequence[float]) -> Html:
    """Returns exact statistics of one panel's features; hovering shows nine digits."""
    places = decimals(ends[1] - ends[0])
    rows = (_stats_row(survey, key, dim, places) for key, dim in panel.dims.items())
    return table(("", *COLUMNS), rows, class_="stats")


def _stats_row(survey: Survey, key: str, dim: int, places: int) -> Html:
    values = [getattr(survey.stats[key], name)[dim] for name in COLUMNS]
    cells = [cell(formatted_number(value, places), title=f"{value:.9g}") for value in values]
    missing = int(survey.num_not_finite[key][dim])
    if missing:
        cells.append(cell(f"{missing} not finite", class_="bad"))
    name = short(key)
    return row([element("th", name, class_=f"name {name}"), *cells])
