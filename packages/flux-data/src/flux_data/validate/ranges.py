"""Warns of dimensions that normalisation would blow up: no fault, but training cannot learn them.

Training repeats the check with its own transforms and statistics, and names the setting to change.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flux_core.errors import DataError
from flux_core.norm_stats import NormType, compute_stats

from ..lerobot.dataset import LeRobotDataset, open_lerobot
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


def range_warnings(root: Path) -> list[Fault]:
    """Returns one warning per dimension of the state or the actions.

    A dataset that cannot be read has none, as `validate` reports why.
    """
    try:
        source = open_lerobot(root)
        return [
            warning
            for what in usual_columns(source.info["features"])
            for warning in _of(source, what)
        ]
    except DataError:
        return []


def _of(source: LeRobotDataset, what: str) -> Iterator[Fault]:
    features = source.info["features"]
    keys = usual_columns(features)[what]
    names = dimension_names(features)[what]
    read = source.columns(list(keys))
    values = joined({key: read[key].reshape(len(read[key]), -1) for key in keys}, keys)
    # Values that are not finite are faults of their own.
    values = values[np.isfinite(values.astype(np.float64)).all(axis=1)]
    if not len(values) or values.shape[1] != len(names):
        return
    stats = compute_stats(values)
    told: set[int] = set()
    for norm_type, how in NORM_TYPES.items():
        extremes = Extremes.of_values([values], stats, norm_type)
        needed = sensible_min_ranges(extremes, stats, norm_type)
        spreads = spreads_of(stats, norm_type)
        for dim in np.flatnonzero(extremes.magnitude > SENSIBLE):
            if dim in told:
                continue
            told.add(int(dim))
            message = (
                f"normalised {how}, it reaches {extremes.magnitude[dim]:.2g}: "
                f"{percent(extremes.beyond[dim])} of the frames are beyond {SENSIBLE:g}, because "
                f"it moves by {stats.max[dim] - stats.min[dim]:.2g} there and by "
                f"{spreads[dim]:.2g} elsewhere. Train with train_dataloader.dataset.min_range="
                f"{rounded_up(needed[dim]):g}, or leave out these frames or this dimension"
            )
            where = f"{what}, dimension {dim} ({names[dim]})"
            yield Fault(kind="range", file=str(source.root), where=where, message=message)
