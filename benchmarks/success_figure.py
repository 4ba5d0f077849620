"""Draws how often the policies succeed, and how that grew with training: an image of README.md.

    python benchmarks/success_figure.py

Reads what benchmarks/success.py and benchmarks/act have kept in benchmarks/results; what is not
measured is not drawn.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compare_act import KEPT, NAMES, TASKS, Evaluated, read

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

RESULTS = Path(__file__).resolve().parent / "results"
IMAGE = Path(__file__).resolve().parents[1] / "docs" / "images" / "success.png"
MODES, HORIZONS = "mode and delay in steps", "steps of a chunk executed"
PRECISIONS, DISTURBANCES = "precision and engine", "disturbance"
GROUPS = (MODES, HORIZONS, PRECISIONS, DISTURBANCES)
COLORS = ("#1f5fbf", "#c2571a", "#2e8540", "#7a3fa0")
SIDE_COLORS = {"flux": COLORS[0], "act": "#6b7280"}
LINES = ("-", "--", ":", "-.")
"""Of the learning rates of a side, from the lowest."""
GREY = "#c8ccd4"


@dataclass(frozen=True, kw_only=True)
class Point:
    """A measured row, in percent; without a rate it was refused."""

    group: str
    label: str
    series: str
    rate: float | None = None
    low: float = 0.0
    high: float = 0.0
    refused_by: str = ""


def main() -> int:
    """Draws the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = sorted(RESULTS.glob("success_*.json"))
    parser.add_argument("files", nargs="*", type=Path, default=usual, help="default: all success_*")
    parser.add_argument("--out", type=Path, default=IMAGE)
    options = parser.parse_args()
    reports = {name_of(path): json.loads(path.read_text()) for path in options.files}
    draw(points_of(reports), read(KEPT), options.out)
    print(f"{options.out}: {options.out.stat().st_size / 1000:.0f} kB")
    return 0


def name_of(path: Path) -> str:
    """Returns the policy's name: "both" of success_both_2cores.json."""
    return path.stem.removeprefix("success_").removesuffix("_2cores")


def points_of(reports: Mapping[str, Mapping[str, Any]]) -> list[Point]:
    """Returns the measured rows of what benchmarks/success.py has written; each row once.

    Args:
        reports: by the name of their policy.
    """
    kept: dict[tuple[str, str, str], Point] = {}
    for policy, report in reports.items():
        for row in report["rows"]:
            series = f"{row['suite'].removeprefix('aloha-')}, policy “{policy}”"
            for group, label in places(row):
                point = Point(group=group, label=label, series=series)
                if "success" in row:
                    low, high = (100 * bound for bound in row["success"]["ci95"])
                    rate = 100 * row["success"]["episodes"] / row["episodes"]
                    kept[group, label, series] = replace(point, rate=rate, low=low, high=high)
                elif "refused" in row:
                    command = row["refused"].partition(":")[0]
                    kept[group, label, series] = replace(point, refused_by=command)
    points = list(kept.values())
    # A group of the reference alone says nothing.
    labels = {group: {point.label for point in points if point.group == group} for group in GROUPS}
    return [point for point in points if len(labels[point.group]) > 1]


