"""Lays out the training report: how a run is doing, robot by robot, and how it was set up."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flux_core.errors import DataError, UsageError
from flux_core.html import (
    Document,
    Html,
    card,
    data_block,
    definitions,
    details,
    element,
    error_line,
    header,
    join,
    key,
    section,
)

from .curves import group_names, page_data, recent
from .facts import RunFacts, read_facts, summary
from .held_out import held_out_weights, same_weights, stated_weights
from .history import History, read_history
from .samples import SampleBlocks, read_samples


def write_report(work_dir: Path, out: Path | None = None) -> dict[str, Any]:
    """Writes one HTML file about a run, finished or not; never leaves a partly written one.

    Args:
        work_dir: the run's directory.
        out: the file; default: WORK_DIR/report.html. An older one is replaced.

    Returns:
        `out`, `bytes`, `step`, `total_steps`, `loss`, `validation_loss` (the newest; None without),
        `num_lines`, `num_validations` and `num_broken_lines`, and, if the newest validation says
        so, `validation_weights` ('average' or 'current').

    Raises:
        UsageError: `out` is a folder, or its folder does not exist.
        DataError: there is no `work_dir`, or it has no metrics.jsonl.
    """
    if not work_dir.is_dir():
        raise DataError(
            f"{work_dir}: expected the work dir of a run, got a path that is not a folder"
        )
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
        **stated_weights(history.validation),
    }


def _page(title: str, history: History, facts: RunFacts, samples: SampleBlocks) -> Iterator[str]:
    scripts = ("charts.js", "samples.js", "report.js")
    document = Document(
        f"{title}: training", "flux_train.report", style="report.css", scripts=scripts
    )
    return document.pieces(_body(title, history, facts, samples))


def _body(title: str, history: History, facts: RunFacts, samples: SampleBlocks) -> Iterator[Html]:
    groups = group_names(history, samples)
    yield header(join([title, _state(facts)]), definitions(_headline(history, facts)))
    yield error_line()
    yield element("main", *_sections(groups, history, facts, samples))
    yield data_block("page-data", page_data(history, facts, samples, groups))
    yield from samples.blocks()


def _sections(
    groups: list[str], history: History, facts: RunFacts, samples: SampleBlocks
) -> Iterator[Html]:
    if len(history.train) + len(history.validation):
        yield _loss()
        yield _run_curves()
        yield from _robots(groups, samples)
    else:
        yield element("p", "This run has not logged anything yet.", class_="card nothing")
    yield _about(facts)


def _state(facts: RunFacts) -> Html:
    """Returns whether the run has finished, as far as its files show."""
    if facts.is_finished:
        return element("span", "finished", class_="pill done")
    return element("span", "running or stopped", class_="pill")


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
        values["Held-out weights"] = held_out_weights(history, facts)
        comparable = np.where(same_weights(validation), losses, np.nan)
        best = int(np.nanargmin(comparable))
        values["Best held-out"] = f"{comparable[best]:.3g} at step {int(validation.steps[best]):,}"
    values["Samples per second"] = _short(recent(train, "samples_per_s"), ",.3g")
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
    """Returns a number in short: '3.35 B', '12.4 M'."""
    for name, size in (("B", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:,}"


def _short(value: float | None, pattern: str = ".3g") -> str | None:
    return None if value is None else format(value, pattern)


def _choice(id: str, label: str, *options: str) -> Html:
    """Returns buttons of which one is pressed; the script finds them by `id`."""
    buttons = (
        element(
            "button",
            option,
            type="button",
            data_value=option,
            aria_pressed="true" if option == options[0] else "false",
        )
        for option in options
    )
    return element("span", *buttons, class_="choice", id=id, role="group", aria_label=label)


def _slider(id: str, label: str, largest: int, value: int = 0) -> Html:
    return element("input", type="range", id=id, min=0, max=largest, value=value, aria_label=label)


def _loss() -> Html:
    smoothing = element(
        "label",
        "smoothing ",
        _slider("smoothing", "smoothing", 100, 60),
        element("output", id="smoothing-value"),
    )
    controls = element(
        "span",
        smoothing,
        _choice("scale", "scale", "log", "linear"),
        _choice("axis", "axis", "step", "epoch"),
        element("button", "whole run", type="button", id="whole", hidden=True),
        class_="controls",
    )
    beside = join([element("small", id="moment"), controls])
    return section("Loss", card(element("div", id="loss")), beside=beside)


def _run_curves() -> Html:
    curves = element("div", class_="grid wide", id="run-curves")
    return section("Optimisation and throughput", card(curves), id="run")


def _robots(groups: list[str], samples: SampleBlocks) -> Iterator[Html]:
    if not groups:
        return
    choice = _choice("group", "robot", *groups) if len(groups) > 1 else ""
    yield section(
        "By action dimension",
        card(element("table", id="dimensions"), class_="scroll"),
        beside=join([element("small", id="group-name"), choice]),
        id="robots",
    )
    words = "on held-out frames, in the robot's units, over training"
    yield section(
        "Open-loop error",
        card(key({}), element("div", class_="grid")),
        beside=element("small", words),
        id="errors",
        is_hidden=True,
    )
    if samples:
        yield _samples()


def _samples() -> Html:
    frame, policy = "frame", "policy of step"
    player = card(
        element("div", id="cameras"),
        element(
            "label", f"{frame} ", element("output", id="frame-value"), _slider("frame", frame, 0)
        ),
        element(
            "label",
            f"{policy} ",
            element("output", id="policy-value"),
            _slider("policy", policy, 0),
        ),
        _keyboard(),
        class_="player",
    )
    lines = {
        "recorded": "recorded",
        "action": "predicted at this frame",
        "faint": "predicted at the other frames",
    }
    chunks = card(key(lines), element("div", class_="grid"))
    return section(
        "Predicted and recorded actions",
        element("div", player, chunks, class_="bench"),
        beside=element("small", id="sample-of"),
        id="samples",
    )


def _keyboard() -> Html:
    """What the keys do."""
    left, right, previous, following = (element("kbd", name) for name in ("←", "→", "P", "N"))
    words = (left, " ", right, " frame · ", previous, " ", following, " policy")
    return element("p", *words, class_="muted keys")


def _about(facts: RunFacts) -> Html:
    values = summary(facts)
    if not values:
        return Html()
    trees = (("Config", facts.config), ("Environment", facts.environment))
    texts = [details(name, element("pre", json.dumps(t, indent=1))) for name, t in trees if t]
    cards = element("div", definitions(values), card(*texts), class_="stack")
    return section("The run", cards, id="about")
