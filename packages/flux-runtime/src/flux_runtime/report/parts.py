"""Parts of the pages of runs and evaluations: rates, episodes, and where a policy is from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from flux_core.bundle import Manifest
from flux_core.html import (
    Child,
    Html,
    card,
    cell,
    columns,
    definitions,
    details,
    element,
    interval_bar,
    join,
    row,
    section,
    table,
    video,
)

from ..control.episode import EpisodeResult


def headline(rates: Sequence[Html], figures: Mapping[str, Child]) -> Html:
    """Returns the cards at the top: rates, made by `rate_card`, and single figures below them."""
    return element("section", *rates, definitions(figures), class_="headline")


def rate_card(title: str, rate: float, interval: Sequence[float], count: int) -> Html:
    """Returns a rate over `count` episodes with its interval, as numbers and as a bar."""
    low, high = interval
    words = f"{round(rate * count)} of {count} episodes, 95% interval {low:.0%} to {high:.0%}"
    return card(
        element("div", title, class_="muted"),
        element("div", f"{rate:.0%}", class_="rate"),
        interval_bar(rate, low, high),
        element("div", words, class_="muted"),
    )


def milliseconds(value: float | None) -> str:
    """Returns a time as text; a dash for None."""
    return "-" if value is None else f"{value:.1f} ms"


def episode_video(mp4: bytes, result: EpisodeResult, prompt: str) -> Html:
    """Returns an MP4, inside the page, with what the episode was and how it ended."""
    facts = element("small", f"seed {result.seed}, {result.steps} steps:")
    return video(mp4, prompt, element("br"), facts, " ", outcome(result))


def outcome(result: EpisodeResult) -> Html:
    """Returns how an episode ended and, if it failed, which stages it reached."""
    if result.success is None:
        return element("span", "not judged", class_="off")
    if result.strict_success:
        return element("span", "success", class_="yes")
    if result.success:
        return element("span", "success, but not held at the end", class_="no")
    failed = element("span", "failed", class_="no")
    if len(result.stages) == 1:  # its only stage is success itself
        return failed
    reached = [stage.replace("_", " ") for stage, is_reached in result.stages.items() if is_reached]
    return join([failed, " ", element("small", f"(reached: {', '.join(reached) or 'none'})")])


def ending(summary: Mapping[str, Any]) -> Html:
    """Returns how a run ended early; nothing for one that ended as planned."""
    if summary.get("outcome", "finished") == "finished":
        return Html()
    words = f"This run ended early: {summary['outcome']}"
    by = f" by {summary['stopped_by']}" if summary["stopped_by"] else ""
    reason = element("div", str(summary["reason"] or ""), class_="muted")
    return element("section", card(element("strong", f"{words}{by}.", class_="no"), reason))


def limits_section(summary: Mapping[str, Any]) -> Html:
    """Returns the limits that were in force, and who states each of them."""
    limits: Mapping[str, Any] = summary.get("limits") or {}
    if not limits:
        return Html()
    fields = {name: joints for name, joints in limits.items() if isinstance(joints, Mapping)}
    names = list(next(iter(fields.values())))
    values = (
        row(map(cell, (joint, *(f"{joints[joint]['value']:.5g}" for joints in fields.values()))))
        for joint in names
    )
    sources = {name.replace("_", " "): _sources(joints) for name, joints in fields.items()}
    parts = table(columns(("joint", *fields)), values), definitions(sources)
    return section("Limits in force", element("div", *parts, class_="stack"))


def _sources(joints: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns where a limit comes from; of which joints, if it is not the same for all."""
    by_source: dict[str, list[str]] = {}
    for joint, entry in joints.items():
        by_source.setdefault(entry["source"], []).append(joint)
    if len(by_source) == 1:
        return next(iter(by_source))
    return "; ".join(f"{source} ({', '.join(named)})" for source, named in by_source.items())


def episode_table(episodes: Sequence[Mapping[str, Any]]) -> Html:
    """Returns a table of what `--json` prints for each episode."""
    names = list(episodes[0])
    rows = (row(cell(episode[name]) for name in names) for episode in episodes)
    return section("Episodes", table(columns(names), rows))


def provenance(manifest: Manifest | None, summary: Mapping[str, Any]) -> Html:
    """Returns what the bundle is, and what it was made from."""
    if manifest is None:
        return section("Policy", card("The start state, held. No bundle was used."))
    error = summary["golden_max_abs_error"]
    values = {
        "Bundle": str(summary["bundle"]),
        "Model": f"{manifest.model}, {manifest.precision}",
        "Chunk": f"{manifest.action_horizon} predicted, {manifest.execution_horizon} executed",
        "Euler steps": manifest.num_inference_steps,
        "Cameras": ", ".join(manifest.cameras),
        "Pictures": f"{manifest.image_width} x {manifest.image_height}",
        "Control rate": f"{manifest.control_hz:g} Hz",
        "Golden replay": "-" if error is None else f"{error:.2g} from the reference",
    }
    files = {
        name: f"{entry.bytes} bytes, sha256 {entry.sha256}"
        for name, entry in manifest.files.items()
    }
    text = json.dumps({"provenance": manifest.provenance, "files": files}, indent=2, default=str)
    origin = card(details("Provenance and files", element("pre", text)))
    return section("Policy", element("div", definitions(values), origin, class_="stack"))
