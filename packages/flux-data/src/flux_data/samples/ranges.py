"""How far normalised states and actions reach, by dimension.

The normalisation divides by a spread: a standard deviation, or the distance between two quantiles.
For a dimension that moves in less than one frame in a hundred that spread is almost 0, so the few
frames in which it does move become thousands or millions, and their squares are the whole loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flux_core.norm_stats import FeatureStats, NormStats, NormType
from flux_core.transforms import Normalization

from ..lerobot.state_action import ACTION, STATE, bases_of, dimension_names, joined
from .mixture import DistributedRepeatingDataset
from .windows import ParquetDataset

Quantity = Literal["state", "action"]

SENSIBLE = 10.0
"""The largest normalised magnitude that is not reported. Usual values are around 1; the largest of
a million draws from a normal distribution is 5. If one value in a hundred is 10, it costs as much
as all others together, whose squared error is about 1 at the start of training."""

MANY = 1 << 16
"""Rows that are normalised at once."""


@dataclass(frozen=True, kw_only=True)
class DimensionRange:
    """The normalised values of one dimension.

    Attributes:
        group: the robot.
        quantity: 'state' or 'action'.
        name: the dimension's.
        norm_type: how it is normalised.
        low: the smallest normalised value.
        high: the largest one.
        share_beyond: the share of values whose magnitude is above SENSIBLE.
        spread: the deviation, or the distance of the two ends that are mapped to -1 and 1, in the
            statistics' unit.
        extent: from the smallest to the largest value, in the same unit.
        sensible_min_range: the smallest `min_range` with which all values would be sensible.
    """

    group: str
    quantity: Quantity
    name: str
    norm_type: NormType
    low: float
    high: float
    share_beyond: float
    spread: float
    extent: float
    sensible_min_range: float

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(abs(self.low), abs(self.high))

    @property
    def is_sensible(self) -> bool:
        """Whether no value is beyond SENSIBLE."""
        return self.largest <= SENSIBLE

    def __str__(self) -> str:
        spread = "deviation" if self.norm_type == "mean_std" else SPREADS[self.norm_type]
        return (
            f"{self.group}: {self.quantity} {self.name!r}: normalised values reach "
            f"{self.largest:.2g}, and {percent(self.share_beyond)} of them are beyond "
            f"{SENSIBLE:g}, because the {spread} is {self.spread:.2g} and the whole range "
            f"{self.extent:.2g}"
        )


SPREADS = {"quantile": "distance of the quantiles q01 and q99", "min_max": "range"}


def percent(share: float) -> str:
    """A share in per cent, with two digits that count: '0.50 %', '0.0012 %'."""
    value = 100.0 * share
    digits = 1 if value >= 10 or value == 0 else 1 - math.floor(math.log10(value))
    return f"{value:.{digits}f} %"


def rounded_up(value: float) -> float:
    """The next number with two digits that count."""
    if value <= 0.0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / step) * step:.2g}")


def training_ranges(dataset: DistributedRepeatingDataset) -> list[DimensionRange]:
    """Returns the ranges of every robot's states and actions, from the statistics.

    Values are read only to count those beyond SENSIBLE, and only where there are any.
    """
    found: list[DimensionRange] = []
    for group in dataset.group_names:
        pairs = zip(dataset.group_of_datasets, dataset.datasets, strict=True)
        members = [member for name, member in pairs if name == group]
        for each in _normalised(members, dataset.stats[group]):
            extremes = Extremes.of_statistics(each.stats, each.norm_type)
            if (extremes.magnitude > SENSIBLE).any():
                shares = Extremes.of_values(each.blocks(), each.stats, each.norm_type).beyond
                extremes = extremes._replace(beyond=shares)
            found += each.ranges(group, extremes)
    return found


def measured_ranges(
    group: str, members: Sequence[ParquetDataset], stats: NormStats
) -> list[DimensionRange]:
    """Returns the ranges of values that the statistics were not computed from, in one pass.

    Args:
        group: the robot.
        members: its datasets.
        stats: the statistics they are normalised with.
    """
    return [
        found
        for each in _normalised(members, stats)
        for found in each.ranges(
            group, Extremes.of_values(each.blocks(), each.stats, each.norm_type)
        )
    ]


class Extremes(NamedTuple):
    """Normalised values by dimension, each (D,): extremes, and the share beyond SENSIBLE."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    beyond: NDArray[np.float64]

    @property
    def magnitude(self) -> NDArray[np.float64]:
        """The largest magnitude of each dimension, (D,)."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    @classmethod
    def of_statistics(cls, stats: FeatureStats, norm_type: NormType) -> Extremes:
        """Returns those of the values that the statistics describe; `beyond` is 0."""
        scale, offset = (each.astype(np.float64) for each in stats.affine(norm_type))
        low, high = ((np.asarray(end) - offset) / scale for end in (stats.min, stats.max))
        return cls(low, high, np.zeros(stats.dim))

    @classmethod
    def of_values(
        cls, blocks: Iterable[NDArray[np.generic]], stats: FeatureStats, norm_type: NormType
    ) -> Extremes:
        """Returns those of (rows, at most D) values in the unit of the statistics."""
        scale, offset = (each.astype(np.float64) for each in stats.affine(norm_type))
        low, high = np.full(stats.dim, np.inf), np.full(stats.dim, -np.inf)
        beyond, rows = np.zeros(stats.dim), 0
        for block in blocks:
            for first in range(0, len(block), MANY):
                values = block[first : first + MANY].astype(np.float64)
                dims = values.shape[-1]
                normalised = (values - offset[:dims]) / scale[:dims]
                low[:dims] = np.minimum(low[:dims], normalised.min(axis=0))
                high[:dims] = np.maximum(high[:dims], normalised.max(axis=0))
                beyond[:dims] += (np.abs(normalised) > SENSIBLE).sum(axis=0)
                rows += len(values)
        is_empty = low > high
        low, high = np.where(is_empty, 0.0, low), np.where(is_empty, 0.0, high)
        return cls(low, high, beyond / max(rows, 1))


class _Normalised(NamedTuple):
    """One quantity of a robot, with its statistics."""

    quantity: Quantity
    members: Sequence[ParquetDataset]
    norm_type: NormType
    key: str
    stats: FeatureStats

    def _columns(self, member: ParquetDataset) -> list[str]:
        config = member.config
        return bases_of((*config.state_columns, *config.action_columns))

    def blocks(self) -> Iterator[NDArray[np.generic]]:
        """Yields (rows, dims) values in the unit of the statistics."""
        for member in self.members:
            for part in member.parts:
                steps = member.pipeline.unit_steps
                is_relative = self.quantity == "action" and member.pipeline.is_relative
                keys = getattr(member.config, f"{self.quantity}_columns")
                for position, read in enumerate(part.source.episodes(self._columns(member))):
                    columns = {key: value.reshape(len(value), -1) for key, value in read.items()}
                    if is_relative:
                        yield from part.converted_windows(steps, columns, position)
                    else:
                        yield member.in_own_units(self.key, joined(columns, keys))

    def ranges(self, group: str, extremes: Extremes) -> Iterator[DimensionRange]:
        """Yields one range per dimension; padded ones are left out."""
        stats, norm_type = self.stats, self.norm_type
        spreads, extents = spreads_of(stats, norm_type), np.subtract(stats.max, stats.min)
        needed = sensible_min_ranges(extremes, stats, norm_type)
        for dim, name in enumerate(self._names()):
            yield DimensionRange(
                group=group,
                quantity=self.quantity,
                name=name,
                norm_type=norm_type,
                low=float(extremes.low[dim]),
                high=float(extremes.high[dim]),
                share_beyond=float(extremes.beyond[dim]),
                spread=float(spreads[dim]),
                extent=float(extents[dim]),
                sensible_min_range=float(needed[dim]),
            )

    def _names(self) -> tuple[str, ...]:
        config, features = self.members[0].config, self.members[0].parts[0].source.info["features"]
        columns = {STATE: config.state_columns, ACTION: config.action_columns}
        names = dimension_names(features, columns)[STATE if self.quantity == "state" else ACTION]
        if len(names) <= self.stats.dim:
            return names
        # A custom step has reduced them.
        return tuple(map(str, range(self.stats.dim)))


def _normalised(members: Sequence[ParquetDataset], stats: NormStats) -> Iterator[_Normalised]:
    """Yields states and actions, if they are normalised with the statistics' scale and offset."""
    pipeline = members[0].pipeline
    normalize = pipeline.maybe(Normalization)
    if normalize is None:
        return
    keys: dict[Quantity, str] = {"state": normalize.state_key, "action": normalize.action_key}
    for quantity, key in keys.items():
        if getattr(normalize, f"{quantity}_keys"):
            continue  # each of its dimensions has a rule of its own
        # A custom normalisation may map states in any way.
        if key in stats and (quantity == "action" or normalize.is_ours):
            yield _Normalised(quantity, members, normalize.norm_type, key, stats[key])


def spreads_of(stats: FeatureStats, norm_type: NormType) -> NDArray[np.float64]:
    """Returns each dimension's deviation, or the distance of the two ends, (D,)."""
    if norm_type == "mean_std":
        return np.asarray(stats.std)
    ends = (stats.q01, stats.q99) if norm_type == "quantile" else (stats.min, stats.max)
    return np.subtract(ends[1], ends[0])


def sensible_min_ranges(
    extremes: Extremes, stats: FeatureStats, norm_type: NormType
) -> NDArray[np.float64]:
    """Returns the `min_range` with which each dimension would just be sensible, (D,)."""
    scale, _ = stats.affine(norm_type)
    # Widening keeps the middle, and the distance from it is the extreme times the scale.
    distance = extremes.magnitude * scale
    per_range = 12**0.5 if norm_type == "mean_std" else 2.0
    return distance * per_range / SENSIBLE
