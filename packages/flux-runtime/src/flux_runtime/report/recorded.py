"""The part of a run's page that compares predicted chunks with recorded actions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from flux_core.html import (
    Html,
    card,
    cell,
    columns,
    details,
    element,
    figure,
    key,
    note,
    row,
    section,
    table,
)
from flux_core.robots import RobotSpec

from ..predictions import Comparison, PlayedEpisode
from .plots import offsets_figure, prediction_figure


def comparison_section(comparison: Comparison, spec: RobotSpec) -> Html:
    """Returns the errors of each joint, by how far ahead it was predicted, and the chunks of the
    first episodes over the recorded actions."""
    if not comparison.num_actions:
        return Html()
    legend = card(
        note("Mean absolute error in the joint's unit, over seconds from the observation."),
        element("div", *_offsets(comparison, spec), class_="figures"),
    )
    drawn = [episode for episode in comparison.episodes if episode.chunks]
    lines = key({"state": "recorded", "command": "predicted"})
    episodes = [
        details(
            f"Episode {episode.index}: {episode.task}",
            element("div", *_joints(episode, spec), class_="figures"),
            is_open=place == 0,
        )
        for place, episode in enumerate(drawn)
    ]
    parts = [_errors(comparison, spec), legend, *([card(lines, *episodes)] if episodes else [])]
    title = "Predicted against recorded actions"
    beside = element("small", f"{comparison.num_actions} actions")
    return section(title, element("div", *parts, class_="stack"), beside=beside)


def _errors(comparison: Comparison, spec: RobotSpec) -> Html:
    head = columns(("joint", "unit", "mean error", "holding still", "worst", "worst at"))
    rows: list[Html] = []
    units = dict(zip(spec.joint_names, spec.units, strict=True))
    for name, entry in comparison.as_data()["joints"].items():
        held, at = entry["mean_abs_error_of_holding"], entry["worst_at"]
        words = "episode {episode}, step {step}, offset {offset}".format(**at) if at else "-"
        values = (
            name,
            units[name],
            f"{entry['mean_abs_error']:.4g}",
            "-" if held is None else f"{held:.4g}",
            f"{entry['worst']:.4g}",
            words,
        )
        rows.append(row(map(cell, values)))
    return table(head, rows)


def _offsets(comparison: Comparison, spec: RobotSpec) -> Iterator[Html]:
    errors = comparison.by_offset()
    for place, name in enumerate(spec.joint_names):
        label = f"error of {name} by offset"
        yield figure(name, offsets_figure(errors[:, place], spec.control_hz, label))


def _joints(episode: PlayedEpisode, spec: RobotSpec) -> Iterator[Html]:
    known = {
        chunk.step + offset: values
        for chunk in episode.chunks
        for offset, values in enumerate(chunk.recorded)
    }
    steps = np.array(sorted(known))
    if not steps.size:
        return
    actions = np.stack([known[step] for step in steps])
    for place, name in enumerate(spec.joint_names):
        predicted = [
            (
                _seconds(chunk.step + np.arange(len(chunk.predicted)), spec),
                chunk.predicted[:, place],
            )
            for chunk in episode.chunks
        ]
        svg = prediction_figure(
            (_seconds(steps, spec), actions[:, place]),
            predicted,
            label=f"{name}, recorded and predicted, episode {episode.index}",
        )
        yield figure(name, svg)


def _seconds(steps: NDArray[np.int64], spec: RobotSpec) -> NDArray[np.float64]:
    return steps / spec.control_hz
