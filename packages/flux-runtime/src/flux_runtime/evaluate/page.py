"""The HTML page of an evaluation: how good, how sure, task by task, and how it looked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_core.bundle import Manifest
from flux_core.html import (
    Document,
    Html,
    cell,
    element,
    header,
    interval_bar,
    note,
    row,
    section,
    table,
)

from ..report import write_text
from ..report.parts import (
    episode_table,
    episode_video,
    headline,
    milliseconds,
    provenance,
    rate_card,
)
from .evaluator import EpisodeJob, Played

RATE_COLUMNS = ("episodes", "rate", "95% interval", "0 to 100%")


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
    videos: Mapping[EpisodeJob, bytes | None]
    robot: str
    manifest: Manifest


def write_page(path: Path, data: PageData) -> None:
    """Writes the page; a partly written one is never left at `path`."""
    write_text(path, render_page(data))


def render_page(data: PageData) -> str:
    """Returns the page."""
    title = f"{data.report['suite']}: evaluation"
    return Document(title, "flux_runtime.report", style="report.css").render(_body(data))


def _body(data: PageData) -> Iterator[Html]:
    report = data.report
    words = (
        f"{data.robot} · {report['num_episodes']} episodes · seeds {report['seeds'][0]} to "
        f"{report['seeds'][-1]} · engine {report['engine']} · {report['mode']}"
    )
    yield header(str(report["suite"]), note(words))
    yield _headline(report)
    yield _stages(report)
    yield _tasks(report)
    yield _videos(data)
    yield episode_table(report["episodes"])
    yield provenance(data.manifest, report)


def _headline(report: Mapping[str, Any]) -> Html:
    count = report["num_episodes"]
    rates = [rate_card("Success", report["success_rate"], report["ci95"], count)]
    if "strict_success_rate" in report:
        rate, interval = report["strict_success_rate"], report["strict_ci95"]
        rates.append(rate_card("Strict success, held at the end", rate, interval, count))
    figures = {
        "Tasks": len(report["tasks"]),
        "Ticks": report["ticks"],
        "Inference p50": milliseconds(report["inference_p50_ms"]),
        "Sent beyond limits": report["commands_out_of_limit"],
    }
    return headline(rates, figures)


def _stages(report: Mapping[str, Any]) -> Html:
    stages = report["stages"]
    if not stages:
        return Html()
    rows = (
        _rate_row(name.replace("_", " "), rate["count"], rate["num_episodes"], rate["ci95"])
        for name, rate in stages.items()
    )
    return section("Stages", table(("stage", "count", *RATE_COLUMNS), rows))


def _tasks(report: Mapping[str, Any]) -> Html:
    if len(report["tasks"]) == 1:
        return Html()
    rows = (
        _rate_row(task["prompt"], task["num_successes"], task["num_episodes"], task["ci95"])
        for task in report["tasks"]
    )
    return section("Tasks", table(("task", "successes", *RATE_COLUMNS), rows))


def _rate_row(name: str, count: int, total: int, interval: Sequence[float]) -> Html:
    low, high = interval
    rate = count / total
    bar = interval_bar(rate, low, high)
    return row(map(cell, (name, count, total, f"{rate:.0%}", f"{low:.0%} to {high:.0%}", bar)))


def _videos(data: PageData) -> Html:
    figures = [
        episode_video(video, episode.result, str(episode.facts["prompt"]))
        for episode in data.played
        if (video := data.videos.get(episode.job))
    ]
    if not figures:
        return Html()
    return section(
        "Some failures and some successes",
        element("div", *figures, class_="videos"),
        beside=element("small", "the first of each, replayed from the commands sent"),
    )
