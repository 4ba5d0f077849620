"""States and actions: relative, normalised, padded, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..config import check_at_least
from ..errors import ConfigError, DataError
from ..norm_stats import FeatureStats, NormType
from ..robots.spec import RobotSpec
from .base import Sample
from .gr00t.dimension_rules import (
    DimensionRules,
    KeyRule,
    StateKeyRule,
    check_keys,
    normalize_state,
)
from .roles import Normalization, Padding
from .rule import Rule, rules
from .units import UnitStep


@dataclass(frozen=True, kw_only=True)
class RelativeActions(UnitStep):
    """Actions relative to the state at the chunk's start where `mask` is True.

    openpi calls this `DeltaActions`.

    Statistics of the actions are taken after this transform.
    """

    once = True
    rules = rules("equal", "units", "mask")
    mask: tuple[bool, ...]

    @property
    def relative_mask(self) -> tuple[bool, ...]:
        return self.mask

    def for_robot(self, cameras: int, dims: int) -> RelativeActions:
        """Cuts off the padded joints of training, which the robot does not have."""
        return replace(self, mask=self.mask[:dims])

    def check_robot(self, robot: RobotSpec, where: str) -> None:
        if robot.is_commanded_by_differences:
            raise ConfigError(
                f"{where}: RelativeActions expected a robot whose commands are states, got "
                f"{robot.name}, whose commands are already differences. Remove it"
            )


@dataclass(frozen=True, kw_only=True)
class NormalizeStatesAndActions(Normalization):
    """Normalises `states` and `actions` with the sample's statistics, then zero-pads both.

    `state_key` and `action_key` name the statistics; `state_dim` and `action_dim` the padded
    sizes (None: as they are). `action_dim_masks` marks the real action dimensions.

    With `state_keys` or `action_keys`, `norm_type` does not matter to them: each key, such as
    `("gripper", 1, "binary")`, has a rule of its own, of which `gr00t/dimension_rules.py` has the
    list. Keys follow each other in the order of the columns; dimensions after them are padding.
    """

    rules: ClassVar[Mapping[str, Rule]] = {
        **rules("equal", "which statistics are used, and how", "norm_type", "state_key"),
        **rules("equal", "which statistics are used, and how", "state_keys", "action_keys"),
        **rules("equal", "which statistics are used, and how", "action_key"),
        **rules("checked", "padding: by the width of the network's input", "state_dim"),
        **rules("named", "padding: the network's size counts; a warning names both", "action_dim"),
    }
    norm_type: NormType = "mean_std"
    state_key: str = "proprio"
    action_key: str = "action"
    state_dim: int | None = None
    action_dim: int | None = None
    state_keys: tuple[StateKeyRule, ...] = ()
    action_keys: tuple[KeyRule, ...] = ()

    def __post_init__(self) -> None:
        check_at_least(1, self, "state_dim", "action_dim")
        check_keys(self.state_keys, "state_keys")
        check_keys(self.action_keys, "action_keys")

    def for_robot(self, cameras: int, dims: int) -> NormalizeStatesAndActions:
        """Keeps how values are mapped; the statistics' names and the padded sizes may differ."""
        return replace(
            self, state_key="proprio", action_key="action", state_dim=None, action_dim=None
        )

    def __call__(self, sample: Sample) -> Sample:
        out = dict(sample)
        state_stats = find_stats(sample, self.state_key)
        state = self._state(sample["states"], state_stats)
        out["states"] = zero_pad(state, self.state_dim, "NormalizeStatesAndActions.state_dim")
        # An earlier PadKeyToDim has already counted the real dimensions.
        out.setdefault("num_state_dims", state.shape[-1])
        if "actions" in sample:
            stats = find_stats(sample, self.action_key)
            actions = self._actions(sample["actions"], stats)
            padded = zero_pad(actions, self.action_dim, "NormalizeStatesAndActions.action_dim")
            out["actions"] = padded
            real = np.asarray(sample.get("action_dim_masks", np.ones(actions.shape[-1], bool)))
            out["action_dim_masks"] = np.arange(padded.shape[-1]) < real.sum()
        return out

    def _state(self, values: NDArray[np.float32], stats: FeatureStats) -> NDArray[np.float32]:
        if not self.state_keys:
            return normalize(values, stats, self.norm_type, "observation.state")
        _check_dims(values, stats, "observation.state")
        return normalize_state(values, self.state_keys, stats)

    def _actions(self, values: NDArray[np.float32], stats: FeatureStats) -> NDArray[np.float32]:
        if not self.action_keys:
            return normalize(values, stats, self.norm_type, "action")
        _check_dims(values, stats, "action")
        return DimensionRules.of_keys(self.action_keys, stats.dim).normalize(values, stats)


