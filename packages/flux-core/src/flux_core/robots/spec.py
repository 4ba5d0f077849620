"""What is known of each robot: joint order, limits, cameras and control rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import RobotError


@dataclass(frozen=True, kw_only=True)
class RobotSpec:
    """One robot as policies see it. Joint tuples have one entry per action dimension.

    The last three are of a robot that is commanded by differences, whose states are therefore
    something else than its commands; left empty, a state is a command that asks for no motion.

    Attributes:
        name: how commands and datasets call it.
        joint_names: the order of actions, and of states unless `state_names` says otherwise.
        lower: least command, in the joint's unit.
        upper: greatest command, in the joint's unit.
        max_velocity: greatest change of the command, in the joint's unit per second.
        units: 'rad', or 'normalized' (a gripper: 0 closed, 1 open; LIBERO's: see there).
        cameras: the cameras a policy may use.
        control_hz: commands per second.
        rest_command: the command that asks for no motion.
        state_names: the order of states.
        state_units: 'm' or 'rad', one per dimension of the state.
    """

    name: str
    joint_names: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    max_velocity: tuple[float, ...]
    units: tuple[str, ...]
    cameras: tuple[str, ...]
    control_hz: float
    rest_command: tuple[float, ...] = ()
    state_names: tuple[str, ...] = ()
    state_units: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lengths = dict.fromkeys(("lower", "upper", "max_velocity", "units"), self.action_dim)
        if self.is_commanded_by_differences:
            lengths |= {"rest_command": self.action_dim, "state_units": len(self.state_names)}
        for field, expected in lengths.items():
            values = getattr(self, field)
            if len(values) != expected:
                raise RobotError(
                    f"robot {self.name!r}, {field}: expected {expected} values, "
                    f"got {len(values)}. Give one per joint"
                )

    @property
    def action_dim(self) -> int:
        """Number of joints, grippers included."""
        return len(self.joint_names)

    @property
    def state_dim(self) -> int:
        """Dimensions of a state."""
        return len(self.state_names) if self.is_commanded_by_differences else self.action_dim

    @property
    def is_commanded_by_differences(self) -> bool:
        """Whether commands are changes and states are something else."""
        return bool(self.rest_command or self.state_names)

    def hold(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the command, (action_dim,) float32, that keeps the robot in `state`."""
        if self.is_commanded_by_differences:
            return np.asarray(self.rest_command, np.float32)
        return state


def robot_spec(name: str) -> RobotSpec:
    """Returns the robot called `name`; raises RobotError listing the known ones."""
    try:
        return ROBOT_SPECS[name]
    except KeyError:
        known = ", ".join(sorted(ROBOT_SPECS))
        raise RobotError(f"unknown robot {name!r}. Known robots: {known}") from None


# ViperX 300 6DOF: the joint ranges of gym-aloha's vx300s_left.xml, the speed of Interbotix's URDF.
_VX300S_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
_VX300S_LOWER = (-3.14158, -1.85005, -1.76278, -3.14158, -1.8675, -3.14158)
_VX300S_UPPER = (3.14158, 1.25664, 1.6057, 3.14158, 2.23402, 3.14158)
_VX300S_VELOCITY = (math.pi,) * 6
_GRIPPER_VELOCITY = 10.0  # closed to open in 0.1 s, faster than any command worth sending

_UR3_JOINTS = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
_UR3_VELOCITY = (math.pi,) * 3 + (2 * math.pi,) * 3  # UR3 data sheet: 180 and 360 degrees/s


def _aloha(name: str) -> RobotSpec:
    """Returns two ViperX arms, the left one first, each with its gripper last."""
    arm = (*_VX300S_JOINTS, "gripper")
    return RobotSpec(
        name=name,
        joint_names=tuple(f"{side}_{joint}" for side in ("left", "right") for joint in arm),
        lower=(*_VX300S_LOWER, 0.0) * 2,
        upper=(*_VX300S_UPPER, 1.0) * 2,
        max_velocity=(*_VX300S_VELOCITY, _GRIPPER_VELOCITY) * 2,
        units=(*("rad",) * 6, "normalized") * 2,
        cameras=("cam_high", "cam_left_wrist", "cam_right_wrist"),
        control_hz=50.0,
    )


def _ur3() -> RobotSpec:
    """Returns one UR3 with a gripper."""
    return RobotSpec(
        name="ur3",
        joint_names=(*_UR3_JOINTS, "gripper"),
        lower=(*(-2 * math.pi,) * 6, 0.0),
        upper=(*(2 * math.pi,) * 6, 1.0),
        max_velocity=(*_UR3_VELOCITY, _GRIPPER_VELOCITY),
        units=(*("rad",) * 6, "normalized"),
        cameras=("cam_high", "cam_wrist"),
        control_hz=30.0,
    )


def _libero() -> RobotSpec:
    """Returns LIBERO's Panda under robosuite's OSC_POSE controller.

    An action is a change of the gripper's pose: 1 is 0.05 m or 0.5 rad (robosuite's
    osc_pose.json), and of the gripper itself 1 closes and -1 opens. Any command may follow any.
    """
    axes = ("x", "y", "z", "rotation_x", "rotation_y", "rotation_z")
    control_hz, reach = 20.0, 1.0
    return RobotSpec(
        name="libero",
        joint_names=(*(f"delta_{axis}" for axis in axes), "gripper"),
        lower=(-reach,) * 7,
        upper=(reach,) * 7,
        max_velocity=(2 * reach * control_hz,) * 7,
        units=("normalized",) * 7,
        cameras=("image", "wrist_image"),
        control_hz=control_hz,
        rest_command=(*(0.0,) * 6, -1.0),
        state_names=(*axes, "finger_left", "finger_right"),
        state_units=("m", "m", "m", "rad", "rad", "rad", "m", "m"),
    )


ROBOT_SPECS: dict[str, RobotSpec] = {
    spec.name: spec for spec in (_aloha("aloha-sim"), _aloha("aloha"), _ur3(), _libero())
}
