"""`aloha-sim`: the simulated two-armed ALOHA that hands a cube from the right arm to the left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import RobotError
from flux_core.robots import RobotSpec, robot_spec
from flux_core.types import Observation

if TYPE_CHECKING:
    from flux_core.sim.aloha import AlohaSim


class AlohaSimRobot:
    """A `SimulatedRobot` on `flux_core.sim.aloha.AlohaSim`; MuJoCo is loaded by `connect`."""

    task = "pick up the cube with the right arm and transfer it to the left arm"
    success_stage = "transferred"
    end_state = "held_by_left_only"

    def __init__(self) -> None:
        self._simulation: AlohaSim | None = None

    @property
    def spec(self) -> RobotSpec:
        """The arms of gym-aloha."""
        return robot_spec("aloha-sim")

    def connect(self) -> None:
        """Builds the simulation."""
        from flux_core.sim.aloha import AlohaSim

        self._simulation = AlohaSim()
        self._simulation.reset(0)

    def reset(self, seed: int) -> None:
        """Puts arms and cube to the start that `seed` draws."""
        self._connected.reset(seed)

    def state(self) -> NDArray[np.float32]:
        """Returns (14,) float32: left arm, left gripper, right arm, right gripper."""
        return self._connected.state()

    def observe(self, prompt: str, cameras: Sequence[str]) -> Observation:
        """Renders some of the three cameras, each (192, 256, 3) uint8."""
        simulation = self._connected
        return Observation(
            images=simulation.render(cameras),
            state=simulation.state(),
            prompt=prompt,
            timestamp_s=simulation.time_s,
        )

    def command(self, action: NDArray[np.float32]) -> None:
        """Advances the simulation by one control step of 20 ms."""
        self._connected.step(action)

    def stages(self) -> Mapping[str, bool]:
        """Returns touched, lifted, transferred (sticky) and held_by_left_only (now)."""
        return self._connected.stages()

    def render(self, cameras: Sequence[str]) -> Mapping[str, NDArray[np.uint8]]:
        """Renders some cameras."""
        return self._connected.render(cameras)

    def close(self) -> None:
        """Frees the simulation."""
        if self._simulation is not None:
            self._simulation.close()
            self._simulation = None

    @property
    def _connected(self) -> AlohaSim:
        if self._simulation is None:
            raise RobotError("aloha-sim: not connected. Call connect() first.")
        return self._simulation
