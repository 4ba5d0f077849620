"""A transform from outside flux: datasets recorded in degrees, a network that thinks in radians."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flux_core.transforms import UnitStep


@dataclass(frozen=True, kw_only=True)
class DegreesToRadians(UnitStep):
    """Joints from degrees to radians; where `joints` is False (a gripper) nothing changes."""

    joints: tuple[bool, ...]

    @property
    def action_affine(self) -> tuple[NDArray[np.float64], float]:
        return np.where(self.joints, 180.0 / math.pi, 1.0), 0.0

    def state(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.actions(states)

    def state_inverse(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.actions_inverse(states)
