"""Steps that change the units of states and actions, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError
from .base import Sample, Transform
from .roles import Normalization


class UnitStep(Transform):
    """Changes the units of states or actions; statistics are taken after it.

    A state may become anything (`state`). An action must be undone dimension by dimension, with
    the observed state where it is relative:

        action before = action after * scale + offset + relative_mask * state before

    because this is how the C++ loop decodes actions, and real-time chunking encodes them. So a step
    says `action_affine`, `relative_mask` or both, and `actions` and `forward` follow from them.
    Whether they do is tried out when a config is bound. Every method takes arrays with any leading
    axes: a column of a dataset, or the windows of a batch.
    """

    example = "AlohaToPi"
    before = (Normalization,)
    needs_recorded_images = False

    @property
    def action_affine(self) -> tuple[ArrayLike, ArrayLike] | None:
        """(scale, offset) of the way back, each a number or (A,); None: actions stay."""
        return None

    @property
    def relative_mask(self) -> tuple[bool, ...] | None:
        """(A,) True where an action becomes relative to the state; None: nowhere."""
        return None

    @property
    def dims(self) -> int | None:
        """The number of action dimensions it is for; None: any."""
        if self.relative_mask is not None:
            return len(self.relative_mask)
        affine = way_back(self)
        shape = () if affine is None else np.broadcast(*affine).shape
        return shape[-1] if shape else None

    def state(self, states: NDArray[np.floating]) -> NDArray[np.floating]:
        """(..., S) states in the step's units."""
        return states

    def state_inverse(self, states: NDArray[np.floating]) -> NDArray[np.floating]:
        """A state that `state` turns into this one, as near as there is; used for typical states
        to try a policy with."""
        return states

    def actions(self, actions: NDArray[np.floating]) -> NDArray[np.floating]:
        """(..., A) absolute actions in the step's units."""
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
        """(..., H, A) and (..., S) before the step -> (..., H, A) after it."""
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
    """(scale, offset) of a step's `action_affine` as arrays, each () or (A,)."""
    affine = step.action_affine
    if affine is None:
        return None
    return np.asarray(affine[0], np.float64), np.asarray(affine[1], np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class ActionInverse:
    """The network's actions to the robot's units: `x * scale + offset + relative_mask * state`.

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


def masked(mask: ArrayLike, state: NDArray[np.floating]) -> NDArray[np.float32]:
    """(..., S) states -> (..., A): the state where `mask` (A,) is True, 0 elsewhere."""
    kept = np.asarray(mask, dtype=np.bool_)
    return np.where(kept, state[..., : len(kept)], 0.0).astype(np.float32)


def compose(
    steps: Sequence[UnitStep], scale: NDArray[np.floating], offset: NDArray[np.floating]
) -> ActionInverse:
    """The inverse of `steps`, followed by a normalisation that `x * scale + offset` undoes.

    A step before a relative one leaves the reference to the observed state as it is: it converts a
    state there as it does an action (`check_inverses` sees to that), so that its own offset is in
    the reference already.
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
    return ActionInverse(
        scale=factors.astype(np.float32),
        offset=summands.astype(np.float32),
        relative_mask=relative,
    )
