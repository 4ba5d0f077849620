"""A scripted policy for the ALOHA insertion task: the peg into the socket, without a pause.

Both arms do the same at the same time: they come down while their jaws close, pick up, and meet.
The left one then holds the socket still while the right one pushes the peg in.

What to do next must follow from what can be seen, or a policy that learns from this cannot know how
long it has waited already. So the jaws close on the way down, touch when the arm turns, and are
closed on the way up. The fingers press on the table meanwhile, which makes the height of the grasp
independent of the arm's errors: the peg misses the hole if it is 8 mm too high or too low.

No waypoint but the turn stops an arm that goes on in the same direction: where an arm stands still,
a policy that plans anew every few steps may stay. And the jaws are late by a random time, for which
the arms wait: otherwise they always turn at the same moment, and a policy learns to rise without
the peg.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flux_core.sim import AlohaArms, AlohaInsertionSim, sample_insertion_positions

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
from .ik import GripperPose, Side

PITCH = np.pi / 2  # the fingers point straight down
PRESS_M = 0.010  # height of the grasp's command; the fingers touch the table at 0.0137 m
LIFT_M = np.array((0.0, 0.0, 0.08))  # above the grasp, before and after it
SOCKET_OPENING, PEG_OPENING = GRIPPER_OPEN, 0.65
# The socket is 40 mm wide and the peg 20 mm, so the right jaws have further to go. From these, all
# touch just before the arms turn: a peg that is lifted before it is held slips.
SOCKET_CLOSING, PEG_CLOSING = 80, 76
CLOSING_TICKS = 16
LATEST_TICKS = 9  # by which the jaws are late at most
MEETING_POINT_M = np.array((-0.05, 0.5, 0.20))  # of the left gripper
PEG_RISE_M = 0.010  # the peg is held above its middle and the socket below it
APPROACH_M = 0.19  # from gripper to gripper; the peg reaches the socket's mouth at 0.12 m
INSERT_M = 0.077  # the same at the end; the peg reaches the pin at 0.10 m
BASE_M = {"left": np.array((-0.469, 0.5)), "right": np.array((0.469, 0.5))}


def plan_actions(sim: AlohaArms, seed: int, speed: float) -> NDArray[np.float32]:
    """Returns the commands without noise (steps, 14) of the episode `seed`, in robot units.

    An episode has 264 to 273 / speed steps.
    """
    peg, socket = (np.array((*place[:2], PRESS_M)) for place in sample_insertion_positions(seed))
    late = lateness(seed)
    return np.concatenate(
        [
            follow(sim, "left", lambda start: _left_path(start, socket, late), speed),
            follow(sim, "right", lambda start: _right_path(start, peg, late), speed),
        ],
        axis=1,
    ).astype(np.float32)


def lateness(seed: int) -> int:
    """Returns by how many ticks the jaws of the episode `seed` are late."""
    return int(np.random.default_rng([seed, 0x1A]).integers(LATEST_TICKS + 1))


INSERTION = AlohaScript(
    name="insertion",
    words="insert the peg into the socket",
    simulator=AlohaInsertionSim,
    done=("inserted", "inserted_and_held"),
    noise_rad=0.003,
    plan=plan_actions,
)


def _left_path(start: GripperPose, socket: NDArray[np.float64], late: int) -> ArmPath:
    """Returns the left arm's part: pick the socket up, and hold it still."""
    return ArmPath(
        poses=[
            *_pick_up("left", start, socket, late),
            _level("left", 169 + late, MEETING_POINT_M),
            _level("left", 264 + late, MEETING_POINT_M),
        ],
        openings=_jaws(SOCKET_OPENING, SOCKET_CLOSING + late),
    )


def _right_path(start: GripperPose, peg: NDArray[np.float64], late: int) -> ArmPath:
    """Returns the right arm's part: pick the peg up, line it up, and push it in."""

    def at(distance: float) -> NDArray[np.float64]:
        return MEETING_POINT_M + np.array((distance, 0.0, PEG_RISE_M))

    return ArmPath(
        poses=[
            *_pick_up("right", start, peg, late),
            _level("right", 169 + late, at(APPROACH_M), is_passed=True),
            _level("right", 219 + late, at(INSERT_M)),
            _level("right", 264 + late, at(INSERT_M)),
        ],
        openings=_jaws(PEG_OPENING, PEG_CLOSING + late),
    )


def _pick_up(side: Side, start: GripperPose, thing: NDArray[np.float64], late: int) -> list[PoseAt]:
    return [
        PoseAt(tick=0, pose=start),
        _level(side, 64, thing + LIFT_M, is_passed=True),
        _level(side, 94, thing),
        _level(side, 94 + late, thing),
        _level(side, 122 + late, thing + LIFT_M, is_passed=True),
    ]


def _jaws(opening: float, closing: int) -> list[OpeningAt]:
    """Returns commands that the jaws follow about 12 ticks later; they close from `closing` on."""
    return [
        OpeningAt(tick=0, opening=GRIPPER_START),
        OpeningAt(tick=58, opening=opening),
        OpeningAt(tick=closing, opening=opening),
        OpeningAt(tick=closing + CLOSING_TICKS, opening=GRIPPER_CLOSED),
    ]


def _level(
    side: Side, tick: int, position: NDArray[np.float64], *, is_passed: bool = False
) -> PoseAt:
    """Returns a pose whose jaws close along the world's y axis, as peg and socket lie along x."""
    forward, sideways = np.abs(position[0] - BASE_M[side][0]), position[1] - BASE_M[side][1]
    yaw = float(np.arctan2(sideways, forward))
    roll = yaw if side == "left" else -yaw
    pose = GripperPose(position=position, pitch=PITCH, roll=roll)
    return PoseAt(tick=tick, pose=pose, is_passed=is_passed)
