"""Steps that change the units of states and actions, and how actions are converted back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError, DataError
from .base import Sample, Transform
from .gr00t.dimension_rules import THRESHOLD
from .roles import Normalization


class UnitStep(Transform):
    """Changes the units of states or actions; statistics are computed after it.

    States may be mapped in any way (`state`). What is done to actions must be undone separately in
    each dimension, by a scale, an offset and, where actions are relative, the observed state:

        action before = action after * scale + offset + relative_mask * state before

    because the C++ loop decodes actions like this and real-time chunking encodes them like this. A
    step therefore declares `action_affine`, `relative_mask` or both; `actions` and `forward` follow
    from them. If a step overrides those, they are checked against the declaration when a config is
    bound. All methods accept arrays with any leading axes, such as a whole column of a dataset.
    """

    example = "AlohaToPi"
    before = (Normalization,)
    needs_recorded_images = False

    @property
    def action_affine(self) -> tuple[ArrayLike, ArrayLike] | None:
        """(scale, offset) that undo the step, each a number or (A,); None if actions stay."""
        return None

    @property
    def relative_mask(self) -> tuple[bool, ...] | None:
        """(A,) True where an action becomes relative to the state; None if none does."""
        return None

    @property
    def dims(self) -> int | None:
        """The number of action dimensions that it requires; None if any number will do."""
        if self.relative_mask is not None:
            return len(self.relative_mask)
        affine = way_back(self)
        shape = () if affine is None else np.broadcast(*affine).shape
        return shape[-1] if shape else None

    def state(self, states: NDArray[np.floating]) -> NDArray[np.floating]:
        """Converts states (..., S) to the step's units."""
        return states

    def state_inverse(self, states: NDArray[np.floating]) -> NDArray[np.floating]:
        """Returns a state that `state` maps to this one, or as close as possible.

        It is only used to find a typical state for testing a policy.
        """
        return states

    def actions(self, actions: NDArray[np.floating]) -> NDArray[np.floating]:
        """Converts absolute actions (..., A) to the step's units."""
        affine = way_back(self)
        if affine is None:
            return actions
        scale, offset = affine
        return ((actions - offset) / scale).astype(np.float32)

    def actions_inverse(self, actions: NDArray[np.floating]) -> NDArray[np.floating]:
        """Undoes `actions`."""
        affine = way_back(self)
        if affine is None:
            return actions
        scale, offset = affine
        return (actions * scale + offset).astype(np.float32)

    def forward(
        self, actions: NDArray[np.floating], state: NDArray[np.floating]
    ) -> NDArray[np.floating]:
        """Actions (..., H, A) and states (..., S) before the step -> actions after it."""
        if self.relative_mask is None:
            return self.actions(actions)
        return self.actions(actions - self._reference(self.relative_mask, actions, state))

    def inverse(
        self, actions: NDArray[np.floating], state: NDArray[np.floating]
    ) -> NDArray[np.floating]:
        """Undoes `forward`, given the state before the step."""
        absolute = self.actions_inverse(actions)
        if self.relative_mask is None:
            return absolute
        return absolute + self._reference(self.relative_mask, actions, state)

    def __call__(self, sample: Sample) -> Sample:
        state = sample["states"]
        out = {**sample, "states": self.state(state)}
        if "actions" in sample:
            out["actions"] = self.forward(sample["actions"], state)
        return out

    def _reference(
        self, mask: Sequence[bool], actions: NDArray[np.floating], state: NDArray[np.floating]
    ) -> NDArray[np.float32]:
        dims = len(mask)
        if actions.shape[-1] != dims or state.shape[-1] < dims:
            raise DataError(
                f"{type(self).__name__}.mask: expected {actions.shape[-1]} entries (the actions') "
                f"and a state at least as long, got {dims} and {state.shape[-1]}"
            )
        return masked(mask, state)[..., None, :]


def way_back(step: UnitStep) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Returns a step's `action_affine` as two float64 arrays, each () or (A,)."""
    affine = step.action_affine
    if affine is None:
        return None
    return np.asarray(affine[0], np.float64), np.asarray(affine[1], np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class ActionInverse:
    """Converts normalised actions to robot units: `x * scale + offset + relative_mask * state`.

    Attributes:
        scale: (A,) float32.
        offset: (A,) float32.
        relative_mask: (A,) True where an action is relative to the observed state.
        binary_mask: (A,) True where an action is 1 above 0.5, else 0; None if none is.
    """

    scale: NDArray[np.float32]
    offset: NDArray[np.float32]
    relative_mask: NDArray[np.bool_]
    binary_mask: NDArray[np.bool_] | None = None

    def __call__(
        self, actions: NDArray[np.float32], state: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Actions (..., H, at least A), states (..., S) in robot units -> actions (..., H, A)."""
        reference = masked(self.relative_mask, state)[..., None, :]
        actions = actions[..., : len(self.scale)]
        decoded = actions * self.scale + self.offset + reference
        if self.binary_mask is None:
            return decoded
        # What is not finite is kept, to be found later.
        switched = np.where(np.isfinite(actions), actions > THRESHOLD, actions)
        return np.where(self.binary_mask, switched, decoded).astype(np.float32)


def masked(mask: ArrayLike, state: NDArray[np.floating]) -> NDArray[np.float32]:
    """States (..., S) -> (..., A): the state where `mask` (A,) is True, 0 elsewhere."""
    kept = np.asarray(mask, dtype=np.bool_)
    return np.where(kept, state[..., : len(kept)], 0.0).astype(np.float32)


def compose(
    steps: Sequence[UnitStep],
    scale: NDArray[np.floating],
    offset: NDArray[np.floating],
    binary: NDArray[np.bool_] | None = None,
) -> ActionInverse:
    """Returns the inverse of `steps` and of a normalisation after them.

    A step before a relative one converts states in the relative dimensions as it converts actions;
    `check_inverses` makes sure of that. Undoing it therefore turns the converted state into the
    observed one, and its offset must not be added a second time.

    Args:
        steps: the unit steps in order.
        scale: (A,) scale that undoes the normalisation.
        offset: (A,) offset that undoes the normalisation.
        binary: (A,) True where the normalisation gives 0 or 1.

    Raises:
        ConfigError: a step changes a binary action.
    """
    factors: NDArray[np.floating] = scale
    summands: NDArray[np.floating] = offset
    relative = np.zeros(len(scale), dtype=np.bool_)
    for step in reversed(steps):
        affine = way_back(step)
        if affine is not None:
            factors = affine[0] * factors
            summands = affine[0] * summands + np.where(relative, 0.0, affine[1])
        if step.relative_mask is not None:
            relative = relative | np.asarray(step.relative_mask, dtype=np.bool_)
    if binary is not None and binary.any():
        is_changed = binary & ((factors != 1.0) | (summands != 0.0) | relative)
        if is_changed.any():
            raise ConfigError(
                f"action_keys: dimension {int(np.argmax(is_changed))} is binary, but a transform "
                "before the normalisation changes it. Leave it out there"
            )
    return ActionInverse(
        scale=factors.astype(np.float32),
        offset=summands.astype(np.float32),
        relative_mask=relative,
        binary_mask=binary if binary is not None and binary.any() else None,
    )
