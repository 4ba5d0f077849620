"""Steps that change the units of states and actions, and their inverses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError
from .base import Sample, Transform
from .roles import Normalization


class UnitStep(Transform):
    """Changes the units of states or actions; statistics are taken after it.

    States may be converted in any way (`state`). Actions must be restored dimension by dimension,
    with the observed state where they are relative:

        action before = action after * scale + offset + relative_mask * state before

    because the C++ loop decodes actions, and real-time chunking encodes them, in this way. A step
    therefore defines `action_affine`, `relative_mask` or both; `actions` and `forward` follow from
    them, which is checked when a config is bound. Every method takes arrays with any leading axes:
    a column of a dataset, or the windows of a batch.
    """

    example = "AlohaToPi"
    before = (Normalization,)
    needs_recorded_images = False

    @property
    def action_affine(self) -> tuple[ArrayLike, ArrayLike] | None:
        """(scale, offset) of the inverse, each a number or (A,); None: actions do not change."""
        return None

    @property
    def relative_mask(self) -> tuple[bool, ...] | None:
        """(A,) True where an action becomes relative to the state; None: nowhere."""
        return None

    @property
    def dims(self) -> int | None:
        """The number of action dimensions that it is for; None: any number."""
        if self.relative_mask is not None:
            return len(self.relative_mask)
        affine = way_back(self)
        shape = () if affine is None else np.broadcast(*affine).shape
        return shape[-1] if shape else None

    def state(self, states: NDArray[Any]) -> NDArray[Any]:
        """(..., S) states in the step's units."""
        return states

    def state_inverse(self, states: NDArray[Any]) -> NDArray[Any]:
        """Returns a state that `state` converts to this one, or the closest to it; used to make
        typical states for trying a policy."""
        return states

    def actions(self, actions: NDArray[Any]) -> NDArray[Any]:
        """(..., A) absolute actions in the step's units."""
        affine = way_back(self)
        if affine is None:
            return actions
        scale, offset = affine
        return ((actions - offset) / scale).astype(np.float32)

    def actions_inverse(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Undoes `actions`."""
        affine = way_back(self)
        if affine is None:
            return actions
        scale, offset = affine
        return (actions * scale + offset).astype(np.float32)

    def forward(self, actions: NDArray[Any], state: NDArray[Any]) -> NDArray[Any]:
        """(..., H, A) and (..., S) before the step -> (..., H, A) after it."""
        if self.relative_mask is None:
            return self.actions(actions)
        return self.actions(actions - self._reference(self.relative_mask, actions, state))

    def inverse(self, actions: NDArray[Any], state: NDArray[Any]) -> NDArray[Any]:
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
        self, mask: Sequence[bool], actions: NDArray[Any], state: NDArray[Any]
    ) -> NDArray[np.float32]:
        dims = len(mask)
        if actions.shape[-1] != dims or state.shape[-1] < dims:
            raise DataError(
                f"{type(self).__name__}.mask: expected {actions.shape[-1]} entries (the actions') "
                f"and a state at least as long, got {dims} and {state.shape[-1]}"
            )
        return masked(mask, state)[..., None, :]


def way_back(step: UnitStep) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Returns a step's `action_affine` as arrays (scale, offset), each () or (A,)."""
    affine = step.action_affine
    if affine is None:
        return None
    return np.asarray(affine[0], np.float64), np.asarray(affine[1], np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class ActionInverse:
    """Converts network actions to robot units: `x * scale + offset + relative_mask * state`.

    Attributes:
        scale: (A,) float32.
        offset: (A,) float32.
        relative_mask: (A,) True where an action is relative to the observed state.
    """

    scale: NDArray[np.float32]
    offset: NDArray[np.float32]
    relative_mask: NDArray[np.bool_]

    def __call__(
        self, actions: NDArray[np.float32], state: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """(..., H, at least A) normalised and (..., S) in robot units -> (..., H, A)."""
        reference = masked(self.relative_mask, state)[..., None, :]
        return actions[..., : len(self.scale)] * self.scale + self.offset + reference


def masked(mask: ArrayLike, state: NDArray[Any]) -> NDArray[np.float32]:
    """(..., S) states -> (..., A): the state where `mask` (A,) is True, 0 elsewhere."""
    kept = np.asarray(mask, dtype=np.bool_)
    return np.where(kept, state[..., : len(kept)], 0.0).astype(np.float32)


def compose(steps: Sequence[UnitStep], scale: NDArray[Any], offset: NDArray[Any]) -> ActionInverse:
    """Returns the inverse of `steps` and of a later normalisation, undone by `x * scale + offset`.

    A step before a relative one does not change the reference to the observed state: it converts
    states there as it converts actions (`check_inverses` makes sure of that), so its own offset is
    already in the reference.
    """
    factors: NDArray[Any] = scale
    summands: NDArray[Any] = offset
    relative = np.zeros(len(scale), dtype=np.bool_)
    for step in reversed(steps):
        affine = way_back(step)
        if affine is not None:
            factors = affine[0] * factors
            summands = affine[0] * summands + np.where(relative, 0.0, affine[1])
        if step.relative_mask is not None:
            relative = relative | np.asarray(step.relative_mask, dtype=np.bool_)
    return ActionInverse(
        scale=factors.astype(np.float32),
        offset=summands.astype(np.float32),
        relative_mask=relative,
    )
