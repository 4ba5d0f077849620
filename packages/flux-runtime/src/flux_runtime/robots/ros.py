"""What the robots behind ROS 1 share: checks that ROS is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import MissingDependencyError, RobotError
from flux_core.robots import ROBOT_SPECS, RobotSpec


class RosRobot:
    """A robot that flux describes but cannot drive yet: `connect` says what is missing."""

    name: str
    documentation: str

    @property
    def spec(self) -> RobotSpec:
        """Names, limits, cameras and control rate of the robot."""
        return ROBOT_SPECS[self.name]

    def connect(self) -> None:
        """Raises an error of one line that says what is missing."""
        if importlib.util.find_spec("rospy") is None:
            raise MissingDependencyError(
                f"{self.name}: ROS 1 is not installed in this environment (module rospy not "
                f"found). Run on the robot's PC, in an environment with {self.documentation}."
            )
        raise RobotError(
            f"{self.name}: driving the real robot is not part of this version of flux yet. "
            f"Try --robot aloha-sim."
        )

    def read_state(self) -> tuple[NDArray[np.float32], float]:
        """Always raises, because the robot is never connected."""
        self._refuse()

    def read_frames(self, cameras: Sequence[str]) -> Mapping[str, tuple[NDArray[np.uint8], float]]:
        """Always raises, because the robot is never connected."""
        self._refuse()

    def send(self, command: NDArray[np.float32], time_s: float) -> None:
        """Always raises, because the robot is never connected."""
        self._refuse()

    def stop(self, category: int) -> None:
        """Does nothing: nothing moves."""

    def close(self) -> None:
        """Does nothing: there is nothing to release."""

    def _refuse(self) -> NoReturn:
        raise RobotError(f"{self.name}: not connected. Call connect() first.")
