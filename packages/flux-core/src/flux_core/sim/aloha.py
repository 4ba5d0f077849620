"""The ALOHA transfer-cube task: gym-aloha's scene and rules."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .aloha_arms import FLICKER_STEPS, LEFT_FINGER, RIGHT_FINGER, START_ARM_RAD, AlohaArms

__all__ = ["START_ARM_RAD", "AlohaSim", "sample_cube_position"]

# gym_aloha/utils.py, sample_box_pose: the range of the cube's start position, m.
CUBE_LOWER_M, CUBE_UPPER_M = (0.0, 0.4, 0.05), (0.2, 0.6, 0.05)


class AlohaSim(AlohaArms):
    """Two simulated ViperX arms; the right one hands a cube to the left one."""

    scene = "bimanual_viperx_transfer_cube.xml"

    def reward(self) -> int:
        """Returns gym-aloha's reward: 1 touched, 2 lifted, 3 left touches, 4 transferred."""
        touching = self._touching(self._cube)
        on_table = self._table in touching
        if self._left_finger in touching:
            return 3 if on_table else 4
        if self._right_finger in touching:
            return 1 if on_table else 2
        return 0

    def stages(self) -> dict[str, bool]:
        """Returns how far the episode has come.

        `touched`, `lifted` and `transferred` were reached at some step, by the contacts of the
        stock reward; `held_by_left_only` describes the current state: only the left arm touches the
        cube, and both fingers of its gripper touch it (or did 0.1 s ago, because a held cube's
        contacts flicker).
        """
        touching = self._touching(self._cube)
        is_gripped = all(self._steps - step <= FLICKER_STEPS for step in self._left_touch.values())
        return {
            "touched": self._touched,
            "lifted": self._lifted,
            "transferred": self._transferred,
            "held_by_left_only": is_gripped and set() < touching <= self._left_arm,
        }

    def cube_position(self) -> NDArray[np.float64]:
        """Returns the cube's centre in world coordinates, (3,) m. Policies do not see this."""
        return np.array(self.data.qpos[-7:-4])

    def _find_objects(self) -> None:
        self._cube, self._table = self._geom("red_box"), self._geom("table")
        self._left_finger, self._right_finger = self._geom(LEFT_FINGER), self._geom(RIGHT_FINGER)
        self._left_fingers = {self._left_finger, self._geom("vx300s_left/10_right_gripper_finger")}
        self._left_arm = self._geoms_of("vx300s_left/")

    def _place_objects(self, seed: int) -> None:
        self.data.qpos[-7:] = (*sample_cube_position(seed), 1.0, 0.0, 0.0, 0.0)

    def _begin_stages(self) -> None:
        self._touched = self._lifted = self._transferred = False
        self._left_touch = dict.fromkeys(self._left_fingers, -FLICKER_STEPS - 1)

    def _update_stages(self) -> None:
        touching = self._touching(self._cube)
        self._left_touch |= dict.fromkeys(touching & self._left_fingers, self._steps)
        reward = self.reward()
        self._transferred |= reward == 4
        self._lifted |= reward in (2, 4)
        self._touched |= reward > 0


def sample_cube_position(seed: int) -> NDArray[np.float64]:
    """Returns the cube's centre at reset, (3,) m, as gym-aloha's sample_box_pose draws it."""
    return np.random.RandomState(seed).uniform(CUBE_LOWER_M, CUBE_UPPER_M)
