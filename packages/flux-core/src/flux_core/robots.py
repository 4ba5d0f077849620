"""What is known of each robot: joint order, limits, cameras and control rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import RobotError


@dataclass(frozen=True, kw_only=True)
class RobotSpec:
    """One robot as policies see it. Joint tuples have one entry per action dimension.

    Attributes:
        name: how commands and datasets call it.
        joint_names: the order of states and actions.
        lower: least command, in the joint's unit.
        upper: greatest command, in the joint's unit.
        max_velocity: greatest speed, in the joint's unit per second.
        units: 'rad', or 'normalized' (a gripper: 0 closed, 1 open).
        cameras: the cameras a policy may use.
        control_hz: commands per second.
    """

    name: str
    joint_names: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    max_velocity: tuple[float, ...]
    units: tuple[str, ...]
    cameras: tuple[str, ...]
    control_hz: float

    def __post_init__(self) -> None:
        for field in ("lower", "upper", "max_velocity", "units"):
            values = getattr(self, field)
            if len(values) != self.action_dim:
                raise RobotError(
                    f"robot {self.name!r}, {field}: expected {self.action_dim} values, "
                    f"got {len(values)}. Give one per joint"
                )

    @property
    def action_dim(self) -> int:
        """Number of joints, grippers included."""
        return len(self.joint_names)


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


ROBOT_SPECS: dict[str, RobotSpec] = {
    spec.name: spec for spec in (_aloha("aloha-sim"), _aloha("aloha"), _ur3())
}
