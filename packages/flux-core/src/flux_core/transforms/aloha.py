"""Aloha's joints and grippers in the units of pi's pretraining data.

Source of the numbers: openpi, src/openpi/policies/aloha_policy.py, since its pull request 557 (July
2025). Before that, it used 0.4 to 1.5 rad as the gripper's range, in both directions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..robots.spec import RobotSpec
from .actions import RelativeActions
from .roles import Normalization, Padding
from .units import UnitStep

DIMS = 14
GRIPPERS = (6, 13)
SIGNS = np.tile(np.array([1, -1, -1, 1, 1, 1, 1], np.float32), 2)
"""openpi's `_joint_flip_mask`: shoulder and elbow turn in the opposite direction."""

CLOSED_M, OPEN_M = 0.01844, 0.05800
"""The finger's travel at 0 and 1 (ALOHA's PUPPET_GRIPPER_POSITION_CLOSE and _OPEN)."""
HORN_M, ARM_M = 0.022, 0.036
"""The crank that the motor turns, and the arm between it and the finger (Interbotix)."""
MOTOR_CLOSED_RAD, MOTOR_OPEN_RAD = -0.6213, 1.4910
"""The motor's angle at a command of 0 and 1 (ALOHA's PUPPET_GRIPPER_JOINT_CLOSE and _OPEN)."""
PI_CLOSED_RAD, PI_OPEN_RAD = 0.5476, 1.6296
"""pi's range: counts 2405 to 3110 of 4096, with zero at 2048 (which would give 1.6291)."""

_ACTION_SCALE, _ACTION_OFFSET = SIGNS.astype(np.float64), np.zeros(DIMS)
_ACTION_SCALE[list(GRIPPERS)] = 1.0 / (MOTOR_OPEN_RAD - MOTOR_CLOSED_RAD)
_ACTION_OFFSET[list(GRIPPERS)] = (PI_CLOSED_RAD - MOTOR_CLOSED_RAD) * _ACTION_SCALE[GRIPPERS[0]]
for _constant in (_ACTION_SCALE, _ACTION_OFFSET):
    _constant.setflags(write=False)


@dataclass(frozen=True, kw_only=True)
class AlohaToPi(UnitStep):
    """States and actions of two Aloha arms in pi's units; openpi calls this `adapt_to_pi`.

    Shoulder and elbow change sign. A gripper's state, its normalised opening, becomes the
    normalised angle of its motor. A gripper's action is already a normalised angle and becomes
    pi's, in rad above `PI_CLOSED_RAD`; in openpi, too, the two have different units. If the data
    has openings as actions (the simulated ALOHA, or next states), they are restored correctly, but
    they are not what pi was trained with.

    The inverses are those of openpi's `_decode_state` and `_encode_actions`. The step comes before
    RelativeActions, and statistics are taken after it. Every array is (..., 14).
    """

    once = True
    before = (RelativeActions, Padding, Normalization)

    def state(self, states: NDArray[Any]) -> NDArray[np.float32]:
        """Robot units to pi's; an opening beyond the crank's range is clipped to it."""
        return _convert(states, _angle)

    def state_inverse(self, states: NDArray[Any]) -> NDArray[np.float32]:
        """Undoes `state` within the crank's range: openings from -0.11 to 1."""
        return _convert(states, _opening)

    def actions(self, actions: NDArray[Any]) -> NDArray[np.float32]:
        """Robot units to pi's."""
        return super().actions(_checked(actions))

    def actions_inverse(self, actions: NDArray[Any]) -> NDArray[np.float32]:
        """Undoes `actions`."""
        return super().actions_inverse(_checked(actions))

    @property
    def action_affine(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(scale, offset), each (14,), of `actions_inverse`; a joint's is its sign and 0."""
        return _ACTION_SCALE, _ACTION_OFFSET

    def check_robot(self, robot: RobotSpec, where: str) -> None:
        if robot.action_dim != DIMS:
            raise ConfigError(
                f"{where}: AlohaToPi expected a robot of {DIMS} joints (two Aloha arms), got "
                f"{robot.name} with {robot.action_dim}"
            )


def _convert(
    values: NDArray[Any], gripper: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float32]:
    out = (_checked(values) * SIGNS).astype(np.float32)
    out[..., GRIPPERS] = gripper(values[..., GRIPPERS].astype(np.float64))
    return out


def _angle(opening: NDArray[np.float64]) -> NDArray[np.float64]:
    """The law of cosines in the triangle of horn, arm and the finger's travel."""
    way = np.clip(opening * (OPEN_M - CLOSED_M) + CLOSED_M, ARM_M - HORN_M, ARM_M + HORN_M)
    sine = (HORN_M**2 + way**2 - ARM_M**2) / (2.0 * HORN_M * way)
    angle = np.arcsin(np.clip(sine, -1.0, 1.0))
    return (angle - PI_CLOSED_RAD) / (PI_OPEN_RAD - PI_CLOSED_RAD)


def _opening(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    motor = angle * (PI_OPEN_RAD - PI_CLOSED_RAD) + PI_CLOSED_RAD
    way = HORN_M * np.sin(motor) + np.sqrt(ARM_M**2 - (HORN_M * np.cos(motor)) ** 2)
    return (way - CLOSED_M) / (OPEN_M - CLOSED_M)


def _checked(values: NDArray[Any]) -> NDArray[Any]:
    if values.shape[-1] != DIMS:
        raise ConfigError(
            f"AlohaToPi: expected {DIMS} dimensions (two arms of six joints and a gripper), got "
            f"{values.shape[-1]}. Put it before PadKeyToDim, and use it only for Aloha"
        )
    return values
