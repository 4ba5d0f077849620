"""Joints that a policy may switch: its action is 0 or 1, and nothing in between is ever sent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import RobotError
from .spec import RobotSpec

SWITCHED_UNIT = "normalized"
"""A gripper's: 0 is closed and 1 is open. Anything else must not jump from 0 to 1 of its unit."""


def check_switches(binary_mask: NDArray[np.bool_], spec: RobotSpec) -> None:
    """Refuses binary actions of joints that cannot jump from 0 to 1.

    Args:
        binary_mask: (action_dim,) True where an action is 0 or 1.
        spec: the robot, with the limits in force.

    Raises:
        RobotError: such a joint is not a gripper, its limits do not include 0 and 1, or it is
            commanded by differences.
    """
    for joint in map(int, np.flatnonzero(binary_mask)):
        name, unit = spec.joint_names[joint], spec.units[joint]
        if unit != SWITCHED_UNIT:
            raise RobotError(
                f"{name}: expected a gripper in unit {SWITCHED_UNIT!r}, because a binary action "
                f"jumps past all limits of speed, got {unit!r}"
            )
        lower, upper = spec.lower[joint], spec.upper[joint]
        if not (lower <= 0.0 and upper >= 1.0):
            raise RobotError(
                f"{name}: expected limits that include 0 and 1, because the action is binary, got "
                f"{lower:g} to {upper:g}"
            )
        # Of a robot that is commanded by differences, arm joints have this unit, too.
        if spec.is_commanded_by_differences and lower < 0.0:
            raise RobotError(
                f"{name}: expected a lower limit of 0, because a binary action is no difference "
                f"that may go both ways, got {lower:g}"
            )
