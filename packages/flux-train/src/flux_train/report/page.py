"""Lays out the training report: how a run is doing, robot by robot, and what it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from flux_core.errors import DataError, UsageError
from flux_core.html.document import Document, data_block, definitions

from .curves import group_names, page_data, recent
from .facts import RunFacts, read_facts, summary
from .history import History, read_history
from .samples import SampleBlocks, read_samples


def write_report(work_dir: Path, out: Path | None = None) -> dict[str, Any]:
    """Writes one HTML file about a run, finished or not; none is left half written.

    Args:
        work_dir: the run's directory.
        out: the file; default: WORK_DIR/report.html. An older one is replaced.

    Returns:
        `out`, `bytes`, `step`, `total_steps`, `loss`, `validation_loss` (the newest; None without),
        `num_lines`, `num_validations` and `num_broken_lines`.

    Raises:
        UsageError: `out` is no place for a file.
        DataError: there is no `work_dir`, or it has no metrics.jsonl.
    """
    if not work_dir.is_dir():
        raise DataError(f"{work_dir}: expected the work dir of a run, got a path that is no folder")
    out = out or work_dir / "report.html"
    if out.is_dir() or not out.resolve().parent.is_dir():
        raise UsageError(f"--out {out}: expected a file in a directory that exists")
    history = read_history(work_dir / "metrics.jsonl")
    facts = read_facts(work_dir, history)
    samples = read_samples(work_dir, history)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            for piece in _page(work_dir.resolve().name, history, facts, samples):
                file.write(piece)
        size = partial.stat().st_size
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    return {
        "out": str(out),
        "bytes": size,
        "step": history.last_step,
        "total_steps": facts.total_steps,
        "loss": recent(history.train, "loss"),
        "validation_loss": history.validation.last("loss"),
        "num_lines": len(history.train),
        "num_validations": len(history.validation),
        "num_broken_lines": history.num_broken,
    }


def _page(title: str, history: History, facts: RunFacts, samples: SampleBlocks) -> Iterator[str]:
    document = Document("flux_train.report", "report", "charts", "samples", "report")
    groups = group_names(history, samples)
    yield document.head(f"{title}: training")
    yield (
        f"<header><h1>{escape(title)}{_state(facts)}</h1>"
        f"{definitions(_headline(history, facts))}</header>\n"
        '<p id="error" class="bad" hidden></p><main>\n'
    )
    if len(history.train) + len(history.validation):
        yield _loss()
        yield _run_curves()
        yield _robots(groups, history, samples)
    else:
        yield '<p class="card nothing">This run has not logged anything yet.</p>'
    yield _about(facts)
    yield "</main>\n"
    yield data_block("page-data", page_data(history, facts, samples, groups))
    yield from samples.blocks()
    yield document.end()


def _state(facts: RunFacts) -> str:
    """Whether the run is done, as far as its files can tell."""
    if facts.is_finished:
        return '<span class="pill done">finished</span>'
    return '<span class="pill">running or stopped</span>'


def _headline(history: History, facts: RunFacts) -> dict[str, str]:
    train, validation = history.train, history.validation
    total = f" of {facts.total_steps:,}" if facts.total_steps else ""
    values: dict[str, str | None] = {"Step": f"{history.last_step:,}{total}"}
    if (epoch := train.last("epoch")) is not None:
        values["Epoch"] = f"{epoch:g}"
    values["Loss"] = _short(recent(train, "loss"))
    losses = validation.scalar("loss")
    if np.isfinite(losses).any():
        values["Held-out loss"] = _short(validation.last("loss"))
        best = int(np.nanargmin(losses))
        values["Best held-out"] = f"{losses[best]:.3g} at step {int(validation.steps[best]):,}"
    values["Samples a second"] = _short(recent(train, "samples_per_s"), ",.3g")
    values["Waiting for data"] = _short(recent(train, "data_wait_share"), ".0%")
    values["MFU"] = _short(recent(train, "mfu"), ".0%")
    peak = train.last("peak_memory_bytes")
    values["Peak memory"] = None if peak is None else f"{peak / 2**30:.3g} GiB"
    if facts.num_parameters is not None:
        values["Parameters"] = _count(facts.num_parameters)
    skipped = train.last("skipped_steps")
    values["Skipped steps"] = None if skipped is None else f"{skipped:,.0f}"
    return {name: value for name, value in values.items() if value is not None}


def _count(number: int) -> str:
    """'3.35 B', '12.4 M'."""
    for name, size in (("B", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:,}"


def _short(value: float | None, pattern: str = ".3g") -> str | None:
    return None if value is None else format(value, pattern)


def _choice(name: str, label: str, *options: str) -> str:
    """Buttons of which one is pressed; the script finds them by `name`."""
    buttons = "".join(
        f'<button type="button" data-value="{escape(option, quote=True)}" '
        f'aria-pressed="{"true" if option == options[0] else "false"}">{escape(option)}</button>'
        for option in options
    )
    return f'<span class="choice" id="{name}" role="group" aria-label="{label}">{buttons}</span>'


def _loss() -> str:
    return (
        '<section><h2>Loss <small id="moment"></small><span class="controls">'
        '<label>smoothing <input type="range" id="smoothing" min="0" max="100" value="60" '
        'aria-label="smoothing"><output id="smoothing-value"></output></label>'
        f"{_choice('scale', 'scale', 'log', 'linear')}{_choice('axis', 'axis', 'step', 'epoch')}"
        '<button type="button" id="whole" hidden>whole run</button></span></h2>'
        '<div class="card"><div id="loss"></div></div></section>\n'
    )


def _run_curves() -> str:
    return (
        '<section id="run"><h2>Optimisation and throughput</h2>'
        '<div class="card"><div class="grid wide" id="run-curves"></div></div></section>\n'
    )


def _robots(groups: list[str], history: History, samples: SampleBlocks) -> str:
    if not groups:
        return ""
    choice = _choice("group", "robot", *groups) if len(groups) > 1 else ""
    return (
        f'<section id="robots"><h2>By action dimension <small id="group-name"></small>{choice}</h2>'
        '<div class="card scroll"><table id="dimensions"></table></div></section>\n'
        '<section id="errors" hidden><h2>Open-loop error <small>of held-out frames, in the '
        "robot's units, over training</small></h2>"
        '<div class="card"><div class="key"></div><div class="grid"></div></div></section>\n'
        f"{_samples() if samples else ''}"
    )


def _samples() -> str:
    return (
        '<section id="samples"><h2>Predicted and recorded actions <small id="sample-of"></small>'
        '</h2><div class="bench"><div class="card player"><div id="cameras"></div>'
        '<label>frame <output id="frame-value"></output>'
        '<input type="range" id="frame" min="0" max="0" value="0" aria-label="frame"></label>'
        '<label>policy of step <output id="policy-value"></output>'
        '<input type="range" id="policy" min="0" max="0" value="0" aria-label="policy of step">'
        '</label><p class="muted keys"><kbd>←</kbd> <kbd>→</kbd> frame · <kbd>P</kbd> '
        '<kbd>N</kbd> policy</p></div><div class="card"><div class="key">'
        '<span><i class="recorded"></i>recorded</span>'
        '<span><i class="action"></i>predicted at this frame</span>'
        '<span><i class="faint"></i>at the other frames</span></div>'
        '<div class="grid"></div></div></div></section>\n'
    )


def _about(facts: RunFacts) -> str:
    values = summary(facts)
    if not values:
        return ""
    texts = "".join(
        f"<details><summary>{name}</summary><pre>{escape(json.dumps(tree, indent=1))}</pre>"
        "</details>"
        for name, tree in (("Config", facts.config), ("Environment", facts.environment))
        if tree
    )
    return (
        f'<section id="about"><h2>The run</h2>{definitions(values)}'
        f'<div class="card texts">{texts}</div></section>\n'
    )
