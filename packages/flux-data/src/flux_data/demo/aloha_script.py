"""What the scripts of the simulated ALOHA share: smooth paths, execution noise, and the outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flux_core.sim import START_ARM_RAD, AlohaArms

from .ik import ArmIk, GripperPose, Side

MAX_JOINT_STEP_RAD = 0.06  # per 20 ms; below the ViperX's 3.14 rad/s
# A trained policy makes small errors; with this margin its commands stay within [0, 1].
GRIPPER_CLOSED, GRIPPER_OPEN, GRIPPER_START = 0.07, 0.95, 0.1
NOISE_MEMORY = 0.9  # the share of a tick's execution noise that carries over to the next
START_PITCH = float(sum(START_ARM_RAD[joint] for joint in (1, 2, 4)))


@dataclass(frozen=True, kw_only=True)
class PoseAt:
    """The target of one gripper at `tick` (ticks of 20 ms at speed 1).

    The gripper stops there unless it `is_passed`: then a part of the pose that goes on in the same
    direction does not slow down.
    """

    tick: int
    pose: GripperPose
    is_passed: bool = False


@dataclass(frozen=True, kw_only=True)
class OpeningAt:
    """The command of one gripper's jaws at `tick`, 0 closed to 1 open."""

    tick: int
    opening: float


@dataclass(frozen=True, kw_only=True)
class ArmPath:
    """What one arm does. Both parts move with smoothstep from target to target.

    Attributes:
        poses: of the gripper; the first is where it starts, and the last one ends the episode.
        openings: of the jaws.
    """

    poses: Sequence[PoseAt]
    openings: Sequence[OpeningAt]


@dataclass(frozen=True, kw_only=True)
class ScriptResult:
    """The outcome of one scripted episode, without rendering.

    Attributes:
        is_done: whether all stages that make a success held after the last step.
        stages: the simulator's `stages` after the last step.
        steps: length of the episode.
        max_joint_step_rad: the largest change of a commanded joint in one tick.
    """

    is_done: bool
    stages: dict[str, bool]
    steps: int
    max_joint_step_rad: float

    @property
    def is_success(self) -> bool:
        """Whether the task was done to its end, and no joint jumped."""
        return self.is_done and self.max_joint_step_rad < MAX_JOINT_STEP_RAD


@dataclass(frozen=True, kw_only=True)
class AlohaScript:
    """A scripted policy for one task, which reads the places of things from the simulator.

    Attributes:
        name: of the task, as in `flux-data demo aloha-sim --task`.
        words: the task's text.
        simulator: the task's scene.
        done: the stages of the scene that hold at the end of a success.
        noise_rad: the noise of demonstrations, unless another one is asked for.
        plan: returns the commands without noise, (steps, 14) float32 in robot units, of a seed at a
            speed, of which 1 is unhurried.
    """

    name: str
    words: str
    simulator: type[AlohaArms]
    done: tuple[str, ...]
    noise_rad: float
    plan: Callable[[AlohaArms, int, float], NDArray[np.float32]]

    def execute(
        self, sim: AlohaArms, seed: int, speed: float, noise: float
    ) -> Iterator[NDArray[np.float32]]:
        """Resets `sim` to `seed` and runs the script, yielding each clean action before its step.

        When the consumer gets an action, `sim` still holds the observation that it answers.

        Args:
            sim: the simulator; after the last item it holds the end of the episode.
            seed: seed of the things' places and of the noise.
            speed: 1 is unhurried.
            noise: standard deviation of the executed commands' error, rad.
        """
        actions = self.plan(sim, seed, speed)
        errors = execution_noise(seed, len(actions), noise)
        sim.reset(seed)
        for action, error in zip(actions, errors, strict=True):
            yield action
            sim.step(action + error)

    def run(self, sim: AlohaArms, seed: int, speed: float, noise: float) -> ScriptResult:
        """Scores the script on one seed without rendering."""
        actions = np.stack(list(self.execute(sim, seed, speed, noise)))
        joints = np.delete(actions, [6, 13], axis=1)
        return ScriptResult(
            is_done=self.is_done(sim),
            stages=sim.stages(),
            steps=len(actions),
            max_joint_step_rad=float(np.abs(np.diff(joints, axis=0)).max()),
        )

    def is_done(self, sim: AlohaArms) -> bool:
        """Returns whether `sim` is at the end of a success."""
        stages = sim.stages()
        return all(stages[name] for name in self.done)


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


def follow(
    sim: AlohaArms, side: Side, path_of: Callable[[GripperPose], ArmPath], speed: float
) -> NDArray[np.float64]:
    """Returns one arm's commands, (steps, 7), along the path that starts where the arm is."""
    ik = ArmIk(sim.model, side, np.array(START_ARM_RAD))
    path = path_of(GripperPose(position=ik.pinch_point(), pitch=START_PITCH, roll=0.0))
    steps = round(path.poses[-1].tick / speed)
    commands = np.zeros((steps, 7))
    for step in range(steps):
        tick = (step + 1) * speed
        commands[step] = (*ik.solve(_pose(path.poses, tick)), _opening(path.openings, tick))
    return commands


def _pose(points: Sequence[PoseAt], tick: float) -> GripperPose:
    before, after, share = _between([point.tick for point in points], tick)
    a, b = (_numbers(points[i].pose) for i in (before, after))
    # A cubic with these velocities; without any, it is the smoothstep.
    start, end = (_velocity(points, i) for i in (before, after))
    linear = _linear(points[before].tick, points[after].tick, tick)
    duration = points[after].tick - points[before].tick
    lead = linear * (1 - linear) ** 2 * start - linear**2 * (1 - linear) * end
    numbers = a + share * (b - a) + duration * lead
    return GripperPose(position=numbers[:3], pitch=numbers[3], roll=numbers[4])


def _numbers(pose: GripperPose) -> NDArray[np.float64]:
    return np.array((*pose.position, pose.pitch, pose.roll))


def _velocity(points: Sequence[PoseAt], index: int) -> NDArray[np.float64]:
    """Returns the change per tick, (5,), at which a point is passed; 0 where it turns or stops."""
    if not points[index].is_passed:
        return np.zeros(5)
    before, here, after = points[index - 1 : index + 2]
    arriving = (_numbers(here.pose) - _numbers(before.pose)) / (here.tick - before.tick)
    leaving = (_numbers(after.pose) - _numbers(here.pose)) / (after.tick - here.tick)
    return np.where(arriving * leaving > 0, (arriving + leaving) / 2, 0.0)


def _opening(points: Sequence[OpeningAt], tick: float) -> float:
    before, after, share = _between([point.tick for point in points], tick)
    a, b = points[before].opening, points[after].opening
    return a + share * (b - a)


def _between(ticks: Sequence[int], tick: float) -> tuple[int, int, float]:
    """Returns the targets before and after `tick`, and the share of the way, by smoothstep."""
    after = next((i for i, point in enumerate(ticks) if point >= tick), len(ticks) - 1)
    if after == 0 or tick > ticks[after]:
        return after, after, 0.0
    linear = _linear(ticks[after - 1], ticks[after], tick)
    return after - 1, after, linear * linear * (3 - 2 * linear)


def _linear(first: int, last: int, tick: float) -> float:
    return (tick - first) / (last - first) if last > first else 0.0