def places(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the groups of a row, and its label in each: the reference is in three of them."""
    if row["horizon"] is not None:
        return [(HORIZONS, str(row["horizon"]))]
    precision = PRECISIONS, f"{row['precision']} on {row['engine']}"
    disturbance = DISTURBANCES, row["disturbance"]
    mode = MODES, f"{row['mode']}, {row['delay']}"
    if (row["precision"], row["engine"]) != ("fp32", "onnxruntime"):
        return [precision]
    if row["disturbance"] != "none":
        return [disturbance]
    if (row["mode"], row["delay"]) != ("sync", 0):
        return [mode]
    return [mode, precision, disturbance]


def draw(points: Sequence[Point], curves: Sequence[Evaluated], path: Path) -> None:
    """Writes the figure; black on white, which is readable on a dark page too."""
    from matplotlib.figure import Figure

    tasks = [task for task in TASKS if any(each.task == task for each in curves)]
    width, height = (10.5 if tasks else 6.5), 1.4 + 0.17 * (len(_rows(points)) + len(GROUPS))
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.add_gridspec(max(1, len(tasks)), 2 if tasks else 1)
    success = figure.add_subplot(grid[:, 0])
    draw_points(success, points)
    for index, task in enumerate(tasks):
        some = [each for each in curves if each.task == task]
        draw_curves(figure.add_subplot(grid[index, 1]), task, some)
    handles = _handles(success)
    figure.legend(
        handles.values(),
        handles.keys(),
        fontsize=8,
        loc="outside lower left",
        ncols=2,
        frameon=False,
    )
    figure.savefig(path, dpi=100, facecolor="white")


def _rows(points: Sequence[Point]) -> list[tuple[str, str]]:
    """Returns the groups and labels of the points, a group behind the other."""
    known = [(point.group, point.label) for point in points]
    return list(dict.fromkeys(sorted(known, key=lambda row: GROUPS.index(row[0]))))


def draw_points(axes: Axes, points: Sequence[Point]) -> None:
    """Draws a line for each row, with a dot and an interval for each policy and task."""
    series = list(dict.fromkeys(point.series for point in points))
    heights, height = dict[tuple[str, str], float](), 0.0
    for group, label in _rows(points):
        if group not in {drawn for drawn, _ in heights}:
            place = axes.get_yaxis_transform()
            axes.text(0.0, height + 0.2, group, transform=place, fontsize=8, fontweight="bold")
            height += 1
        heights[group, label] = height
        height += 1
    for point in points:
        if point.rate is None:
            continue
        index = series.index(point.series)
        shift = 0.7 * (index - (len(series) - 1) / 2) / len(series)
        height_of_row = heights[point.group, point.label]
        _draw_point(axes, point, point.rate, height_of_row + shift, COLORS[index])
    # Every task has the same refusals.
    for row, point in {(p.group, p.label): p for p in points if p.rate is None}.items():
        _draw_refusal(axes, point, heights[row])
    axes.set_yticks(list(heights.values()), [label for _, label in heights], fontsize=8)
    axes.set_ylim(height, -1)
    lowest = min((point.low for point in points if point.rate is not None), default=0.0)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlim(10 * math.floor(lowest / 10), 100.5)
    axes.set_title("success on unseen seeds, %; 95 % intervals", fontsize=10, loc="left")
    axes.grid(axis="x", color=GREY, linewidth=0.6)
    _bare(axes)


def _draw_point(axes: Axes, point: Point, rate: float, height: float, color: str) -> None:
    axes.errorbar(
        rate,
        height,
        xerr=[[rate - point.low], [point.high - rate]],
        fmt="o",
        markersize=4,
        linewidth=1.4,
        color=color,
        label=point.series,
    )


def _draw_refusal(axes: Axes, point: Point, height: float) -> None:
    text, place = f"refused by {point.refused_by}", axes.get_yaxis_transform()
    axes.text(0.01, height, text, transform=place, fontsize=7, color="#6b7280", va="center")


def draw_curves(axes: Axes, task: str, curves: Sequence[Evaluated]) -> None:
    """Draws the success of each training against the CPU time that it had taken."""
    from matplotlib.ticker import NullLocator

    rates_of = {
        side: sorted({each.learning_rate for each in curves if each.side == side}) for side in NAMES
    }
    for run in dict.fromkeys(each.run for each in curves):
        own = sorted((each for each in curves if each.run == run), key=lambda each: each.cpu_min)
        rates = [100 * each.won / each.episodes for each in own]
        bounds = [[100 * bound for bound in each.interval] for each in own]
        lows = [rate - low for rate, (low, _) in zip(rates, bounds, strict=True)]
        highs = [high - rate for rate, (_, high) in zip(rates, bounds, strict=True)]
        axes.errorbar(
            [each.cpu_min for each in own],
            rates,
            yerr=[lows, highs],
            fmt="o" + LINES[rates_of[own[0].side].index(own[0].learning_rate)],
            markersize=4,
            linewidth=1.4,
            color=SIDE_COLORS[own[0].side],
            label=f"{NAMES[own[0].side]}, learning rate {own[0].learning_rate:g}",
        )
    minutes = [each.cpu_min for each in curves]
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200) if min(minutes) / 2 < tick]
    axes.set_xscale("log")
    axes.set_xticks([tick for tick in ticks if tick < 2 * max(minutes)])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(-3, 103)
    axes.set_title(f"{task}: success, %", fontsize=10, loc="left")
    axes.set_xlabel("CPU time of training, minutes", fontsize=8)
    handles = _handles(axes)
    axes.legend(handles.values(), handles.keys(), fontsize=8, loc="center right")
    axes.grid(color=GREY, linewidth=0.6)
    _bare(axes)


def _handles(axes: Axes) -> dict[str, Artist]:
    """Returns what a legend shows, each label once."""
    handles, labels = axes.get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


if __name__ == "__main__":
    sys.exit(main())
