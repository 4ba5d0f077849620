"""A robot in simulation: implements `SimulatedRobot` with a simulation of `flux_core.sim`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import RobotError
from flux_core.robots import ROBOT_SPECS, RobotSpec
from flux_core.types import Observation


class Simulation(Protocol):
    """What the simulations of `flux_core.sim` have in common."""

    @property
    def time_s(self) -> float: ...
    def reset(self, seed: int) -> object: ...
    def state(self) -> NDArray[np.float32]: ...
    def render(self, cameras: Sequence[str]) -> dict[str, NDArray[np.uint8]]: ...
    def step(self, action: NDArray[np.float32]) -> object: ...
    def stages(self) -> Mapping[str, bool]: ...
    def close(self) -> None: ...


class RobotInSimulation(ABC):
    """A `SimulatedRobot`; MuJoCo is loaded by `connect`."""

    name: str
    task: str
    success_stage: str
    end_state: str

    def __init__(self) -> None:
        self._simulation: Simulation | None = None

    @abstractmethod
    def _make_simulation(self) -> Simulation:
        """Builds the scene."""

    @property
    def spec(self) -> RobotSpec:
        """The robot that is simulated."""
        return ROBOT_SPECS[self.name]

    def connect(self) -> None:
        """Builds the simulation."""
        self._simulation = self._make_simulation()

    def reset(self, seed: int) -> None:
        """Starts a new episode from the start state that `seed` selects."""
        self._connected.reset(seed)

    def state(self) -> NDArray[np.float32]:
        """Returns (state_dim,) float32, in the spec's order."""
        return self._connected.state()

    def observe(self, prompt: str, cameras: Sequence[str]) -> Observation:
        """Renders some of the cameras, each (height, width, 3) uint8."""
        simulation = self._connected
        return Observation(
            images=simulation.render(cameras),
            state=simulation.state(),
            prompt=prompt,
            timestamp_s=simulation.time_s,
        )

    def command(self, action: NDArray[np.float32]) -> None:
        """Advances the simulation by one control step."""
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

    @property
    def _connected(self) -> Simulation:
        if self._simulation is None:
            raise RobotError(f"{self.name}: not connected. Call connect() first.")
        return self._simulation
