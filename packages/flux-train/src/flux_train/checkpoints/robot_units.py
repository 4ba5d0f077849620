"""The summary of a training set in the units of the robot that will be compared with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.deployment import InferenceRunner
from flux_core.transforms import Pipeline
from flux_data.samples import DistributedRepeatingDataset

QUANTITIES = ("state", "action")
WITH_UNITS = (*QUANTITIES, "start", "grippers")
PAIRS = (("min", "max"), ("q01", "q99"))
ROBOT_UNITS = "robot_units"
"""Is 1 in a summary whose ranges are known to be in the robot's units."""


def summary_for_robots(
    dataset: DistributedRepeatingDataset,
    robots: Mapping[str, InferenceRunner],
    *,
    pictures: bool = True,
) -> dict[str, dict[str, object]]:
    """Returns `dataset.data_summary`, by group, with ranges in the units of the group's robot.

    Recordings in degrees of a robot that speaks radians, say, are converted as a sample of the
    training is, and then back as on the robot.

    Args:
        dataset: the training set.
        robots: the robots of the run; a group without a robot keeps the units of its recordings.
        pictures: whether the summary contains small pictures of the cameras.
    """
    summaries = dataset.data_summary(pictures=pictures)
    for robot in robots.values():
        group = robot.statistics_group(dataset.group_names)
        named = zip(dataset.group_of_datasets, dataset.datasets, strict=True)
        trained = [member.pipeline for name, member in named if name == group]
        summaries[group] = _converted(summaries[group], trained, robot.pipeline)
    return summaries


def _converted(
    summary: Mapping[str, Any], pipelines: Sequence[Pipeline], robot: Pipeline
) -> dict[str, object]:
    """Converts the summary of recordings that pass through `pipelines` in training."""
    trained = pipelines[0]
    if any(pipeline.unit_steps != trained.unit_steps for pipeline in pipelines):
        # The ranges of recordings in several units are in none.
        return {key: value for key, value in summary.items() if key not in WITH_UNITS}
    if trained.unit_steps == robot.unit_steps:
        return {**summary, ROBOT_UNITS: 1}
    converted = {**summary, ROBOT_UNITS: 1, **_ranges(summary, trained, robot)}
    converted["start"] = _ranges(summary["start"], trained, robot)
    grippers = {
        name: {what: _gripper(converted, summary, what, values) for what, values in entry.items()}
        for name, entry in summary["grippers"].items()
    }
    return {**converted, "grippers": grippers}


def _ranges(summary: Mapping[str, Any], trained: Pipeline, robot: Pipeline) -> dict[str, Any]:
    """Converts the ranges of states and actions; a step that turns a joint exchanges its ends."""
    found: dict[str, Any] = {}
    for quantity in QUANTITIES:
        convert = _states if quantity == "state" else _actions
        found[quantity] = {}
        for low, high in PAIRS:
            ends = np.asarray([summary[quantity][low], summary[quantity][high]], np.float32)
            values = convert(ends, trained, robot)
            found[quantity][low] = values.min(axis=0).tolist()
            found[quantity][high] = values.max(axis=0).tolist()
    return found


def _states(
    values: NDArray[np.float32], trained: Pipeline, robot: Pipeline
) -> NDArray[np.floating]:
    return robot.state_inverse(trained.states(values))


def _actions(
    values: NDArray[np.float32], trained: Pipeline, robot: Pipeline
) -> NDArray[np.floating]:
    converted = trained.actions(values)
    for step in reversed(robot.unit_steps):
        converted = step.actions_inverse(converted)
    return converted


def _gripper(
    converted: Mapping[str, Any], summary: Mapping[str, Any], what: str, values: Mapping[str, float]
) -> dict[str, float]:
    """Returns a gripper's values after the conversion: the quantiles of its dimension."""
    before = list(zip(summary[what]["q01"], summary[what]["q99"], strict=True))
    dim = before.index((values["closed"], values["open"]))
    return {"closed": converted[what]["q01"][dim], "open": converted[what]["q99"][dim]}
