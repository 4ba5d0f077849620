"""Pieces of pages: the frame, rates with their intervals, videos, cells, where a policy is from."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from flux_core.bundle import Manifest

from ..control.episode import EpisodeResult
from .style import STYLE


def page(title: str, header: str, sections: Iterable[str]) -> str:
    """Returns a whole page; `header` and `sections` are HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}\n</style></head>\n<body>\n"
        f"{header}\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def heading(title: str, words: str) -> str:
    """Returns the page's title and a line below it."""
    return f'<header><h1>{escape(title)}</h1><p class="muted">{escape(words)}</p></header>'


def rate_card(title: str, rate: float, interval: Sequence[float], count: int) -> str:
    """Returns a rate over `count` episodes with its interval, as numbers and as a bar."""
    low, high = interval
    return (
        f'<div class="card"><div class="muted">{escape(title)}</div>'
        f'<div class="rate">{rate:.0%}</div>'
        f"{interval_bar(rate, interval)}"
        f'<div class="muted">{round(rate * count)} of {count} episodes, 95% interval '
        f"{low:.0%} to {high:.0%}</div></div>"
    )


def interval_bar(rate: float, interval: Sequence[float]) -> str:
    """Returns a bar from 0 to 1 with the interval in colour and the rate as a line."""
    low, high = interval
    return (
        f'<div class="interval"><i style="left:{low:.2%};right:{1 - high:.2%}"></i>'
        f'<b style="left:{rate:.2%}"></b></div>'
    )


def definitions(values: Mapping[str, object]) -> str:
    """Returns names and values side by side."""
    items = (f"<div><dt>{escape(k)}</dt><dd>{escape(str(v))}</dd></div>" for k, v in values.items())
    return f"<dl>{''.join(items)}</dl>"


def video_figure(video: bytes, result: EpisodeResult, prompt: str) -> str:
    """Returns an MP4, inside the page, with what the episode was and how it ended."""
    encoded = base64.b64encode(video).decode("ascii")
    return (
        '<figure><video controls muted loop playsinline preload="metadata" '
        f'src="data:video/mp4;base64,{encoded}"></video><figcaption>{escape(prompt)}<br>'
        f"<small>seed {result.seed}, {result.steps} steps:</small> {outcome(result)}"
        "</figcaption></figure>"
    )


def outcome(result: EpisodeResult) -> str:
    """Returns how an episode ended, and of a failed one what it reached."""
    if result.success is None:
        return '<span class="off">not judged</span>'
    if result.strict_success:
        return '<span class="yes">success</span>'
    if result.success:
        return '<span class="no">success, but not held at the end</span>'
    if len(result.stages) == 1:  # there is nothing to reach but success
        return '<span class="no">failed</span>'
    reached = [stage.replace("_", " ") for stage, is_reached in result.stages.items() if is_reached]
    return (
        f'<span class="no">failed</span> <small>(reached: {", ".join(reached) or "none"})</small>'
    )


def table(head: Iterable[str], rows: Iterable[str]) -> str:
    """Returns a table in a card; `rows` are cells."""
    names = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in head)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<div class="card scroll"><table><thead><tr>{names}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def cell(value: object) -> str:
    """Returns a cell of a table."""
    if value is None:
        return '<td class="off">-</td>'
    if isinstance(value, bool):
        return '<td class="yes">yes</td>' if value else '<td class="off">no</td>'
    return f"<td>{escape(str(value))}</td>"


def provenance(manifest: Manifest | None, summary: Mapping[str, Any]) -> str:
    """Returns what the bundle is, and what it was made from."""
    if manifest is None:
        return "<h2>Policy</h2><div class='card'>The start state, held. No bundle was used.</div>"
    error = summary["golden_max_abs_error"]
    values = {
        "Bundle": summary["bundle"],
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
    return (
        f'<h2>Policy</h2><div class="card">{definitions(values)}<details><summary>Provenance and '
        f"files</summary><pre>{escape(text)}</pre></details></div>"
    )
