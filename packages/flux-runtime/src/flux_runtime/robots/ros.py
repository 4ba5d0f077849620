"""What the robots behind ROS 1 share: the look at whether ROS is there at all."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import MissingDependencyError, RobotError
from flux_core.robots import ROBOT_SPECS, RobotSpec
from flux_core.types import Observation


class RosRobot:
    """A robot that is described but not yet driven: `connect` says what is missing."""

    name: str
    documentation: str

    @property
    def spec(self) -> RobotSpec:
        """Names, limits, cameras and control rate of the robot."""
        return ROBOT_SPECS[self.name]

    def connect(self) -> None:
        """Refuses, in one line."""
        if importlib.util.find_spec("rospy") is None:
            raise MissingDependencyError(
                f"{self.name}: ROS 1 is not installed in this environment (module rospy not "
                f"found). Run on the robot's PC, in an environment with {self.documentation}."
            )
        raise RobotError(
            f"{self.name}: driving the real robot is not part of this version of flux yet. "
            f"Try --robot aloha-sim."
        )

    def state(self) -> NDArray[np.float32]:
        """Refuses: never connected."""
        self._refuse()

    def observe(self, prompt: str, cameras: Sequence[str]) -> Observation:
        """Refuses: never connected."""
        self._refuse()

    def command(self, action: NDArray[np.float32]) -> None:
        """Refuses: never connected."""
        self._refuse()

    def close(self) -> None:
        """Has nothing to give back."""

    def _refuse(self) -> NoReturn:
        raise RobotError(f"{self.name}: not connected. Call connect() first.")
