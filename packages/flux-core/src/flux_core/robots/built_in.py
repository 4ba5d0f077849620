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

# AgileX Piper, the arm of AgileX's ALOHA: the joint limits and the speed of piper_sdk 0.6.2, except
# for joints 4 to 6 (1.745, 1.22 and 2.094 there). The recordings of that robot (FluxVLA publishes
# their statistics, of 315,371 frames) measure up to 1.757, 1.222 and 2.134 rad, the last one in 1 %
# of the frames: a robot that stands there must not be taken to stand outside its limits.
_PIPER_LOWER = (-2.6179, 0.0, -2.967, -1.76, -1.23, -2.14)
_PIPER_UPPER = (2.6179, 3.14, 0.0, 1.76, 1.23, 2.14)
_PIPER_VELOCITY = (3.0,) * 6
# In metres. piper_sdk has grippers of 0.07 and 0.1. FluxVLA's runner closes the gripper with -0.01,
# and opens it to 0.0766 before an episode; the recordings go beyond 0.08.
_PIPER_GRIPPER = (-0.01, 0.1)
_PIPER_STROKE = 0.08
# Where FluxVLA's runner moves the arms before an episode.
_AGILEX_PREPARE_POSE = (
    *(0.071799504, 2.253468252, -1.219353044, 1.487223108, -0.956227748, -0.603963612, 0.073),
    *(0.035167104, 1.427128528, -0.394077404, -1.575856072, -0.86801344, 0.584007676, 0.0766),
)

_GRIPPER_VELOCITY = 10.0  # closed to open in 0.1 s, faster than any useful command

# No manufacturer publishes what these arms can accelerate. Interbotix's and UR's own settings for
# planned motions (MoveIt's joint_limits.yaml) are 5 rad/s^2, which tele-operation exceeds. So these
# are 1.5 times what the commands of demonstrations stay below in 99.9 % of the frames (a Unitree
# G1 with hands, 30 Hz): its fastest joint needs 17 rad/s^2 and 960 rad/s^3, its fastest finger, of
# a range of 1, 125 and 5,800.
_ACCELERATION, _JERK = 25.0, 1450.0
_GRIPPER_ACCELERATION, _GRIPPER_JERK = 190.0, 8700.0
# A joint that is faster needs more: to its full speed within 0.2 s.
_TO_VELOCITY_S = 0.2
_TO_ACCELERATION_S = 0.05

_UR_JOINTS = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
# UR's data sheets: every joint turns 360 degrees both ways. The larger arms' elbow has 180 in
# ur_description (joint_limits.yaml): beyond that, the forearm would pass through the upper arm.
_TURN, _HALF_TURN = 2 * math.pi, math.pi
_FULL_RANGE = (_TURN,) * 6
_HALF_ELBOW = (_TURN, _TURN, _HALF_TURN, _TURN, _TURN, _TURN)
_UR3_VELOCITY = (math.pi,) * 3 + (2 * math.pi,) * 3  # 180 and 360 degrees/s
_UR5E_VELOCITY = (math.pi,) * 6
_UR10E_VELOCITY = (2 * math.pi / 3,) * 2 + (math.pi,) * 4  # 120 and 180 degrees/s


def _as_derived(spec: RobotSpec) -> RobotSpec:
    """Returns a description with the limits of acceleration and jerk that `aloha` has always had:
    to the full speed within 0.2 s."""
    acceleration = tuple(value / _TO_VELOCITY_S for value in spec.max_velocity)
    return replace(
        spec,
        max_acceleration=acceleration,
        max_jerk=tuple(value / _TO_ACCELERATION_S for value in acceleration),
    )


def _as_demonstrated(spec: RobotSpec, gripper_range: float = 1.0) -> RobotSpec:
    """Returns a description with limits of acceleration and jerk that demonstrations stay within.

    Args:
        spec: a robot whose grippers have that word in their names.
        gripper_range: from closed to open, in the gripper's unit.
    """
    acceleration, jerk = list[float](), list[float]()
    for name, velocity in zip(spec.joint_names, spec.max_velocity, strict=True):
        is_gripper = name.endswith("gripper")
        least = _GRIPPER_ACCELERATION * gripper_range if is_gripper else _ACCELERATION
        acceleration.append(max(least, velocity / _TO_VELOCITY_S))
        jerk.append(_GRIPPER_JERK * gripper_range if is_gripper else _JERK)
    return replace(spec, max_acceleration=tuple(acceleration), max_jerk=tuple(jerk))


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


def _aloha_agilex() -> RobotSpec:
    """Returns AgileX's ALOHA: two Piper arms whose joints have the family's names and order."""
    closed, opened = _PIPER_GRIPPER
    velocity = (*_PIPER_VELOCITY, _GRIPPER_VELOCITY * _PIPER_STROKE)
    spec = replace(
        _aloha("aloha-agilex"),
        lower=(*_PIPER_LOWER, closed) * 2,
        upper=(*_PIPER_UPPER, opened) * 2,
        max_velocity=velocity * 2,
        units=(*("rad",) * 6, "m") * 2,
        # As by default: max_velocity for 0.1 s. A gripper that holds something never arrives.
        max_following_error=(*(0.3,) * 6, opened - closed) * 2,
        prepare_pose=_AGILEX_PREPARE_POSE,
    )
    return _as_demonstrated(spec, gripper_range=_PIPER_STROKE)


def _ur(name: str, reach: tuple[float, ...], velocity: tuple[float, ...]) -> RobotSpec:
    """Returns one arm of Universal Robots with a gripper."""
    spec = RobotSpec(
        name=name,
        joint_names=(*_UR_JOINTS, "gripper"),
        lower=(*(-value for value in reach), 0.0),
        upper=(*reach, 1.0),
        max_velocity=(*velocity, _GRIPPER_VELOCITY),
        units=(*("rad",) * 6, "normalized"),
        cameras=("cam_high", "cam_wrist"),
        control_hz=30.0,
        holds_without_power=True,  # UR's manuals: every joint's brake engages without power
    )
    return _as_demonstrated(spec)


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
        _as_derived(_aloha("aloha")),
        _aloha_agilex(),
        _as_demonstrated(_aloha("aloha-viperx")),
        _ur("ur3", _FULL_RANGE, _UR3_VELOCITY),
        _ur("ur5e", _HALF_ELBOW, _UR5E_VELOCITY),
        _ur("ur10e", _HALF_ELBOW, _UR10E_VELOCITY),
        _libero(),
    )
}
"""By name. They need no entry point, and other packages may not register their names. `aloha` is a
family, which nothing drives: see `variants_of`."""
