"""`aloha-sim`: the simulated two-armed ALOHA, with gym-aloha's two tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import RobotError
from flux_core.robots import RobotSpec, robot_spec
from flux_core.types import Observation

if TYPE_CHECKING:
    from flux_core.sim.aloha_arms import AlohaArms


class AlohaSimRobot:
    """Hands a cube from the right arm to the left one; MuJoCo is loaded by `connect`."""

    task = "pick up the cube with the right arm and transfer it to the left arm"
    success_stage = "transferred"
    end_state = "held_by_left_only"

    def __init__(self) -> None:
        self._simulation: AlohaArms | None = None

    @property
    def spec(self) -> RobotSpec:
        """The arms of gym-aloha."""
        return robot_spec("aloha-sim")

    def connect(self) -> None:
        """Builds the simulation."""
        self._simulation = self._make_simulation()

    def reset(self, seed: int) -> None:
        """Puts arms and objects to the start that `seed` draws."""
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
        """Returns the stages reached (sticky), and the end state (now)."""
        return self._connected.stages()

    def render(self, cameras: Sequence[str]) -> Mapping[str, NDArray[np.uint8]]:
        """Renders some cameras."""
        return self._connected.render(cameras)

    def close(self) -> None:
        """Frees the simulation."""
        if self._simulation is not None:
            self._simulation.close()
            self._simulation = None

    def _make_simulation(self) -> AlohaArms:
        from flux_core.sim.aloha import AlohaSim

        return AlohaSim()

    @property
    def _connected(self) -> AlohaArms:
        if self._simulation is None:
            raise RobotError("aloha-sim: not connected. Call connect() first.")
        return self._simulation


class AlohaInsertionRobot(AlohaSimRobot):
    """Puts the peg of the right arm into the socket of the left one."""

    task = "insert the peg into the socket"
    success_stage = "inserted"
    end_state = "inserted_and_held"

    def _make_simulation(self) -> AlohaArms:
        from flux_core.sim.aloha_insertion import AlohaInsertionSim

        return AlohaInsertionSim()
