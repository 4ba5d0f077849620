"""The robots that flux itself describes."""

from __future__ import annotations

import math
from dataclasses import replace

from .spec import RobotSpec

# ViperX 300 6DOF: the joint ranges of gym-aloha's vx300s_left.xml, the speed of Interbotix's URDF.
_VX300S_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
_VX300S_LOWER = (-3.14158, -1.85005, -1.76278, -3.14158, -1.8675, -3.14158)
_VX300S_UPPER = (3.14158, 1.25664, 1.6057, 3.14158, 2.23402, 3.14158)
_VX300S_VELOCITY = (math.pi,) * 6
_GRIPPER_VELOCITY = 10.0  # closed to open in 0.1 s, faster than any useful command

# No manufacturer publishes what these arms can accelerate. Interbotix's and UR's own settings for
# planned motions (MoveIt's joint_limits.yaml) are 5 rad/s^2, which tele-operation exceeds: in
# demonstrations of another arm (a Unitree G1, 30 Hz), commands reach 17 rad/s^2 and measured
# positions 9.5 rad/s^2 (the 99.9 % of the fastest joint). So these are derived from the velocity:
# reached from rest within 0.2 s, and the acceleration itself within 0.05 s.
_TO_VELOCITY_S = 0.2
_TO_ACCELERATION_S = 0.05

_UR3_JOINTS = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
_UR3_VELOCITY = (math.pi,) * 3 + (2 * math.pi,) * 3  # UR3 data sheet: 180 and 360 degrees/s


def _with_derived_rates(spec: RobotSpec) -> RobotSpec:
    """Returns a real robot's description with derived limits of acceleration and jerk."""
    acceleration = tuple(value / _TO_VELOCITY_S for value in spec.max_velocity)
    return replace(
        spec,
        max_acceleration=acceleration,
        max_jerk=tuple(value / _TO_ACCELERATION_S for value in acceleration),
    )


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
        holds_without_power=True,  # UR3 manual: every joint has a brake that engages without power
    )


def _libero() -> RobotSpec:
    """Returns LIBERO's Panda under robosuite's OSC_POSE controller.

    An action is a change of the gripper's pose, where 1 is 0.05 m or 0.5 rad (robosuite's
    osc_pose.json), and a gripper command: 1 closes and -1 opens. Any command may follow any other.
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
    spec.name: spec
    for spec in (
        _aloha("aloha-sim"),
        _with_derived_rates(_aloha("aloha")),
        _with_derived_rates(_ur3()),
        _libero(),
    )
}
"""By name. They need no entry point, and other packages may not register their names."""
