"""The simulated arm: it reaches its commanded position at once, and is drawn with numpy."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from flux_core.types import Observation

from .robot import SPEC

LINKS = np.array([0.4, 0.3, 0.2])  # metres; the picture shows 2 m by 2 m
PIXELS = 64
REACH = 0.1


class MyArm:
    """Touches a dot; implements `flux_runtime.robots.SimulatedRobot`."""

    spec = SPEC
    task = "touch the dot"
    success_stage = "touched"
    end_state = "touching"

    def connect(self) -> None:
        """Makes the robot ready; a real driver opens its connections here."""
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Straightens the arm and puts the dot where `seed` says."""
        angle = np.random.default_rng(seed).uniform(-np.pi, np.pi)
        self._dot = 0.7 * np.array([np.cos(angle), np.sin(angle)])
        self._joints = np.zeros(SPEC.action_dim, np.float32)
        self._steps, self._has_touched = 0, False

    def state(self) -> NDArray[np.float32]:
        """Returns the joint angles, (3,) float32."""
        return self._joints

    def observe(self, prompt: str, cameras: Sequence[str]) -> Observation:
        """Returns the state and one image from each of `cameras`."""
        time_s = self._steps / SPEC.control_hz
        return Observation(
            images=dict(self.render(cameras)),
            state=self._joints,
            prompt=prompt,
            timestamp_s=time_s,
        )

    def command(self, action: NDArray[np.float32]) -> None:
        """Moves to `action`, (3,) float32, which is within the limits."""
        self._joints = action.copy()
        self._steps += 1
        self._has_touched |= self._is_touching()

    def stages(self) -> Mapping[str, bool]:
        """Returns which stages of the task have been reached."""
        return {"touched": self._has_touched, "touching": self._is_touching()}

    def render(self, cameras: Sequence[str]) -> Mapping[str, NDArray[np.uint8]]:
        """Draws the arm white and the dot red, (64, 64, 3) uint8 each."""
        image = np.zeros((PIXELS, PIXELS, 3), np.uint8)
        corners = self._corners()
        for start, end in pairwise(corners):
            _paint(image, np.linspace(start, end, PIXELS), (255, 255, 255))
        _paint(image, self._dot + np.mgrid[-2:3, -2:3].reshape(2, -1).T / PIXELS, (255, 0, 0))
        return dict.fromkeys(cameras, image)

    def close(self) -> None:
        """Does nothing: there is nothing to release."""

    def _corners(self) -> NDArray[np.float64]:
        angles = np.cumsum(self._joints)
        steps = LINKS[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])

    def _is_touching(self) -> bool:
        return bool(np.linalg.norm(self._corners()[-1] - self._dot) < REACH)


def _paint(
    image: NDArray[np.uint8], points: NDArray[np.float64], colour: tuple[int, int, int]
) -> None:
    columns, rows = ((points * (1, -1) + 1) * PIXELS / 2).astype(int).T
    image[rows.clip(0, PIXELS - 1), columns.clip(0, PIXELS - 1)] = colour
