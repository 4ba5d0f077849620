"""The HTML page of an evaluation: how good, how sure, task by task, and how it looked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from flux_core.bundle import Manifest

from ..report import write_text
from ..report.parts import (
    cell,
    definitions,
    heading,
    interval_bar,
    page,
    provenance,
    rate_card,
    table,
    video_figure,
)
from .evaluator import Job, Played


@dataclass(frozen=True, kw_only=True)
class PageData:
    """Everything the page shows.

    Attributes:
        report: what `--json` prints.
        played: all episodes, in the report's order.
        videos: those to show.
        robot: its name.
        manifest: of the bundle.
    """

    report: Mapping[str, Any]
    played: Sequence[Played]
    videos: Mapping[Job, bytes | None]
    robot: str
    manifest: Manifest


def write_page(path: Path, data: PageData) -> None:
    """Writes the page; a partly written one is never left at `path`."""
    write_text(path, render_page(data))


def render_page(data: PageData) -> str:
    """Returns the page."""
    report = data.report
    words = (
        f"{data.robot} · {report['num_episodes']} episodes · seeds {report['seeds'][0]} to "
        f"{report['seeds'][-1]} · engine {report['engine']} · {report['mode']}"
    )
    title = str(report["suite"])
    sections = [
        _headline(report),
        _rates("Stages", report["stages"]),
        _tasks(report),
        _videos(data),
        _episodes(report),
        provenance(data.manifest, report),
    ]
    return page(f"{title}: evaluation", heading(title, words), filter(None, sections))


def _headline(report: Mapping[str, Any]) -> str:
    count = report["num_episodes"]
    cards = [rate_card("Success", report["success_rate"], report["ci95"], count)]
    if "strict_success_rate" in report:
        rate, interval = report["strict_success_rate"], report["strict_ci95"]
        cards.append(rate_card("Strict success, held at the end", rate, interval, count))
    inference = report["inference_p50_ms"]
    values = {
        "Tasks": len(report["tasks"]),
        "Ticks": report["ticks"],
        "Inference p50": "-" if inference is None else f"{inference:.1f} ms",
        "Sent beyond limits": report["commands_out_of_limit"],
    }
    cards.append(f'<div class="card wide">{definitions(values)}</div>')
    return f'<section class="headline">{"".join(cards)}</section>'


def _rates(title: str, rates: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a table of rates with their intervals."""
    if not rates:
        return ""
    rows = (
        _rate_row(name.replace("_", " "), rate["count"], rate["num_episodes"], rate)
        for name, rate in rates.items()
    )
    head = (title, "count", "episodes", "rate", "95% interval", "0 to 100%")
    return f"<h2>{escape(title)}</h2>{table(head, rows)}"


def _tasks(report: Mapping[str, Any]) -> str:
    if len(report["tasks"]) == 1:
        return ""
    rows = (
        _rate_row(task["prompt"], task["num_successes"], task["num_episodes"], task)
        for task in report["tasks"]
    )
    head = ("Task", "successes", "episodes", "rate", "95% interval", "0 to 100%")
    return f"<h2>Tasks</h2>{table(head, rows)}"


def _rate_row(name: str, count: int, total: int, rate: Mapping[str, Any]) -> str:
    low, high = rate["ci95"]
    value = count / total
    cells = (name, count, total, f"{value:.0%}", f"{low:.0%} to {high:.0%}")
    bar = f'<td class="bar">{interval_bar(value, rate["ci95"])}</td>'
    return "".join(map(cell, cells)) + bar


def _videos(data: PageData) -> str:
    figures = [
        video_figure(video, episode.result, str(episode.facts["prompt"]))
        for episode in data.played
        if (video := data.videos.get(episode.job))
    ]
    if not figures:
        return ""
    return (
        "<h2>Some failures and some successes</h2><p class='muted'>The first of each, played again "
        f"from the commands sent.</p><section class='videos'>{''.join(figures)}</section>"
    )


def _episodes(report: Mapping[str, Any]) -> str:
    rows = report["episodes"]
    columns = list(rows[0])
    cells = ("".join(cell(row[column]) for column in columns) for row in rows)
    return f"<h2>Episodes</h2>{table(columns, cells)}"
