"""A scripted policy for LIBERO-Object: pick up one of seven things and put it into the basket.

Like a policy, it commands changes of the hand's pose and observes the hand's state. Unlike a
policy, it reads the places of the things from the simulator instead of from images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flux_core.sim import LIBERO_MAX_STEPS, LiberoSim

SUITE = "libero-object"
POSITION_GAIN = 16.0  # command (1 is 0.05 m) per metre of error
ROTATION_GAIN = 2.0  # command (1 is 0.5 rad) per radian of error
OPEN, CLOSED = -1.0, 1.0
# From the fingertips' frame along the fingers, m: anything deeper in the hand touches the palm.
FINGER_DEPTH_M = 0.024
LOWEST_GRASP_M = 0.012  # above the floor
GRASP_DEPTH_M = 0.025  # from the thing's near end, as other things may stand behind it
TRAVEL_M = 0.18  # the open hand clears everything: the tallest bottle is 0.146 m high
CLEARANCE_M = 0.03  # at least, between the carried thing and the basket's rim
# The hand is at least this high while it carries. Were it lower with lower things, a policy of all
# tasks would carry the tall ones too low.
CARRY_M = 0.275
RELEASE_M = 0.02  # the thing is lowered this far before the hand opens
SLOPE = 3.0  # metres that the hand descends per metre of approach
NEAR_M, GRASP_M, OVER_BASKET_M = 0.01, 0.012, 0.03  # errors that count as reached
CLOSING_STEPS = 6
END_STEPS = 5  # after the goal is reached
NOISE_MEMORY = 0.8  # the share of a step's execution noise that carries over to the next

Phase = Literal["reach", "close", "carry", "release"]


@dataclass(frozen=True, kw_only=True)
class Places:
    """The targets of the script's hand, m in the world frame.

    Attributes:
        grasp: (3,) the point between the fingers when they close.
        release: (3,) the same when they open.
        carry_z: height while carrying.
    """

    grasp: NDArray[np.float64]
    release: NDArray[np.float64]
    carry_z: float

    @classmethod
    def of(cls, thing: NDArray[np.float64], basket: NDArray[np.float64]) -> Places:
        """Takes the boxes, (2, 3) m, around the thing and around the basket."""
        low, high = thing[:, 2]
        x = thing[0, 0] + min(np.ptp(thing[:, 0]) / 2, GRASP_DEPTH_M)
        y = thing[:, 1].mean()
        grasp_z = max(low + LOWEST_GRASP_M, high - FINGER_DEPTH_M)
        carry_z = max(basket[1, 2] + (grasp_z - low) + CLEARANCE_M, CARRY_M)
        over = basket.mean(axis=0)
        return cls(
            grasp=np.array((x, y, grasp_z)),
            release=np.array((over[0], over[1], carry_z - RELEASE_M)),
            carry_z=carry_z,
        )


class ObjectScript:
    """Computes the commands of one episode, step by step."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self.phase: Phase = "reach"
        self._closed_for = 0

    def command(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the command, (7,) of -1 to 1, that answers the state (8,) of `LiberoSim`."""
        hand = state[:3].astype(np.float64)
        target = self._target(hand)
        action = np.zeros(7)
        action[:3] = POSITION_GAIN * (target - hand)
        action[3:6] = ROTATION_GAIN * tilt(state[3:6])
        action[6] = OPEN if self.phase in ("reach", "release") else CLOSED
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def _target(self, hand: NDArray[np.float64]) -> NDArray[np.float64]:
        """Advances to the next phase if this one is done; returns the target of the hand."""
        grasp, release, carry_z = self._places.grasp, self._places.release, self._places.carry_z
        if self.phase == "reach":
            missing = float(np.linalg.norm(grasp[:2] - hand[:2]))
            if missing >= GRASP_M or hand[2] - grasp[2] >= GRASP_M:
                height = np.clip(SLOPE * (missing - NEAR_M), 0.0, TRAVEL_M - grasp[2])
                return grasp + np.array((0.0, 0.0, height))
            self.phase = "close"
        if self.phase == "close":
            self._closed_for += 1
            if self._closed_for <= CLOSING_STEPS:
                return grasp
            self.phase = "carry"
        if self.phase == "carry":
            if np.linalg.norm(release[:2] - hand[:2]) >= OVER_BASKET_M:
                # Straight up first, so that the carried thing does not hit its neighbours.
                share = np.clip((hand[2] - carry_z) / (2 * CLEARANCE_M) + 1.2, 0.0, 1.0)
                return np.array([*(hand + share * (release - hand))[:2], carry_z])
            self.phase = "release"
        return release


def tilt(rotation: NDArray[np.floating]) -> NDArray[np.float64]:
    """Returns the turn, (3,) rad, that makes a hand at `rotation`, (3,) rad, point straight down.

    Straight down is half a turn about x; for nearby rotations the turn is their difference.
    """
    angle = float(np.linalg.norm(rotation))
    x, y, z = np.sin(angle / 2) * np.asarray(rotation, np.float64) / angle
    return 2.0 * np.sign(x) * np.array((np.cos(angle / 2), z, -y))


def execute(sim: LiberoSim, seed: int, noise: float) -> Iterator[NDArray[np.float32]]:
    """Draws a start of the task and runs the script, yielding each clean command before its step.

    When the consumer gets a command, `sim` still holds the observation that it answers. Noise is
    added to the executed command but not to the yielded one, so that the data shows how to recover
    from small errors. Ends soon after the goal is reached, or at the step limit of policies.

    Args:
        sim: the simulator; after the last item it holds the end of the episode.
        seed: seed of the start and of the noise.
        noise: standard deviation of the executed movement's error, 1 being 0.05 m.
    """
    rng = np.random.default_rng([seed, 0xF1])
    sim.draw(seed)
    script = ObjectScript(Places.of(*(sim.bounds(name) for name in sim.goal_objects())))
    fresh = noise * np.sqrt(1 - NOISE_MEMORY**2)
    error, steps_after = np.zeros(7), 0
    for _ in range(LIBERO_MAX_STEPS[SUITE]):
        action = script.command(sim.state())
        yield action
        error[:3] = NOISE_MEMORY * error[:3] + fresh * rng.standard_normal(3)
        sim.step(np.clip(action + error, -1.0, 1.0))
        steps_after += sim.stages()["success"]
        if steps_after > END_STEPS:
            return


def run_script(sim: LiberoSim, seed: int, noise: float) -> tuple[bool, int]:
    """Plays the script without rendering; returns whether the goal holds at the end, and steps."""
    steps = sum(1 for _ in execute(sim, seed, noise))
    return sim.check_success(), steps
