"""What the runtime needs from a robot, and what else it needs from a simulated one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from flux_core.robots import RobotSpec
from flux_core.types import Observation


class Robot(Protocol):
    """A robot. `connect` is called first and `close` last; `close` may be called at any time."""

    @property
    def spec(self) -> RobotSpec:
        """Names, limits, cameras and control rate. Known before `connect`."""
        ...

    def connect(self) -> None:
        """Makes the robot ready, or raises a RobotError or MissingDependencyError."""
        ...

    def state(self) -> NDArray[np.float32]:
        """Returns the state, (state_dim,) float32 in the spec's units, without taking pictures."""
        ...

    def observe(self, prompt: str, cameras: Sequence[str]) -> Observation:
        """Returns the state and one picture from each of `cameras`, a subset of the spec's."""
        ...

    def command(self, action: NDArray[np.float32]) -> None:
        """Sends a command, (action_dim,) float32, for the next control step."""
        ...

    def close(self) -> None:
        """Releases everything the robot holds."""
        ...


@runtime_checkable
class SimulatedRobot(Robot, Protocol):
    """A robot that can be reset and knows the progress of its task.

    Attributes:
        task: its task in words.
        success_stage: the key of `stages()` that counts as success; once true, it stays true.
        end_state: the key of `stages()` that must still hold at the end for strict success.
    """

    task: str
    success_stage: str
    end_state: str

    def reset(self, seed: int) -> None:
        """Starts a new episode; the same seed gives the same start."""
        ...

    def stages(self) -> Mapping[str, bool]:
        """Returns which stages of the task have been reached."""
        ...

    def render(self, cameras: Sequence[str]) -> Mapping[str, NDArray[np.uint8]]:
        """Returns (height, width, 3) uint8 RGB pictures of some cameras."""
        ...
