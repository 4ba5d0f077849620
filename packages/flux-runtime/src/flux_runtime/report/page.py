"""Lays out the run report: what happened, how sure it is, how it looked, how long it took."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flux_core.bundle import Manifest
from flux_core.html import (
    Child,
    Document,
    Html,
    card,
    cell,
    columns,
    details,
    element,
    figure,
    header,
    key,
    note,
    row,
    section,
    table,
)
from flux_core.robots import RobotSpec

from ..control.episode import OF_THE_POLICY, EpisodeResult
from ..control.latency import Histogram
from ..predictions import Comparison
from .parts import (
    ending,
    episode_table,
    episode_video,
    headline,
    limits_section,
    milliseconds,
    provenance,
    rate_card,
)
from .plots import joint_figure, latency_figure
from .recorded import comparison_section
from .timing import timing_section

_ARMS = ("left", "right")
_STAGE_NOTES = {
    "render": "camera pictures and state",
    "observe": "the newest state and images",
    "encode": "observation to network inputs",
    "copy_in": "inputs into the bound buffers",
    "prefix": "pictures and prompt, once per chunk",
    "step": "one Euler step",
    "denoise": "all Euler steps of a chunk",
    "inference": "copy, prefix and denoise",
    "tick": "next command and safety filter",
    "jitter": "how late ticks began",
    "interval": "between two commands, as they left",
}


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything the page shows.

    Attributes:
        spec: the robot.
        summary: what `--json` prints.
        results: all episodes.
        videos: one MP4 per episode, or None.
        num_plotted: how many episodes are drawn joint by joint.
        histograms: stage -> latencies.
        manifest: of the bundle, None without one.
        comparison: of predicted chunks with recorded actions, if recordings were played.
    """

    spec: RobotSpec
    summary: Mapping[str, Any]
    results: Sequence[EpisodeResult]
    videos: Sequence[bytes | None]
    num_plotted: int
    histograms: Mapping[str, Histogram]
    manifest: Manifest | None
    comparison: Comparison | None = None


def render_report(data: ReportData) -> str:
    """Returns the page."""
    title = f"{data.spec.name}: {data.summary['prompt'] or data.summary['policy']}"
    return Document(title, "flux_runtime.report", style="report.css").render(_body(data))


def _body(data: ReportData) -> Iterator[Html]:
    yield _header(data)
    yield ending(data.summary)
    yield _headline(data)
    yield _videos(data)
    yield episode_table(data.summary["episodes"])
    if data.comparison is not None:
        yield comparison_section(data.comparison, data.spec)
    yield _joints(data)
    yield timing_section(data.results, data.summary)
    yield _latencies(data)
    yield limits_section(data.summary)
    yield provenance(data.manifest, data.summary)


def _header(data: ReportData) -> Html:
    summary = data.summary
    words = (
        f"{data.spec.name} · policy {summary['policy']} · mode {summary['mode']} "
        f"({summary['mode_reason']}) · {summary['clock']} clock · engine {summary['engine']}"
    )
    if (command_hz := summary["command_hz"]) != data.spec.control_hz:
        words += f" · {command_hz:g} commands per second"
    if (speed := summary["speed"]) != 1:
        words += f" · speed {speed:g}"
    if server := summary.get("remote"):
        words += f" · server {server['url']}"
    if changed := summary.get("changed_after_training"):
        words += f" · changed after training: {json.dumps(changed, ensure_ascii=False)}"
    return header(str(summary["prompt"] or "No task given"), note(words))


def _headline(data: ReportData) -> Html:
    summary = data.summary
    count = len(data.results)
    rates: list[Html] = []
    if summary["success_rate"] is not None:
        rates.append(rate_card("Success", summary["success_rate"], summary["ci95"], count))
        rates.append(
            rate_card(
                "Strict success, held at the end",
                summary["strict_success_rate"],
                summary["strict_ci95"],
                count,
            )
        )
    return headline(rates, _figures(summary))


def _figures(summary: Mapping[str, Any]) -> dict[str, Child]:
    violations = ", ".join(
        f"{count} {kind.replace('_', ' ')}"
        for kind, count in summary["violations"].items()
        if count and kind in OF_THE_POLICY
    )
    return {
        "Episodes": len(summary["episodes"]),
        "Ticks": summary["ticks"],
        "Deadline misses": summary["deadline_misses"],
        "Held ticks": summary["held_ticks"],
        "Inference p50": milliseconds(summary["inference_p50_ms"]),
        "Jitter p99": f"{summary['jitter_p99_ms']:.3f} ms",
        "Policy beyond limits": violations or "never",
        "Sent beyond limits": summary["commands_out_of_limit"],
        **_rtc_figures(summary["rtc"]),
        **_server_figures(summary.get("remote")),
    }


