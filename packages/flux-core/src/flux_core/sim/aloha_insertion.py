"""The ALOHA insertion task: gym-aloha's scene and rules."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from .aloha_arms import FLICKER_STEPS, LEFT_FINGER, RIGHT_FINGER, AlohaArms

# gym_aloha/utils.py, sample_insertion_pose: the ranges of the start positions, m.
PEG_LOWER_M, PEG_UPPER_M = (0.1, 0.4, 0.05), (0.2, 0.6, 0.05)
SOCKET_LOWER_M, SOCKET_UPPER_M = (-0.2, 0.4, 0.05), (-0.1, 0.6, 0.05)
STAGES: tuple[str, ...] = ("touched", "lifted", "met", "inserted")
OTHER_FINGERS = ("vx300s_left/10_right_gripper_finger", "vx300s_right/10_left_gripper_finger")
SOCKET_WALLS = ("socket-1", "socket-2", "socket-3", "socket-4")


class AlohaInsertionSim(AlohaArms):
    """Two simulated ViperX arms; the right one puts a peg into the socket of the left one.

    The bottom of the socket is a pin; a peg that touches it counts as inserted.
    """

    scene = "bimanual_viperx_insertion.xml"

    def reward(self) -> int:
        """Returns gym-aloha's current reward: 1 touched, 2 lifted, 3 met, 4 inserted."""
        now = self._now()
        rewards = {"inserted": 4, "met": 3, "lifted": 2, "touched": 1}
        return next((reward for name, reward in rewards.items() if now[name]), 0)

    def stages(self) -> dict[str, bool]:
        """Returns how far the episode has come.

        `touched` (the peg by the right finger, the socket by the left one), `lifted` (both, off the
        table), `met` (peg and socket touch, off the table) and `inserted` (the peg touches the pin)
        were reached at some step, by the contacts of the stock reward. `inserted_and_held`
        describes the current state: the peg touches the pin, both fingers of each gripper hold
        their object (or all of these touched 0.1 s ago, because contacts flicker), and nothing else
        touches either object.
        """
        return self._reached | {"inserted_and_held": self._is_inserted_and_held()}

    def object_positions(self) -> NDArray[np.float64]:
        """Returns the centres of peg and socket, (2, 3) m, which policies do not see."""
        return np.array([self.data.qpos[-14:-11], self.data.qpos[-7:-4]])

    def _find_objects(self) -> None:
        self._peg, self._pin, self._table = map(self._geom, ("red_peg", "pin", "table"))
        self._walls = {self._geom(name) for name in SOCKET_WALLS}
        self._left_finger, self._right_finger = self._geom(LEFT_FINGER), self._geom(RIGHT_FINGER)
        self._left_arm, self._right_arm = map(self._geoms_of, ("vx300s_left/", "vx300s_right/"))
        left_other, right_other = map(self._geom, OTHER_FINGERS)
        self._left_fingers = {self._left_finger, left_other}
        self._right_fingers = {self._right_finger, right_other}

    def _place_objects(self, seed: int) -> None:
        for place, position in zip((-14, -7), sample_insertion_positions(seed), strict=True):
            self.data.qpos[place : place + 7 or None] = (*position, 1.0, 0.0, 0.0, 0.0)

    def _begin_stages(self) -> None:
        self._reached: dict[str, bool] = dict.fromkeys(STAGES, False)
        watched = (*self._right_fingers, *self._left_fingers, self._pin)
        self._last_touch = dict.fromkeys(watched, -FLICKER_STEPS - 1)

    def _update_stages(self) -> None:
        by_peg, by_socket = self._touching(self._peg), self._touching_socket()
        touched = by_peg & (self._right_fingers | {self._pin}) | by_socket & self._left_fingers
        self._last_touch |= dict.fromkeys(touched, self._steps)
        for name, is_reached in self._now().items():
            self._reached[name] |= is_reached

    def _touching_socket(self) -> set[int]:
        """Returns the geoms in contact with the socket's walls."""
        return _union(self._touching(wall) for wall in self._walls)

    def _now(self) -> dict[str, bool]:
        """Returns the conditions of the stock rewards."""
        by_peg, by_socket = self._touching(self._peg), self._touching_socket()
        is_touched = self._right_finger in by_peg and self._left_finger in by_socket
        is_in_the_air = self._table not in by_peg | by_socket
        return {
            "touched": is_touched,
            "lifted": is_touched and is_in_the_air,
            "met": bool(by_peg & self._walls) and is_in_the_air,
            "inserted": self._pin in by_peg,
        }

    def _is_inserted_and_held(self) -> bool:
        oldest = min(self._last_touch.values())
        by_peg = self._touching(self._peg) - self._walls - {self._pin}
        by_socket = self._touching_socket() | self._touching(self._pin) - {self._peg}
        return (
            self._reached["inserted"]
            and self._steps - oldest <= FLICKER_STEPS
            and by_peg <= self._right_arm
            and by_socket - {self._peg} <= self._left_arm
        )


def sample_insertion_positions(seed: int) -> NDArray[np.float64]:
    """Returns the centres of peg and socket at reset, (2, 3) m, as gym-aloha draws them."""
    random = np.random.RandomState(seed)
    peg = random.uniform(PEG_LOWER_M, PEG_UPPER_M)
    return np.array([peg, random.uniform(SOCKET_LOWER_M, SOCKET_UPPER_M)])


def _union(sets: Iterable[set[int]]) -> set[int]:
    return set().union(*sets)
