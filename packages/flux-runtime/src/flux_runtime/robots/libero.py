"""`libero`: the simulated Panda of the LIBERO benchmark, with one of its tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import RobotError
from flux_core.robots import RobotSpec, robot_spec
from flux_core.types import Observation

if TYPE_CHECKING:
    from flux_core.sim.libero import LiberoSim, LiberoTask


class LiberoRobot:
    """A `SimulatedRobot` on `flux_core.sim.libero.LiberoSim`; MuJoCo is loaded by `connect`."""

    success_stage = end_state = "success"

    def __init__(self, task: LiberoTask) -> None:
        self.task = task.language
        self._task = task
        self._simulation: LiberoSim | None = None

    @property
    def spec(self) -> RobotSpec:
        """The Panda under OSC_POSE."""
        return robot_spec("libero")

    def connect(self) -> None:
        """Builds the task's scene."""
        from flux_core.sim.libero import LiberoSim

        self._simulation = LiberoSim(self._task)

    def reset(self, seed: int) -> None:
        """Starts from the benchmark's start state number `seed`."""
        self._connected.reset(seed)

    def state(self) -> NDArray[np.float32]:
        """Returns (8,) float32: position, axis-angle, two fingers."""
        return self._connected.state()

    def observe(self, prompt: str, cameras: Sequence[str]) -> Observation:
        """Renders some of the two cameras, each (256, 256, 3) uint8."""
        simulation = self._connected
        return Observation(
            images=simulation.render(cameras),
            state=simulation.state(),
            prompt=prompt,
            timestamp_s=simulation.time_s,
        )

    def command(self, action: NDArray[np.float32]) -> None:
        """Advances the simulation by one control step of 50 ms."""
        self._connected.step(action)

    def stages(self) -> Mapping[str, bool]:
        """Returns success."""
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
    def _connected(self) -> LiberoSim:
        if self._simulation is None:
            raise RobotError("libero: not connected. Call connect() first.")
        return self._simulation
