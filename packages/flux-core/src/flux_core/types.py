"""The two values that cross every boundary: what a robot observes and what a policy returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a robot observes at one moment.

    Attributes:
        images: camera name -> (height, width, 3) uint8 RGB.
        state: (state_dim,) float32, in the robot's units.
        prompt: the task in words.
        timestamp_s: when it was taken, on the robot's monotonic clock.
    """

    images: Mapping[str, NDArray[np.uint8]]
    state: NDArray[np.float32]
    prompt: str
    timestamp_s: float


@dataclass(frozen=True, kw_only=True)
class ActionChunk:
    """The actions that a policy returns for one observation.

    Attributes:
        actions: (action_horizon, action_dim) float32, in the robot's units, one row per tick.
        timestamp_s: the time of the observation that they were computed from.
    """

    actions: NDArray[np.float32]
    timestamp_s: float
