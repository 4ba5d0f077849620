"""Computes exact statistics and histograms of a dataset, one episode at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flux_core.norm_stats import FeatureStats

NUM_BINS = 48


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One quantity: the dimension that is its state, its action, or one of each."""

    name: str
    dims: Mapping[str, int]
    """Feature key -> dimension."""


def pair_dimensions(names: Mapping[str, tuple[str, ...]]) -> tuple[Panel, ...]:
    """Pairs dimensions of the same name in different features, in order of first appearance."""
    panels: dict[tuple[str, int], dict[str, int]] = {}
    for key, labels in names.items():
        for dim, label in enumerate(labels):
            panels.setdefault((label, labels[:dim].count(label)), {})[key] = dim
    return tuple(Panel(name=name, dims=dims) for (name, _), dims in panels.items())


class Histograms:
    """Counts in `NUM_BINS` equal bins over each panel's range: (panels, bins) per feature."""

    def __init__(self, panels: Iterable[Panel], ranges: Iterable[tuple[float, float]]) -> None:
        self._panels, self._ranges = tuple(panels), tuple(ranges)
        keys = dict.fromkeys(key for panel in self._panels for key in panel.dims)
        self.counts = {key: np.zeros((len(self._panels), NUM_BINS), dtype=np.int64) for key in keys}

    def add(self, values: Mapping[str, NDArray[np.float64]]) -> None:
        """Takes (rows, dim) values of each feature."""
        for row, (panel, ends) in enumerate(zip(self._panels, self._ranges, strict=True)):
            for key, dim in panel.dims.items():
                column = values[key][:, dim]
                counts, _ = np.histogram(column[np.isfinite(column)], NUM_BINS, ends)
                self.counts[key][row] += counts


def panel_range(panel: Panel, stats: Mapping[str, FeatureStats]) -> tuple[float, float]:
    """Returns the smallest and largest value of a panel; (0, 1) if none is finite."""
    low = min(_finite(stats[key].min[dim], math.inf) for key, dim in panel.dims.items())
    high = max(_finite(stats[key].max[dim], -math.inf) for key, dim in panel.dims.items())
    return (low, high) if low <= high else (0.0, 1.0)


def _finite(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise
