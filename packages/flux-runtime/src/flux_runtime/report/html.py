"""Lays out the run report: what happened, how sure it is, how it looked, how long it took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from flux_core.bundle import Manifest
from flux_core.robots import RobotSpec

from ..control.episode import EpisodeResult
from ..control.latency import Histogram
from .parts import (
    cell,
    definitions,
    heading,
    page,
    provenance,
    rate_card,
    table,
    video_figure,
)
from .plots import joint_figure, latency_figure

_ARMS = ("left", "right")
_STAGE_NOTES = {
    "render": "camera pictures and state",
    "encode": "observation to network inputs",
    "copy_in": "inputs into the bound buffers",
    "prefix": "pictures and prompt, once per chunk",
    "step": "one Euler step",
    "denoise": "all Euler steps of a chunk",
    "inference": "copy, prefix and denoise",
    "tick": "next command and safety filter",
    "jitter": "how late ticks began",
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
    """

    spec: RobotSpec
    summary: Mapping[str, Any]
    results: Sequence[EpisodeResult]
    videos: Sequence[bytes | None]
    num_plotted: int
    histograms: Mapping[str, Histogram]
    manifest: Manifest | None


def render_report(data: ReportData) -> str:
    """Returns the page."""
    title = f"{data.spec.name}: {data.summary['prompt'] or data.summary['policy']}"
    sections = [
        _headline(data),
        _videos(data),
        _episode_table(data),
        _joints(data),
        _latencies(data),
        provenance(data.manifest, data.summary),
    ]
    return page(title, _header(data), sections)


def _header(data: ReportData) -> str:
    summary = data.summary
    words = (
        f"{data.spec.name} · policy {summary['policy']} · {summary['mode']} · "
        f"{summary['clock']} clock · engine {summary['engine']}"
    )
    return heading(str(summary["prompt"] or "No task given"), words)


def _headline(data: ReportData) -> str:
    summary = data.summary
    count = len(data.results)
    cards: list[str] = []
    if summary["success_rate"] is not None:
        cards.append(rate_card("Success", summary["success_rate"], summary["ci95"], count))
        cards.append(
            rate_card(
                "Strict success, held at the end",
                summary["strict_success_rate"],
                summary["strict_ci95"],
                count,
            )
        )
    return f'<section class="headline">{"".join(cards)}{_figures_card(summary)}</section>'


def _figures_card(summary: Mapping[str, Any]) -> str:
    inference = summary["inference_p50_ms"]
    violations = ", ".join(
        f"{count} {kind.replace('_', ' ')}"
        for kind, count in summary["violations"].items()
        if count
    )
    values = {
        "Episodes": len(summary["episodes"]),
        "Ticks": summary["ticks"],
        "Deadline misses": summary["deadline_misses"],
        "Held ticks": summary["held_ticks"],
        "Inference p50": "-" if inference is None else f"{inference:.1f} ms",
        "Jitter p99": f"{summary['jitter_p99_ms']:.3f} ms",
        "Policy beyond limits": violations or "never",
        "Sent beyond limits": summary["commands_out_of_limit"],
    }
    return f'<div class="card wide">{definitions(values)}</div>'


def _videos(data: ReportData) -> str:
    figures = [
        video_figure(video, result, str(data.summary["prompt"]))
        for video, result in zip(data.videos, data.results, strict=True)
        if video
    ]
    if not figures:
        return ""
    return f'<h2>Videos</h2><section class="videos">{"".join(figures)}</section>'


def _episode_table(data: ReportData) -> str:
    rows = data.summary["episodes"]
    columns = list(rows[0])
    cells = ("".join(cell(row[column]) for column in columns) for row in rows)
    return f"<h2>Episodes</h2>{table(columns, cells)}"