@dataclass(frozen=True, kw_only=True)
class DenormalizeActions:
    """Turns normalised actions into robot units: cut to `action_dim`, `x * scale + offset`.

    With `action_keys`, each key has its own rule, as in `NormalizeStatesAndActions`; what is binary
    becomes 0 or 1.
    """

    norm_type: NormType = "mean_std"
    action_key: str = "action"
    action_dim: int | None = None
    action_keys: tuple[KeyRule, ...] = ()

    def __post_init__(self) -> None:
        check_keys(self.action_keys, "action_keys")

    def affine(self, stats: FeatureStats) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns (scale, offset), float32 (action_dim,), or as many as there are statistics of."""
        scale, offset = action_affine(stats, self.norm_type, self.action_keys)
        return scale[: self.action_dim], offset[: self.action_dim]

    def binary_mask(self, dims: int) -> NDArray[np.bool_]:
        """Returns (dims,) True where an action is 0 or 1."""
        mask = np.zeros(dims, np.bool_)
        place = 0
        for _, size, rule in self.action_keys:
            mask[place : place + size] = rule == "binary"
            place += size
        return mask


@dataclass(frozen=True, kw_only=True)
class PadKeyToDim(Padding):
    """Zero-pads the last axis of each key to `dim` (never tiles) and records the real dimensions.

    Padded action dimensions have no loss, and padded state dimensions are not in the prompt.
    """

    rules = rules("checked", "padding: by the width of the network's input", "keys", "dim")
    keys: tuple[str, ...]
    dim: int

    def __post_init__(self) -> None:
        check_at_least(1, self, "dim")

    def __call__(self, sample: Sample) -> Sample:
        out = dict(sample)
        for key in self.keys:
            if key in sample:
                out[key] = zero_pad(sample[key], self.dim, "PadKeyToDim.dim")
        if "actions" in self.keys and "actions" in sample:
            out["action_dim_masks"] = np.arange(self.dim) < sample["actions"].shape[-1]
        if "states" in self.keys and "states" in sample:
            out["num_state_dims"] = sample["states"].shape[-1]
        return out


def find_stats(sample: Sample, key: str) -> FeatureStats:
    """Returns the sample's statistics of `key`."""
    stats = sample["stats"]
    if key not in stats:
        raise DataError(
            f"stats: expected statistics of {key!r}, got {sorted(stats)}. "
            "Add it to statistic_keys and name_mappings"
        )
    return stats[key]


def action_affine(
    stats: FeatureStats, norm_type: NormType, keys: Sequence[KeyRule]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns (scale, offset), float32 (dims,), that undo the normalisation of actions."""
    if not keys:
        return stats.affine(norm_type)
    return DimensionRules.of_keys(keys, stats.dim).affine(stats)


def normalize(
    values: NDArray[np.float32], stats: FeatureStats, norm_type: NormType, where: str
) -> NDArray[np.float32]:
    """`(x - offset) / scale` on the last axis."""
    _check_dims(values, stats, where)
    scale, offset = stats.affine(norm_type)
    return ((values - offset) / scale).astype(np.float32)


def _check_dims(values: NDArray[np.float32], stats: FeatureStats, where: str) -> None:
    if values.shape[-1] != stats.dim:
        raise DataError(
            f"{where}: expected {stats.dim} dimensions (the statistics), got {values.shape[-1]}"
        )


def zero_pad(values: NDArray[np.float32], dim: int | None, where: str) -> NDArray[np.float32]:
    """Appends zeros to the last axis until it is `dim` long."""
    if dim is None or values.shape[-1] == dim:
        return values
    if values.shape[-1] > dim:
        raise ConfigError(f"{where}: expected at least {values.shape[-1]} (the data), got {dim}")
    padding = [(0, 0)] * (values.ndim - 1) + [(0, dim - values.shape[-1])]
    return np.pad(values, padding)
