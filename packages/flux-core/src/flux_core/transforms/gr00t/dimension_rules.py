"""Normalisation with a rule for each key of the state and the actions, as GR00T's data has it.

Other than `FeatureStats.affine`, no epsilon is added, because NVIDIA and LeRobot add none:

    min_max    2 (x - min) / (max - min) - 1; a constant dimension becomes 0
    q99        the same with q01 and q99; a constant dimension stays; then clipped to [-1, 1]
    mean_std   (x - mean) / std; a constant dimension stays
    binary     1 where x > 0.5, else 0; the same on the way back
    none       x

Except for a binary dimension, the way back is `x * scale + offset`, so a constant dimension gets
its constant back. A state's key may also be `sin_cos`: all its sines, then all its cosines; or one
of `rotations.py`, such as `quaternion_to_rotation_6d`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, DataError
from ...norm_stats import FeatureStats
from .rotations import RotationRule, rotation_6d, rotation_type_of, width_of_rotation

DimensionRule = Literal["min_max", "q99", "mean_std", "binary", "none"]
StateRule = Literal[DimensionRule, "sin_cos", RotationRule]
KeyRule = tuple[str, int, DimensionRule]
"""The name of a key, its dimensions, and their rule."""
StateKeyRule = tuple[str, int, StateRule]
THRESHOLD = 0.5
"""Above it, a binary dimension is 1."""


@dataclass(frozen=True)
class DimensionRules:
    """One rule per dimension."""

    rules: tuple[DimensionRule, ...]

    def __post_init__(self) -> None:
        unknown = [rule for rule in self.rules if rule not in get_args(DimensionRule)]
        if unknown:
            raise ConfigError(
                f"normalization: expected one of {', '.join(get_args(DimensionRule))}, got "
                f"{unknown[0]!r}"
            )

    @classmethod
    def of_keys(cls, keys: Sequence[StateKeyRule], dims: int) -> DimensionRules:
        """Returns the rules of `dims` dimensions; those after the last key are padding.

        Raises:
            DataError: the keys have more dimensions.
        """
        rules: list[DimensionRule] = []
        for _, size, rule in keys:
            dimension = as_rule(rule)
            rules.extend(repeat(dimension, size))
        if len(rules) > dims:
            names = " + ".join(f"{name} {size}" for name, size, _ in keys)
            raise DataError(f"normalization: expected {dims} dimensions (the data's), got {names}")
        return cls((*rules, *(as_rule("none") for _ in range(dims - len(rules)))))

    @property
    def is_binary(self) -> NDArray[np.bool_]:
        """(dim,) True where values are 0 or 1: they are neither scaled nor interpolated."""
        return self._are("binary")

    @property
    def is_clipped(self) -> NDArray[np.bool_]:
        """(dim,) True where values beyond -1 and 1 are cut off, so that they cannot come back."""
        return self._are("q99")

    def normalize(self, values: NDArray[Any], stats: FeatureStats) -> NDArray[np.float32]:
        """Maps values (..., dim) to the network's range."""
        scale, offset = self._affine64(stats)
        normal = (values - offset) / np.where(scale == 0.0, 1.0, scale)
        constant = np.where(self._are("min_max"), 0.0, values)
        normal = np.where(scale == 0.0, constant, normal)
        normal = np.where(self._are("q99"), np.clip(normal, -1.0, 1.0), normal)
        return np.where(self.is_binary, values > THRESHOLD, normal).astype(np.float32)

    def denormalize(self, values: NDArray[Any], stats: FeatureStats) -> NDArray[np.float32]:
        """Maps values (..., dim) of the network back."""
        scale, offset = self._affine64(stats)
        back = values * scale + offset
        return np.where(self.is_binary, values > THRESHOLD, back).astype(np.float32)

    def affine(self, stats: FeatureStats) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns (scale, offset) of the way back, float32 (dim,); 1 and 0 if it is binary."""
        scale, offset = self._affine64(stats)
        return scale.astype(np.float32), offset.astype(np.float32)

    def _affine64(self, stats: FeatureStats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if stats.dim != len(self.rules):
            raise DataError(
                f"normalization: expected statistics of {len(self.rules)} dimensions (the rules), "
                f"got {stats.dim}"
            )
        scale, offset = np.ones(stats.dim), np.zeros(stats.dim)
        for rule, of in _AFFINES.items():
            for target, value in zip((scale, offset), of(stats), strict=True):
                target[self._are(rule)] = value[self._are(rule)]
        return scale, offset

    def _are(self, rule: str) -> NDArray[np.bool_]:
        return np.asarray([each == rule for each in self.rules], dtype=np.bool_)


def as_rule(rule: StateRule) -> DimensionRule:
    """Returns a state's rule as one of a dimension; what is converted is not normalised."""
    if rule in get_args(DimensionRule):
        return cast(DimensionRule, rule)
    return "none"


def check_keys(keys: Sequence[StateKeyRule], where: str) -> None:
    """Refuses keys without dimensions, rotations of a wrong width, and one name twice."""
    names = [name for name, _, _ in keys]
    for name, size, rule in keys:
        if size < 1:
            raise ConfigError(f"{where}: {name!r}: expected at least 1 dimension, got {size}")
        rotation = rotation_type_of(rule)
        if rotation is not None and size != width_of_rotation(rotation):
            raise ConfigError(
                f"{where}: {name!r}: expected {width_of_rotation(rotation)} dimensions, as "
                f"{rotation!r} has, got {size}"
            )
        if names.count(name) > 1:
            raise ConfigError(f"{where}: expected each key once, got {name!r} twice")


def normalize_state(
    values: NDArray[Any], keys: Sequence[StateKeyRule], stats: FeatureStats
) -> NDArray[np.float32]:
    """Maps a state (..., dim) to the network's range; a `sin_cos` key becomes twice as wide, and a
    rotation six numbers."""
    normal = DimensionRules.of_keys(keys, stats.dim).normalize(values, stats)
    ends = list(accumulate(size for _, size, _ in keys))
    parts = [
        _converted(values[..., end - size : end], normal[..., end - size : end], rule)
        for (_, size, rule), end in zip(keys, ends, strict=True)
    ]
    return np.concatenate((*parts, normal[..., ends[-1] if ends else 0 :]), axis=-1)


def _converted(
    values: NDArray[Any], normal: NDArray[np.float32], rule: StateRule
) -> NDArray[np.float32]:
    if rule == "sin_cos":
        return sine_and_cosine(values)
    rotation = rotation_type_of(rule)
    return normal if rotation is None else rotation_6d(values, rotation)


def sine_and_cosine(values: NDArray[Any]) -> NDArray[np.float32]:
    """Angles (..., dim) in rad to (..., 2 dim): all sines, then all cosines. For states only."""
    return np.concatenate((np.sin(values), np.cos(values)), axis=-1).astype(np.float32)


Affine = tuple[NDArray[np.float64], NDArray[np.float64]]


def _range(low: tuple[float, ...], high: tuple[float, ...]) -> Affine:
    lower, upper = np.asarray(low, np.float64), np.asarray(high, np.float64)
    return (upper - lower) / 2.0, (upper + lower) / 2.0


_AFFINES: dict[str, Callable[[FeatureStats], Affine]] = {
    "min_max": lambda stats: _range(stats.min, stats.max),
    "q99": lambda stats: _range(stats.q01, stats.q99),
    "mean_std": lambda stats: (np.asarray(stats.std), np.asarray(stats.mean)),
}
