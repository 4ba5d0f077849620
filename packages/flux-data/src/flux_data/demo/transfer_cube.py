"""A scripted policy for the ALOHA transfer-cube task: waypoints, smoothed, through our own IK.

The right arm picks the cube up, both arms meet, the left gripper takes the cube from above and
below, the right one lets go, both retreat, and the left arm holds still until the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flux_core.sim import AlohaArms, AlohaSim, sample_cube_position

from .aloha_script import (
    GRIPPER_CLOSED,
    GRIPPER_OPEN,
    GRIPPER_START,
    AlohaScript,
    ArmPath,
    OpeningAt,
    PoseAt,
    follow,
)
from .ik import GripperPose

CUBE_ON_TABLE_M = 0.02  # the centre of the 4 cm cube
MEETING_POINT_M = np.array((0.0, 0.5, 0.25))
# Under load one arm sags 6 mm more than the other; a deeper grasp tolerates a displaced cube.
TAKE_OFFSET_M = np.array((0.008, 0.0, 0.006))
LIFT_M = np.array((0.0, 0.0, 0.10))  # above the cube, before and after the grasp
RETREAT_M = np.array((0.12, 0.0, 0.08))  # of the right gripper, from the meeting point
GRASP_PITCH = 1.05  # the right fingers, from above and behind the cube
TAKE_PITCH, TAKE_ROLL = 0.0, np.pi / 2  # the left fingers, level, above and below the cube


@dataclass(frozen=True, kw_only=True)
class Waypoint:
    """The target of one gripper at `tick` (ticks of 20 ms at speed 1)."""

    tick: int
    pose: GripperPose
    gripper: float


def plan_actions(sim: AlohaArms, seed: int, speed: float) -> NDArray[np.float32]:
    """Returns the commands without noise (steps, 14) of the episode `seed`, in robot units.

    All episodes of one speed have the same length: 300 / speed steps.
    """
    cube = np.array([*sample_cube_position(seed)[:2], CUBE_ON_TABLE_M])
    left = follow(sim, "left", lambda start: _path(_left_waypoints(start)), speed)
    right = follow(sim, "right", lambda start: _path(_right_waypoints(start, cube)), speed)
    return np.concatenate([left, right], axis=1).astype(np.float32)


TRANSFER_CUBE = AlohaScript(
    name="transfer-cube",
    words="transfer the cube",
    simulator=AlohaSim,
    done=("transferred", "held_by_left_only"),
    noise_rad=0.008,
    plan=plan_actions,
)


def _path(waypoints: list[Waypoint]) -> ArmPath:
    return ArmPath(
        poses=[PoseAt(tick=point.tick, pose=point.pose) for point in waypoints],
        openings=[OpeningAt(tick=point.tick, opening=point.gripper) for point in waypoints],
    )


def _right_waypoints(start: GripperPose, cube: NDArray[np.float64]) -> list[Waypoint]:
    """Returns the right arm's part: pick up, offer, let go, retreat."""

    def at(tick: int, position: NDArray[np.float64], gripper: float) -> Waypoint:
        pose = GripperPose(position=position, pitch=GRASP_PITCH, roll=0.0)
        return Waypoint(tick=tick, pose=pose, gripper=gripper)

    meeting = MEETING_POINT_M
    return [
        Waypoint(tick=0, pose=start, gripper=GRIPPER_START),
        at(60, cube + LIFT_M, GRIPPER_OPEN),
        at(90, cube, GRIPPER_OPEN),
        at(95, cube, GRIPPER_OPEN),
        at(112, cube, GRIPPER_CLOSED),
        at(140, cube + LIFT_M, GRIPPER_CLOSED),
        at(180, meeting, GRIPPER_CLOSED),
        at(220, meeting, GRIPPER_CLOSED),
        at(234, meeting, GRIPPER_OPEN),
        at(262, meeting + RETREAT_M, GRIPPER_OPEN),
        at(300, meeting + RETREAT_M, GRIPPER_OPEN),
    ]


def _left_waypoints(start: GripperPose) -> list[Waypoint]:
    """Returns the left arm's part: wait beside the meeting point, take, retreat, hold.

    It meets the right one at a fixed point, wherever the cube was.
    """

    def at(tick: int, x: float, gripper: float) -> Waypoint:
        position = MEETING_POINT_M + TAKE_OFFSET_M + np.array((x, 0.0, 0.0))
        pose = GripperPose(position=position, pitch=TAKE_PITCH, roll=TAKE_ROLL)
        return Waypoint(tick=tick, pose=pose, gripper=gripper)

    return [
        Waypoint(tick=0, pose=start, gripper=GRIPPER_START),
        Waypoint(tick=40, pose=start, gripper=GRIPPER_START),
        at(125, -0.12, GRIPPER_OPEN),
        at(170, -0.12, GRIPPER_OPEN),
        at(200, 0.0, GRIPPER_OPEN),
        at(204, 0.0, GRIPPER_OPEN),
        at(220, 0.0, GRIPPER_CLOSED),
        at(234, 0.0, GRIPPER_CLOSED),
        at(262, -0.10, GRIPPER_CLOSED),
        at(300, -0.10, GRIPPER_CLOSED),
    ]
