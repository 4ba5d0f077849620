"""A scripted policy for the ALOHA transfer-cube task: waypoints, smoothed, through our own IK.

The right arm picks the cube up, both arms meet, the left gripper takes the cube from above and
below, the right one lets go, both retreat, and the left arm holds still until the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flux_core.sim import START_ARM_RAD, AlohaSim, sample_cube_position

from .ik import ArmIk, GripperPose, Side

TASK = "transfer the cube"
MAX_JOINT_STEP_RAD = 0.06  # per 20 ms; below the ViperX's 3.14 rad/s
# A trained policy makes small errors; with this margin its commands stay within [0, 1].
GRIPPER_CLOSED, GRIPPER_OPEN, GRIPPER_START = 0.07, 0.95, 0.1
NOISE_MEMORY = 0.9  # the share of a tick's execution noise that carries over to the next

CUBE_ON_TABLE_M = 0.02  # the centre of the 4 cm cube
MEETING_POINT_M = np.array((0.0, 0.5, 0.25))
# Under load one arm sags 6 mm more than the other; a deeper grasp tolerates a displaced cube.
TAKE_OFFSET_M = np.array((0.008, 0.0, 0.006))
LIFT_M = np.array((0.0, 0.0, 0.10))  # above the cube, before and after the grasp
RETREAT_M = np.array((0.12, 0.0, 0.08))  # of the right gripper, from the meeting point
GRASP_PITCH = 1.05  # the right fingers, from above and behind the cube
TAKE_PITCH, TAKE_ROLL = 0.0, np.pi / 2  # the left fingers, level, above and below the cube
START_PITCH = float(sum(START_ARM_RAD[joint] for joint in (1, 2, 4)))


@dataclass(frozen=True, kw_only=True)
class Waypoint:
    """The target of one gripper at `tick` (ticks of 20 ms at speed 1)."""

    tick: int
    pose: GripperPose
    gripper: float


_WaypointsOf = Callable[[GripperPose, NDArray[np.float64]], list[Waypoint]]


@dataclass(frozen=True, kw_only=True)
class ScriptResult:
    """The outcome of one scripted episode, without rendering.

    Attributes:
        stages: `AlohaSim.stages` after the last step.
        steps: length of the episode.
        max_joint_step_rad: the largest change of a commanded joint in one tick.
    """

    stages: dict[str, bool]
    steps: int
    max_joint_step_rad: float

    @property
    def is_success(self) -> bool:
        """Whether the cube was transferred, only the left gripper holds it, and no joint jumped."""
        done = self.stages["transferred"] and self.stages["held_by_left_only"]
        return done and self.max_joint_step_rad < MAX_JOINT_STEP_RAD


def plan_actions(sim: AlohaSim, seed: int, speed: float) -> NDArray[np.float32]:
    """Returns the commands without noise (steps, 14) of the episode `seed`, in robot units.

    All episodes of one speed have the same length: 300 / speed steps.
    """
    cube = np.array([*sample_cube_position(seed)[:2], CUBE_ON_TABLE_M])
    arms = [_follow(sim, "left", _left_waypoints, cube, speed)]
    arms.append(_follow(sim, "right", _right_waypoints, cube, speed))
    return np.concatenate(arms, axis=1).astype(np.float32)


def execution_noise(seed: int, steps: int, sigma_rad: float) -> NDArray[np.float32]:
    """Returns the noise of the executed commands, (steps, 14): AR(1), 0 for the grippers.

    The recorded actions have none, so that the data shows how to recover from small errors.
    """
    rng = np.random.default_rng([seed, 0xF1])
    drive = sigma_rad * rng.standard_normal((steps, 14))
    noise = np.zeros((steps, 14))
    for step in range(1, steps):
        fresh = np.sqrt(1 - NOISE_MEMORY**2) * drive[step]
        noise[step] = NOISE_MEMORY * noise[step - 1] + fresh
    noise[:, [6, 13]] = 0.0
    return noise.astype(np.float32)


def execute(
    sim: AlohaSim, seed: int, speed: float = 1.5, noise: float = 0.003
) -> Iterator[NDArray[np.float32]]:
    """Resets `sim` to `seed` and runs the script, yielding each clean action before its step.

    When the consumer gets an action, `sim` still holds the observation that it answers.

    Args:
        sim: the simulator; after the last item it holds the end of the episode.
        seed: seed of the cube's pose and of the noise.
        speed: 1 is unhurried; 1.5 makes an episode of 200 steps.
        noise: standard deviation of the executed commands' error, rad.
    """
    actions = plan_actions(sim, seed, speed)
    errors = execution_noise(seed, len(actions), noise)
    sim.reset(seed)
    for action, error in zip(actions, errors, strict=True):
        yield action
        sim.step(action + error)


def run_script(
    seed: int, speed: float = 1.5, noise: float = 0.003, sim: AlohaSim | None = None
) -> ScriptResult:
    """Scores the script on one seed without rendering; passing `sim` avoids reloading the scene."""
    sim = sim or AlohaSim()
    actions = np.stack(list(execute(sim, seed, speed, noise)))
    joints = np.delete(actions, [6, 13], axis=1)
    largest = float(np.abs(np.diff(joints, axis=0)).max())
    return ScriptResult(stages=sim.stages(), steps=len(actions), max_joint_step_rad=largest)


def _follow(
    sim: AlohaSim, side: Side, waypoints_of: _WaypointsOf, cube: NDArray[np.float64], speed: float
) -> NDArray[np.float64]:
    """Returns one arm's commands (steps, 7) along its waypoints."""
    ik = ArmIk(sim.model, side, np.array(START_ARM_RAD))
    start = GripperPose(position=ik.pinch_point(), pitch=START_PITCH, roll=0.0)
    waypoints = waypoints_of(start, cube)
    steps = round(waypoints[-1].tick / speed)
    commands = np.zeros((steps, 7))
    for step in range(steps):
        pose, gripper = _interpolate(waypoints, (step + 1) * speed)
        commands[step] = (*ik.solve(pose), gripper)
    return commands


def _interpolate(waypoints: list[Waypoint], tick: float) -> tuple[GripperPose, float]:
    """Returns the pose and gripper at `tick`, with smoothstep between waypoints."""
    after = next((i for i, point in enumerate(waypoints) if point.tick >= tick), -1)
    if after <= 0:
        return waypoints[after].pose, waypoints[after].gripper
    a, b = waypoints[after - 1], waypoints[after]
    linear = (tick - a.tick) / (b.tick - a.tick)
    share = linear * linear * (3 - 2 * linear)
    pose = GripperPose(
        position=a.pose.position + share * (b.pose.position - a.pose.position),
        pitch=a.pose.pitch + share * (b.pose.pitch - a.pose.pitch),
        roll=a.pose.roll + share * (b.pose.roll - a.pose.roll),
    )
    return pose, a.gripper + share * (b.gripper - a.gripper)


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


def _left_waypoints(start: GripperPose, cube: NDArray[np.float64]) -> list[Waypoint]:
    """Returns the left arm's part: wait beside the meeting point, take, retreat, hold."""
    del cube  # the left arm meets the right one at a fixed point

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
