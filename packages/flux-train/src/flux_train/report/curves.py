"""The page's numbers: every curve as few enough points, as base64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.html.document import floats

from .facts import RunFacts, dimension_names
from .history import History, Table, edges, steps_an_epoch, thin
from .samples import SampleBlocks

MAX_POINTS = 1200
"""Of a curve: more than there are pixels."""
MAX_TREND_POINTS = 60
"""Of the small curves in the table."""
RECENT_LINES = 50
WITH_SPREAD = ("loss", "grad_norm")
BY_ROBOT, BY_DIMENSION, ERROR = "loss_by_robot/", "loss_by_dimension/", "action_error/"
ERRORS = ("mean_abs", "first_step", "last_step")
RUN_CURVES = (
    "learning_rate",
    "grad_norm",
    "samples_per_s",
    "data_wait_share",
    "mfu",
    "peak_memory_bytes",
)


def recent(table: Table, name: str) -> float | None:
    """The mean of the newest values of a column."""
    values = table.scalar(name)
    finite = values[np.isfinite(values)][-_num_recent(len(values)) :]
    return float(finite.mean()) if len(finite) else None


def _num_recent(count: int) -> int:
    return max(min(count // 10, RECENT_LINES), 1)


def group_names(history: History, samples: SampleBlocks) -> list[str]:
    """Every robot that training, validation or predictions know, in that order."""
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
    """What the script draws."""
    return {
        "stepsAnEpoch": steps_an_epoch(history.train),
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
    """Steps, and each column at them; of spread-out ones the extremes too, where it is thinned."""
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
    """A robot's action dimensions: their losses, where they come from, and their errors."""
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
        names = dimension_names(facts.config, group, count, only_group)
    return {
        "names": list(names),
        "train": _first_last_trend(losses, count),
        "validation": _first_last_trend(held_out, count),
        "errors": {name: floats(_widened(values, count)) for name, values in errors.items()},
        "errorSteps": floats(validation.steps),
    }


def _first_last_trend(values: NDArray[np.float64] | None, count: int) -> dict[str, Any] | None:
    """The mean of the first and of the newest lines, and a few points between, (points, dims)."""
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
    """With NaN for the dimensions that only others have."""
    missing = count - values.shape[1]
    return np.pad(values, ((0, 0), (0, missing)), constant_values=np.nan)
