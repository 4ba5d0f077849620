"""Warns of dimensions that normalisation would blow up: no fault, but training cannot learn them.

Training repeats the check with its own transforms and statistics, and names the setting to change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.norm_stats import NormType, compute_stats

from ..lerobot.dataset import LeRobotDataset
from ..lerobot.state_action import dimension_names, joined, usual_columns
from ..samples.ranges import (
    SENSIBLE,
    Extremes,
    percent,
    rounded_up,
    sensible_min_ranges,
    spreads_of,
)
from .fault import Fault

NORM_TYPES: dict[NormType, str] = {
    "quantile": "by its quantiles, as for pi0.5",
    "mean_std": "by its mean and deviation, as for pi0",
}


class RangeWarnings:
    """Keeps the states and actions of the episodes that are validated, and judges them together."""

    def __init__(self, source: LeRobotDataset) -> None:
        self._source = source
        self._columns = usual_columns(source.info["features"])
        self._names = dimension_names(source.info["features"], self._columns)
        self._values: dict[str, list[NDArray[Any]]] = {what: [] for what in self._columns}

    def add(
        self, position: int, path: Path, columns: Mapping[str, NDArray[Any]]
    ) -> Iterator[Fault]:
        """Takes the numeric columns of an episode; yields nothing."""
        for what, keys in self._columns.items():
            if all(len(columns.get(key, ())) for key in keys):
                flat = {key: columns[key].reshape(len(columns[key]), -1) for key in keys}
                values = joined(flat, keys)
                # Another width, and values that are not finite, are faults of their own.
                if values.shape[1] == len(self._names[what]):
                    self._values[what].append(values[np.isfinite(values).all(axis=1)])
        return iter(())

    def found(self) -> Iterator[Fault]:
        """Yields one warning per dimension, after the last episode."""
        for what, parts in self._values.items():
            if any(len(part) for part in parts):
                yield from self._of(what, np.concatenate(parts))

    def _of(self, what: str, values: NDArray[Any]) -> Iterator[Fault]:
        stats = compute_stats(values)
        told: set[int] = set()
        for norm_type, how in NORM_TYPES.items():
            extremes = Extremes.of_values([values], stats, norm_type)
            needed = sensible_min_ranges(extremes, stats, norm_type)
            spreads = spreads_of(stats, norm_type)
            for dim in np.flatnonzero(extremes.magnitude > SENSIBLE).tolist():
                if dim in told:
                    continue
                told.add(dim)
                spread = "deviation" if norm_type == "mean_std" else "distance of q01 and q99"
                message = (
                    f"normalised {how}, it reaches {extremes.magnitude[dim]:.2g}, and "
                    f"{percent(extremes.beyond[dim])} of the frames are beyond {SENSIBLE:g}, "
                    f"because the {spread} is {spreads[dim]:.2g} and the whole range "
                    f"{stats.max[dim] - stats.min[dim]:.2g}. Train with "
                    f"train_dataloader.dataset.min_range={rounded_up(needed[dim]):g}, or leave "
                    "out these frames or this dimension"
                )
                where = f"{what}, dimension {dim} ({self._names[what][dim]})"
                yield Fault(kind="range", file=str(self._source.root), where=where, message=message)
