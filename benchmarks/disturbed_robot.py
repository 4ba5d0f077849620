"""The simulated ALOHA whose pictures, joints or objects are disturbed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from flux_core.robots import RobotSpec
from flux_core.sim import AlohaArms, AlohaInsertionSim
from flux_core.sim.aloha import CUBE_LOWER_M, CUBE_UPPER_M
from flux_core.sim.aloha_insertion import PEG_LOWER_M, PEG_UPPER_M
from flux_runtime.robots.aloha_sim import AlohaSimRobot

Picture = NDArray[np.uint8]


class Disturbance:
    """Changes what a policy observes, or where things are; the same seed, the same change."""

    def begin(self, random: np.random.Generator) -> None:
        """Begins an episode."""

    def picture(self, picture: Picture) -> Picture:
        """Returns a camera's picture, (height, width, 3), disturbed."""
        return picture

    def state(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the measured joints, (S,), disturbed."""
        return state

    def after_step(self, simulation: AlohaArms, steps: int) -> None:
        """Is called after each control step."""


class Brightness(Disturbance):
    """Pictures are so many times as bright; what is above 255 is cut off."""

    def __init__(self, factor: float) -> None:
        self._factor = factor

    def picture(self, picture: Picture) -> Picture:
        return (picture * self._factor).clip(0, 255).round().astype(np.uint8)


class Blur(Disturbance):
    """A Gaussian of this standard deviation, in pixels."""

    def __init__(self, deviation: float) -> None:
        self._deviation = deviation

    def picture(self, picture: Picture) -> Picture:
        blur = ImageFilter.GaussianBlur(self._deviation)
        return np.asarray(Image.fromarray(picture).filter(blur))


class Occlusion(Disturbance):
    """A grey rectangle covers a share of each picture, at one place during an episode."""

    def __init__(self, share: float) -> None:
        self._side = share**0.5

    def begin(self, random: np.random.Generator) -> None:
        self._corner = random.uniform(0, 1 - self._side, 2)

    def picture(self, picture: Picture) -> Picture:
        size = np.array(picture.shape[:2])
        top, left = (self._corner * size).round().astype(int)
        bottom, right = ((self._corner + self._side) * size).round().astype(int)
        covered = picture.copy()
        covered[top:bottom, left:right] = 128
        return covered


class NoisyJoints(Disturbance):
    """Measured joints have noise of this standard deviation, in rad; grippers have none."""

    def __init__(self, deviation: float, spec: RobotSpec) -> None:
        self._deviation = deviation * (np.array(spec.units) == "rad")

    def begin(self, random: np.random.Generator) -> None:
        self._random = random

    def state(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        noise = self._random.normal(size=state.shape) * self._deviation
        return (state + noise).astype(np.float32)


class MovedObject(Disturbance):
    """The cube, or the peg, jumps so far at this control step, if nothing has touched it yet.

    Directions are random; the object stays within the range of its start positions.
    """

    def __init__(self, distance_m: float, at_step: int) -> None:
        self._distance_m, self._at_step = distance_m, at_step

    def begin(self, random: np.random.Generator) -> None:
        self._angles = random.uniform(0, 2 * np.pi, 64)

    def after_step(self, simulation: AlohaArms, steps: int) -> None:
        if steps != self._at_step or simulation.stages()["touched"]:
            return
        # Free joints come last, 7 numbers each: the cube, or the peg and the socket.
        if isinstance(simulation, AlohaInsertionSim):
            first, lower_m, upper_m = -14, PEG_LOWER_M, PEG_UPPER_M
        else:
            first, lower_m, upper_m = -7, CUBE_LOWER_M, CUBE_UPPER_M
        position = simulation.data.qpos[first : first + 2]
        directions = np.stack([np.cos(self._angles), np.sin(self._angles)], axis=1)
        places = position + self._distance_m * directions
        is_inside = ((places >= lower_m[:2]) & (places <= upper_m[:2])).all(axis=1)
        position[:] = places[is_inside][0]


class DisturbedSimulation:
    """A simulation behind a disturbance."""

    def __init__(self, simulation: AlohaArms, disturbance: Disturbance) -> None:
        self._simulation, self._disturbance = simulation, disturbance
        self._begin(0)

    @property
    def time_s(self) -> float:
        return self._simulation.time_s

    def reset(self, seed: int) -> None:
        self._simulation.reset(seed)
        self._begin(seed)

    def state(self) -> NDArray[np.float32]:
        return self._disturbance.state(self._simulation.state())

    def render(self, cameras: Sequence[str]) -> dict[str, Picture]:
        pictures = self._simulation.render(cameras)
        return {name: self._disturbance.picture(each) for name, each in pictures.items()}

    def step(self, action: NDArray[np.float32]) -> None:
        self._simulation.step(action)
        self._steps += 1
        self._disturbance.after_step(self._simulation, self._steps)

    def stages(self) -> Mapping[str, bool]:
        return self._simulation.stages()

    def close(self) -> None:
        self._simulation.close()

    def _begin(self, seed: int) -> None:
        self._disturbance.begin(np.random.default_rng(seed))
        self._steps = 0


def disturbed(robot: type[AlohaSimRobot], disturbance: Disturbance) -> AlohaSimRobot:
    """Returns a robot of this class in a simulation behind the disturbance."""

    class Robot(robot):  # type: ignore[misc, valid-type]
        def _make_simulation(self) -> Any:
            return DisturbedSimulation(super()._make_simulation(), disturbance)

    return Robot()
