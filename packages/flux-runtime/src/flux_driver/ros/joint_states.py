"""Joint positions out of sensor_msgs/JointState: by name where names are given."""

from __future__ import annotations

from typing import Any, Sequence, Tuple

import numpy as np

from ..robot import DriverError

Names = Tuple[str, ...]


class JointOrder:
    """Finds the positions of a robot's joints in the messages of one topic.

    Args:
        source: the topic, for messages.
        candidates: the names that the joints may have in messages, each in the robot's order; the
            first of them whose names are all there is used. Messages without names are in the
            robot's order.
    """

    def __init__(self, source: str, candidates: Sequence[Sequence[str]]) -> None:
        self._source = source
        self._candidates = tuple(tuple(names) for names in candidates)
        self._num_joints = len(self._candidates[0])
        self._seen: Names | None = None
        self._places: Sequence[int] = ()

    def positions(self, message: Any) -> np.ndarray:
        """Returns the positions in the robot's order, (num_joints,) float64, NaN included.

        Raises:
            DriverError: the message has other names, or fewer positions than joints.
        """
        return self._ordered(message, message.position)

    def _ordered(self, message: Any, values: Sequence[float]) -> np.ndarray:
        names = tuple(message.name)
        if names != self._seen:
            self._places = self._find_places(names)
            self._seen = names
        expected = len(names) if any(names) else self._num_joints
        if len(values) != expected:
            raise DriverError(
                f"{self._source}: expected {expected} positions "
                f"({', '.join(names if any(names) else self._candidates[0])}), got {len(values)}"
            )
        return np.asarray(values, np.float64)[list(self._places)]

    def _find_places(self, names: Names) -> Sequence[int]:
        if not any(names):
            return range(self._num_joints)
        for candidate in self._candidates:
            if all(names.count(name) == 1 for name in candidate):
                return [names.index(name) for name in candidate]
        expected = " or ".join(", ".join(candidate) for candidate in self._candidates)
        raise DriverError(
            f"{self._source}: expected each of the joints {expected} once, got "
            f"{', '.join(names)}. Give the names in the robot's order as joint_names in "
            f"--robot-config"
        )