def _rtc_figures(rtc: Mapping[str, Any] | None) -> dict[str, Child]:
    if rtc is None:
        return {}
    counts = ", ".join(f"{count} × {rows}" for rows, count in rtc["delays"].items())
    return {
        "Chunks × known rows": f"{counts or 'none'} ({rtc['method']})",
        "Late chunks": rtc["late"],
    }


def _server_figures(server: Mapping[str, Any] | None) -> dict[str, Child]:
    """Returns how the connection to a policy server has been."""
    if server is None:
        return {}
    trip = server["round_trip_ms"]
    return {
        "Round trip p50": milliseconds(trip["p50"]),
        "Round trip p95": milliseconds(trip["p95"]),
        "Reconnects": server["reconnects"],
        "Late answers": server["late_answers"],
    }


def _videos(data: ReportData) -> Html:
    figures = [
        episode_video(video, result, str(data.summary["prompt"]))
        for video, result in zip(data.videos, data.results, strict=True)
        if video
    ]
    if not figures:
        return Html()
    return section("Videos", element("div", *figures, class_="videos"))


def _joints(data: ReportData) -> Html:
    plotted = [result for result in data.results[: data.num_plotted] if result.trace.commands]
    if not plotted:
        return Html()
    lines = {
        "command": "command",
        "state": "state",
        "chunk": "new chunk requested",
        "limit": "limit",
    }
    episodes = (
        details(
            f"Episode with seed {result.seed}",
            *_arms(data.spec, result),
            is_open=index == 0,
        )
        for index, result in enumerate(plotted)
    )
    beside = element("small", "seconds")
    return section("Joints over time", card(key(lines), *episodes), beside=beside)


def _arms(spec: RobotSpec, result: EpisodeResult) -> Iterator[Html]:
    """Yields the figures of each arm under its name; a robot with one arm has no names of arms."""
    arms = {arm: [i for i, n in enumerate(spec.joint_names) if n.startswith(arm)] for arm in _ARMS}
    if sum(map(len, arms.values())) != spec.action_dim or not all(arms.values()):
        arms = {"": list(range(spec.action_dim))}
    for arm, joints in arms.items():
        if arm:
            yield element("h3", f"{arm.capitalize()} arm")
        figures = (_joint(spec, result, joint, arm) for joint in joints)
        yield element("div", *figures, class_="figures")


def _joint(spec: RobotSpec, result: EpisodeResult, joint: int, arm: str) -> Html:
    name = spec.joint_names[joint].removeprefix(f"{arm}_").replace("_", " ")
    limits = spec.lower[joint], spec.upper[joint]
    is_state = not spec.is_commanded_by_differences
    starts = np.asarray(result.trace.chunk_starts, np.float64) / spec.control_hz
    if result.timing is not None:
        starts = np.array([inference.time_s for inference in result.timing.inferences])
    svg = joint_figure(
        seconds=result.trace.seconds(spec.control_hz),
        commands=np.asarray(result.trace.commands)[:, joint],
        states=np.asarray(result.trace.states)[:, joint] if is_state else None,
        chunk_starts_s=starts,
        limits=limits,
        label=f"{spec.joint_names[joint]}, seed {result.seed}",
    )
    unit = "" if spec.units[joint] == "normalized" else f" {spec.units[joint]}"
    return figure(name, svg, beside=f"{limits[0]:.2f} to {limits[1]:.2f}{unit}")


def _latencies(data: ReportData) -> Html:
    stages = {stage: h for stage, h in data.histograms.items() if h["count"]}
    ordered = [
        *(s for s in _STAGE_NOTES if s in stages),
        *(s for s in stages if s not in _STAGE_NOTES),
    ]
    if not ordered:
        return Html()
    head = columns(("stage", "count", "p50_ms", "p95_ms", "p99_ms", "max_ms"))
    rows = (_latency_row(stage, stages[stage]) for stage in ordered)
    figures = (
        figure(
            stage,
            latency_figure(stages[stage], f"latency of {stage}"),
            beside=_STAGE_NOTES.get(stage, ""),
        )
        for stage in ordered
    )
    legend = "Counts over milliseconds, logarithmic. Line: p50, dashed: p99."
    drawn = card(note(legend), element("div", *figures, class_="figures"))
    return section("Latency", element("div", table(head, rows), drawn, class_="stack"))


def _latency_row(stage: str, histogram: Histogram) -> Html:
    values = (histogram[key] for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms"))
    return row(map(cell, (stage, histogram["count"], *(f"{value:.3g}" for value in values))))
