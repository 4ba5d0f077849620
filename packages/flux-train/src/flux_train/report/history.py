"""Reads `metrics.jsonl` as columns, whichever version wrote it and wherever it ends."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError

from ..metrics.lines import parsed_line

OF_AVERAGE = "of_average"
"""A column of validation: 1 for the moving average of the weights, 0 for the current ones. A line
without it is of the current ones."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Lines of one kind, in the order of their steps; NaN where a line has no value.

    Attributes:
        steps: (N,).
        scalars: path -> (N,), like 'loss_by_robot/aloha'.
        vectors: path -> (N, D), like 'loss_by_dimension/aloha'.
    """

    steps: NDArray[np.float64]
    scalars: Mapping[str, NDArray[np.float64]]
    vectors: Mapping[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.steps)

    def scalar(self, name: str) -> NDArray[np.float64]:
        """Returns a column; all NaN if no line has it."""
        return self.scalars.get(name, np.full(len(self), np.nan))

    def last(self, name: str) -> float | None:
        """Returns the newest finite value of a column."""
        values = self.scalar(name)
        finite = values[np.isfinite(values)]
        return float(finite[-1]) if len(finite) else None


@dataclass(frozen=True, kw_only=True)
class History:
    """What a run has logged.

    Attributes:
        train: lines of training.
        validation: lines of validation; names are those inside `validation`.
        num_broken: lines that are not a JSON object with a step.
    """

    train: Table
    validation: Table
    num_broken: int

    @property
    def last_step(self) -> int:
        """The newest step of any line."""
        both = np.concatenate([self.train.steps, self.validation.steps])
        return int(both.max()) if len(both) else 0


def read_history(path: Path) -> History:
    """Reads a metrics file line by line.

    Raises:
        DataError: the file does not exist.
    """
    if not path.is_file():
        raise DataError(f"{path}: not found. Is {str(path.parent)!r} the work dir of a run?")
    train, validation, num_broken = _Columns(), _Columns(), 0
    with path.open("rb") as file:
        for line in file:
            values = parsed_line(line)
            if values is None:
                num_broken += bool(line.strip())
            elif isinstance(values.get("validation"), dict):
                found = values["validation"]
                weights = {OF_AVERAGE: found["weights"] == "average"} if "weights" in found else {}
                validation.add({**found, **weights, "step": values["step"]})
            else:
                train.add(values)
    return History(train=train.table(), validation=validation.table(), num_broken=num_broken)


@dataclass
class _Columns:
    """Columns that grow line by line; compact, because a run may have a million lines."""

    num_lines: int = 0
    values: dict[str, array[float]] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)

    def add(self, line: Mapping[str, Any], path: str = "") -> None:
        for name, value in line.items():
            if isinstance(value, float | int):
                self._append(path + name, array("d", (value,)))
            elif isinstance(value, list):
                self._append(path + name, _numbers(value))
            elif isinstance(value, dict):
                self.add(value, f"{path}{name}/")
        if not path:
            self.num_lines += 1

    def _append(self, name: str, row: array[float]) -> None:
        width = self.widths.setdefault(name, len(row))
        if len(row) != width:
            return
        column = self.values.setdefault(name, array("d"))
        missing = self.num_lines * width - len(column)
        if missing > 0:
            column.extend([math.nan] * missing)
        column.extend(row)

    def table(self) -> Table:
        columns = {}
        for name, values in self.values.items():
            width = self.widths[name]
            column = np.full(self.num_lines * width, np.nan)
            column[: len(values)] = values
            columns[name] = column.reshape(self.num_lines, width)
        steps = columns.pop("step", np.zeros((0, 1)))[:, 0]
        # A run that resumed without truncating its file has steps twice: the newer line counts.
        _, newest = np.unique(steps[::-1], return_index=True)
        order = len(steps) - 1 - newest
        return Table(
            steps=steps[order],
            scalars={k: v[order, 0] for k, v in columns.items() if v.shape[1] == 1},
            vectors={k: v[order] for k, v in columns.items()},
        )


def _numbers(values: list[Any]) -> array[float]:
    try:
        return array("d", values)
    except TypeError:  # null where there is no number
        return array("d", [v if isinstance(v, float | int) else math.nan for v in values])


def steps_per_epoch(train: Table) -> float | None:
    """Returns the length of an epoch, given that step s is in epoch ceil(s / length).

    It is as exact as the lines allow; None if they are all from the first epoch.
    """
    steps, epochs = train.steps, train.scalar("epoch")
    known = np.isfinite(epochs) & (epochs >= 1) & (steps >= 1)
    steps, epochs = steps[known], epochs[known]
    if not len(steps) or epochs.max() < 2:
        return None
    later = epochs > 1
    least = float((steps / epochs).max())
    most = float((steps[later] / (epochs[later] - 1)).min())
    return (least + most) / 2 if least <= most else None


@dataclass(frozen=True, kw_only=True)
class Thinned:
    """A column with fewer points, each of which stands for consecutive lines."""

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def edges(count: int, most: int) -> NDArray[np.int64]:
    """Returns the first line of each part if `count` lines are cut into at most `most` parts."""
    parts = min(count, most)
    return (np.arange(parts) * count / max(parts, 1)).astype(np.int64)


def thin(values: NDArray[np.float64], starts: NDArray[np.int64]) -> Thinned:
    """Returns mean, least and greatest finite value of each part, (parts, ...); NaN if none."""
    if not len(starts):
        empty = values[:0]
        return Thinned(mean=empty, low=empty, high=empty)
    finite = np.isfinite(values)
    counts = np.add.reduceat(finite.astype(np.int64), starts, axis=0)
    total = np.add.reduceat(np.where(finite, values, 0.0), starts, axis=0)
    low = np.minimum.reduceat(np.where(finite, values, np.inf), starts, axis=0)
    high = np.maximum.reduceat(np.where(finite, values, -np.inf), starts, axis=0)
    is_empty = counts == 0
    mean = np.where(is_empty, np.nan, total / np.maximum(counts, 1))
    return Thinned(
        mean=mean, low=np.where(is_empty, np.nan, low), high=np.where(is_empty, np.nan, high)
    )
