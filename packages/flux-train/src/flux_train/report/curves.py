"""The page's numbers: every curve, thinned to few enough points, as base64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.html import floats

from .facts import RunFacts, names_of_dimensions
from .history import History, Table, edges, steps_per_epoch, thin
from .samples import SampleBlocks

MAX_POINTS = 1200
"""Points of a curve: more than there are pixels."""
MAX_TREND_POINTS = 60
"""Points of the small curves in the table."""
RECENT_LINES = 50
WITH_SPREAD = ("loss", "grad_norm")
BY_ROBOT, BY_DIMENSION, ERROR = "loss_by_robot/", "loss_by_dimension/", "action_error/"
ERRORS = ("mean_abs", "first_step", "last_step", "after_prefix")
RUN_CURVES = (
    "learning_rate",
    "grad_norm",
    "samples_per_s",
    "data_wait_share",
    "mfu",
    "peak_memory_bytes",
)


def recent(table: Table, name: str) -> float | None:
    """Returns the mean of the newest values of a column."""
    values = table.scalar(name)
    finite = values[np.isfinite(values)][-_num_recent(len(values)) :]
    return float(finite.mean()) if len(finite) else None


def _num_recent(count: int) -> int:
    return max(min(count // 10, RECENT_LINES), 1)


def group_names(history: History, samples: SampleBlocks) -> list[str]:
    """Returns every robot in training, validation or predictions, in that order."""
    names = [
        name.removeprefix(prefix).split("/")[0]
        for table in (history.train, history.validation)
        for prefix in (BY_ROBOT, BY_DIMENSION, ERROR)
        for name in table.vectors
        if name.startswith(prefix)
    ]
    return list(dict.fromkeys([*names, *samples.groups]))


def page_data(
    history: History, facts: RunFacts, samples: SampleBlocks, groups: list[str]
) -> dict[str, Any]:
    """Returns what the script draws."""
    return {
        "stepsPerEpoch": steps_per_epoch(history.train),
        "totalSteps": facts.total_steps,
        "resumed": list(facts.resumed_steps),
        "groups": groups,
        "train": _curves(history.train, ("loss", *RUN_CURVES), groups),
        "validation": _curves(history.validation, ("loss",), groups),
        "dimensions": {
            group: _dimensions(group, history, facts, samples, len(groups) == 1) for group in groups
        },
        "samples": samples.about(),
    }


def _curves(table: Table, names: tuple[str, ...], groups: list[str]) -> dict[str, Any]:
    """Returns steps and the columns at them; noisy columns that were thinned have extremes too."""
    starts = edges(len(table), MAX_POINTS)
    last = np.append(starts, len(table))[1:] - 1
    is_thinned = len(starts) < len(table)
    series: dict[str, dict[str, str]] = {}
    for name in (*names, *(BY_ROBOT + group for group in groups)):
        values = table.scalar(name)
        if not np.isfinite(values).any():
            continue
        points = thin(values, starts)
        series[name] = {"mean": floats(points.mean)}
        if is_thinned and name in WITH_SPREAD:
            series[name] |= {"low": floats(points.low), "high": floats(points.high)}
    return {"steps": floats(table.steps[last]), "series": series, "lines": len(table)}


def _dimensions(
    group: str, history: History, facts: RunFacts, samples: SampleBlocks, only_group: bool
) -> dict[str, Any]:
    """Returns names, losses and errors of a robot's action dimensions."""
    train, validation = history.train, history.validation
    losses = train.vectors.get(BY_DIMENSION + group)
    held_out = validation.vectors.get(BY_DIMENSION + group)
    errors = {
        name: values
        for name in ERRORS
        if (values := validation.vectors.get(f"{ERROR}{group}/{name}")) is not None
    }
    known = [values for values in (losses, held_out, *errors.values()) if values is not None]
    count = max((values.shape[1] for values in known), default=0)
    names = samples.dimensions(group)
    if count and len(names) != count:
        names = names_of_dimensions(facts.config, group, count, only_group)
    return {
        "names": list(names),
        "train": _first_last_trend(losses, count),
        "validation": _first_last_trend(held_out, count),
        "errors": {name: floats(_widened(values, count)) for name, values in errors.items()},
        "errorSteps": floats(validation.steps),
    }


def _first_last_trend(values: NDArray[np.float64] | None, count: int) -> dict[str, Any] | None:
    """Returns means of the first and newest lines, and a few points between, (points, dims)."""
    if values is None:
        return None
    values = _widened(values[np.isfinite(values).any(axis=1)], count)
    if not len(values):
        return None
    few, whole = _num_recent(len(values)), np.zeros(1, np.int64)
    first, last = (thin(part, whole).mean[0] for part in (values[:few], values[-few:]))
    trend = thin(values, edges(len(values), MAX_TREND_POINTS)).mean
    return {"first": floats(first), "last": floats(last), "trend": floats(trend)}


def _widened(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Returns `values` with NaN in the dimensions that they lack."""
    missing = count - values.shape[1]
    return np.pad(values, ((0, 0), (0, missing)), constant_values=np.nan)
