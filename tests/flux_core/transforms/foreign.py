"""Transforms as a user of flux would write them; configs name them by 'module:Class'."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flux_core.transforms import Sample, Transform, UnitStep


@dataclass(frozen=True, kw_only=True)
class Affine(UnitStep):
    """`x = x' * scale + offset` for actions, and for states too if they are in the same unit."""

    scale: tuple[float, ...]
    offset: tuple[float, ...]
    states_too: bool = True

    @property
    def action_affine(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return np.array(self.scale), np.array(self.offset)

    def state(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.actions(states) if self.states_too else states

    def state_inverse(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.actions_inverse(states) if self.states_too else states


@dataclass(frozen=True, kw_only=True)
class ToState(UnitStep):
    """Actions relative to the state in every dimension."""

    dims_made_relative: tuple[bool, ...]

    @property
    def relative_mask(self) -> tuple[bool, ...]:
        return self.dims_made_relative


@dataclass(frozen=True, kw_only=True)
class ClipStates(UnitStep):
    """Clips states. The clipped part is lost, but nothing needs to restore it."""

    reach: float

    def state(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.clip(states, -self.reach, self.reach)


@dataclass(frozen=True, kw_only=True)
class ClipStatesQuietly(Transform):
    """Does the same without declaring units."""

    reach: float = 1.0

    def __call__(self, sample: Sample) -> Sample:
        return {**sample, "states": np.clip(sample["states"], -self.reach, self.reach)}


@dataclass(frozen=True, kw_only=True)
class FlipImages(Transform):
    """Mirrors images; needs images, so it can only be tried with a real sample."""

    def __call__(self, sample: Sample) -> Sample:
        return {**sample, "images": sample["images"][:, :, ::-1]}


@dataclass(frozen=True, kw_only=True)
class Noted(Transform):
    """Changes nothing, as it declares."""

    note: str = ""

    def __call__(self, sample: Sample) -> Sample:
        return dict(sample)


@dataclass(frozen=True, kw_only=True)
class HalvesActions(Transform):
    """Changes actions without declaring it."""

    def __call__(self, sample: Sample) -> Sample:
        return {**sample, "actions": sample["actions"] * 0.5}


@dataclass(frozen=True, kw_only=True)
class HalvesActionsOfLargeImages(Transform):
    """Changes actions, but only with real images."""

    def __call__(self, sample: Sample) -> Sample:
        if sample["images"].shape[1] < 32:
            raise ValueError("images: expected a camera's")
        return {**sample, "actions": sample["actions"] * 0.5}


@dataclass(frozen=True, kw_only=True)
class WritesIntoActions(Transform):
    """Writes into its input to save a copy."""

    def __call__(self, sample: Sample) -> Sample:
        sample["actions"] *= 2.0
        return sample


@dataclass(frozen=True, kw_only=True)
class LosesActions(Transform):
    """Drops the keys that it does not know."""

    def __call__(self, sample: Sample) -> Sample:
        return {"states": sample["states"]}


@dataclass(frozen=True, kw_only=True)
class SwapsArms(UnitStep):
    """Swaps dimensions, so that no scale undoes it."""

    @property
    def action_affine(self) -> tuple[float, float]:
        return 1.0, 0.0

    def actions(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        return actions[..., ::-1]


@dataclass(frozen=True, kw_only=True)
class Squares(UnitStep):
    """Not affine."""

    @property
    def action_affine(self) -> tuple[float, float]:
        return 1.0, 0.0

    def actions(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        return actions * np.abs(actions)


@dataclass(frozen=True, kw_only=True)
class WrongScale(UnitStep):
    """Declares a scale of 2 and uses 3."""

    @property
    def action_affine(self) -> tuple[float, float]:
        return 2.0, 0.0

    def actions(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        return actions / 3.0


@dataclass(frozen=True, kw_only=True)
class HalfRelative(UnitStep):
    """Subtracts half of the state, which a mask cannot express."""

    @property
    def relative_mask(self) -> tuple[bool, ...]:
        return (True,) * 6

    def forward(
        self, actions: NDArray[np.float32], state: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        return actions - 0.5 * state[..., None, :]


@dataclass(frozen=True, kw_only=True)
class StepByStep(UnitStep):
    """Differences between rows: correct per dimension, but steps depend on each other."""

    @property
    def action_affine(self) -> tuple[float, float]:
        return 1.0, 0.0

    def actions(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.diff(actions, axis=-2, prepend=0.0)


@dataclass(frozen=True, kw_only=True)
class ScalesByZero(UnitStep):
    """Loses a dimension."""

    @property
    def action_affine(self) -> tuple[tuple[float, ...], float]:
        return (1.0, 0.0), 0.0


@dataclass(frozen=True, kw_only=True)
class FirstRowOnly(UnitStep):
    """Treats the first axis as the joints, which is right for one state but not for a column."""

    def state(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        out = states.copy()
        out[2] = 0.0
        return out


class NotATransform:
    """Has the method, but not the declarations of a transform."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        strength: float = 1.0

    def __call__(self, sample: Sample) -> Sample:
        return sample
