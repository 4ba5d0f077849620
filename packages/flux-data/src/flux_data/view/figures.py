"""Histograms as inline SVG whose colours are the page's, and numbers as text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flux_core.norm_stats import FeatureStats

from ..lerobot.state_action import ACTION, STATE
from .distribution import Panel
from .survey import Survey

WIDTH, HEIGHT = 480, 100
ROW = 16
"""Height of the strip under the bars that shows mean and quantiles of one feature."""
COLUMNS = ("mean", "std", "min", "max", "q01", "q99")


def short(key: str) -> str:
    """What a feature is called on the page and in its style sheet."""
    return {STATE: "state", ACTION: "action"}[key]


def histogram_figure(survey: Survey, row: int) -> str:
    """Draws one panel's histograms over each other; heights are square roots of the counts."""
    panel, (low, high) = survey.panels[row], survey.ranges[row]
    counts = {key: survey.counts[key][row] for key in panel.dims}
    most = max(max(int(each.max()) for each in counts.values()), 1)
    shapes = [_bars(short(key), each / most) for key, each in counts.items()]
    for line, (key, dim) in enumerate(panel.dims.items()):
        shapes.append(_spread(survey.stats[key], dim, (low, high), short(key), line))
    height = HEIGHT + ROW * len(panel.dims)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="distribution"><line class="axis" x1="0" x2="{WIDTH}" y1="{HEIGHT}" '
        f'y2="{HEIGHT}"/>{"".join(shapes)}</svg>'
    )


def _bars(name: str, shares: NDArray[np.float64]) -> str:
    """The outline of the bars as one path."""
    step = WIDTH / len(shares)
    path = [f"M0 {HEIGHT}"]
    for index, share in enumerate(np.sqrt(shares)):
        path.append(f"V{HEIGHT * (1 - 0.96 * share):.1f}H{(index + 1) * step:.4g}")
    return f'<path class="bars {name}" d="{"".join(path)}V{HEIGHT}"/>'


def _spread(stats: FeatureStats, dim: int, ends: tuple[float, float], name: str, line: int) -> str:
    """q01 to q99 as a line, the mean as a tick."""
    if not math.isfinite(stats.mean[dim]):
        return ""
    low, high = ends
    width = (high - low) or 1.0
    # A constant lies in the middle, as in numpy's histogram of it.
    shift = 0.0 if high > low else 0.5
    q01, mean, q99 = (
        WIDTH * ((column[dim] - low) / width + shift)
        for column in (stats.q01, stats.mean, stats.q99)
    )
    y = HEIGHT + ROW * (line + 0.65)
    return (
        f'<path class="spread {name}" d="M{q01:.1f} {y:g}H{q99:.1f}"/>'
        f'<path class="mean {name}" d="M{mean:.1f} {y - ROW * 0.3:g}V{y + ROW * 0.3:g}"/>'
    )


def decimals(span: float) -> int:
    """How many decimals tell apart the thousandths of a range."""
    if not (span > 0 and math.isfinite(span)):
        return 3
    return min(max(2 - math.floor(math.log10(span)), 0), 8)


def number(value: float, places: int) -> str:
    """A number with a true minus sign, of equal width in a column."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:.{places}f}"
    is_zero = not text.strip("-0.")
    return text.removeprefix("-") if is_zero else text.replace("-", "\N{MINUS SIGN}")


def stats_table(panel: Panel, survey: Survey, ends: Sequence[float]) -> str:
    """Exact statistics of one panel's features; hovering shows nine digits."""
    places = decimals(ends[1] - ends[0])
    head = "".join(f"<th>{name}</th>" for name in COLUMNS)
    rows = []
    for key, dim in panel.dims.items():
        values = [getattr(survey.stats[key], name)[dim] for name in COLUMNS]
        cells = "".join(f'<td title="{x:.9g}">{number(x, places)}</td>' for x in values)
        missing = int(survey.num_not_finite[key][dim])
        if missing:
            cells += f'<td class="bad">{missing} not finite</td>'
        name = short(key)
        rows.append(f'<tr><th class="name {name}">{name}</th>{cells}</tr>')
    return (
        f'<div class="scroll"><table class="stats"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