def _joints(data: ReportData) -> str:
    plotted = [result for result in data.results[: data.num_plotted] if result.steps]
    if not plotted:
        return ""
    key = (
        '<div class="key"><span><i style="color:var(--series-1)"></i>command</span>'
        '<span><i style="color:var(--series-2)"></i>state</span>'
        '<span><i style="color:var(--line)"></i>new chunk asked for</span>'
        '<span><i style="color:var(--bad);border-top-style:dashed"></i>limit</span></div>'
    )
    blocks = (
        f"<details{' open' if index == 0 else ''}><summary>Episode with seed {result.seed}"
        f"</summary>{''.join(_arm_blocks(data.spec, result))}</details>"
        for index, result in enumerate(plotted)
    )
    return f'<h2>Joints over time, in seconds</h2><div class="card">{key}{"".join(blocks)}</div>'


def _arm_blocks(spec: RobotSpec, result: EpisodeResult) -> Iterator[str]:
    """Yields one block of figures per arm; a robot with one arm has one."""
    arms = {arm: [i for i, n in enumerate(spec.joint_names) if n.startswith(arm)] for arm in _ARMS}
    if sum(map(len, arms.values())) != spec.action_dim or not all(arms.values()):
        arms = {"": list(range(spec.action_dim))}
    for arm, joints in arms.items():
        title = f"<h3>{arm.capitalize()} arm</h3>" if arm else ""
        figures = "".join(_joint(spec, result, joint, arm) for joint in joints)
        yield f'{title}<div class="grid">{figures}</div>'


def _joint(spec: RobotSpec, result: EpisodeResult, joint: int, arm: str) -> str:
    name = spec.joint_names[joint].removeprefix(f"{arm}_").replace("_", " ")
    limits = spec.lower[joint], spec.upper[joint]
    is_state = not spec.is_commanded_by_differences
    svg = joint_figure(
        commands=np.asarray(result.trace.commands)[:, joint],
        states=np.asarray(result.trace.states)[:, joint] if is_state else None,
        chunk_starts=result.trace.chunk_starts,
        control_hz=spec.control_hz,
        limits=limits,
        label=f"{spec.joint_names[joint]}, seed {result.seed}",
    )
    unit = "" if spec.units[joint] == "normalized" else f" {spec.units[joint]}"
    caption = f"{limits[0]:.2f} to {limits[1]:.2f}{unit}"
    return (
        f"<figure><figcaption>{escape(name)}<small>{escape(caption)}</small></figcaption>"
        f"{svg}</figure>"
    )


def _latencies(data: ReportData) -> str:
    stages = {stage: h for stage, h in data.histograms.items() if h["count"]}
    ordered = [
        *(s for s in _STAGE_NOTES if s in stages),
        *(s for s in stages if s not in _STAGE_NOTES),
    ]
    if not ordered:
        return ""
    columns = ("count", "p50_ms", "p95_ms", "p99_ms", "max_ms")
    head = "".join(f"<th>{c.replace('_ms', ' ms')}</th>" for c in ("stage", *columns))
    rows = "".join(_latency_row(stage, stages[stage]) for stage in ordered)
    figures = "".join(
        f"<figure><figcaption>{escape(stage)}<small>{_STAGE_NOTES.get(stage, '')}</small>"
        f"</figcaption>{latency_figure(stages[stage], f'latency of {stage}')}</figure>"
        for stage in ordered
    )
    return (
        f'<h2>Latency</h2><div class="card scroll"><table><thead><tr>{head}</tr></thead><tbody>'
        f'{rows}</tbody></table></div><div class="card" style="margin-top:1rem"><div class="key">'
        "<span>Counts over milliseconds, logarithmic. Line: p50, dashed: p99.</span></div>"
        f'<div class="grid">{figures}</div></div>'
    )


def _latency_row(stage: str, histogram: Histogram) -> str:
    values = (histogram[key] for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms"))
    cells = "".join(f"<td>{value:.3g}</td>" for value in values)
    return f"<tr><td>{escape(stage)}</td><td>{histogram['count']}</td>{cells}</tr>"
