"""Whether a wrist camera moves with its own arm.

Two arms that stand alike hide that they, or their wrist cameras, are exchanged, and so does a robot
in which states and commands are exchanged alike. But when one arm has moved and the other has not,
the images of its wrist camera have changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from flux_core.pictures import LUMINANCE, thumbnail
from flux_core.robots import RobotSpec

from .facts import CameraFacts
from .finding import Finding, hard
from .pose import is_gripper, other_side, side_of

ON_ARMS = ("wrist", "hand", "gripper", "arm")
"""Words in the names of cameras that move with an arm."""
MOVED, STILL = 0.2, 0.03
"""Displacements, in rad summed over an arm's joints, of an arm that has moved and of one that has
not."""
CHANGED, UNCHANGED = 8.0, 1.5
"""Mean changes of brightness, of 255, of a camera that has moved and of one that has not."""
LEAST_CONTRAST = 10.0
"""A camera that sees less may show nothing of its motion."""


class WristWatch:
    """Compares the change of each wrist camera's images with the motion of its arm."""

    def __init__(
        self, spec: RobotSpec, cameras: Mapping[str, CameraFacts], accepted: Sequence[str] = ()
    ) -> None:
        """Prepares for a robot; a suspicion in `accepted` is not raised."""
        self._pairs = _pairs(cameras)
        self._arms = {side: _joints(spec, side) for side in ("left", "right")}
        has_arms = all(self._arms.values()) and not spec.is_commanded_by_differences
        self._is_over = not (has_arms and self._pairs) or "cameras_swapped" in accepted
        self._start: NDArray[np.floating] | None = None
        self._newest: NDArray[np.floating] | None = None
        self._at_last_image: dict[str, float] = {}
        self._first: dict[str, NDArray[np.floating]] = {}

    def add_states(self, states: NDArray[np.floating]) -> None:
        """Takes in the next measured states, (n, action_dim)."""
        if self._is_over or not len(states) or not np.isfinite(states).all():
            return
        self._start = states[0] if self._start is None else self._start
        self._newest = states[-1]

    def add_images(self, images: Mapping[str, NDArray[np.uint8]]) -> Finding | None:
        """Takes in what the cameras show; returns a suspicion as soon as there is one."""
        if self._is_over or self._start is None or self._newest is None:
            return None
        small = {
            name: thumbnail(images[name]) @ LUMINANCE
            for pair in self._pairs
            for name in pair.values()
            if name in images
        }
        # An image is older than the newest state: its arm may just have begun to move.
        moved = self._at_last_image
        distance = np.abs(self._newest - self._start)
        self._at_last_image = {
            side: float(distance[joints].sum()) for side, joints in self._arms.items()
        }
        if not self._first:
            self._first = small
            return None
        return self._judge(moved, small)

    def _judge(
        self, moved: Mapping[str, float], small: Mapping[str, NDArray[np.floating]]
    ) -> Finding | None:
        for side, other in (("left", "right"), ("right", "left")):
            is_one_sided = moved.get(side, 0.0) >= MOVED and self._at_last_image[other] <= STILL
            for pair in self._pairs if is_one_sided else ():
                own, opposite = pair[side], pair[other]
                if not {own, opposite} <= {*small, *self._first}:
                    continue
                changes = [float(np.abs(small[n] - self._first[n]).mean()) for n in (own, opposite)]
                if changes[0] <= UNCHANGED and changes[1] >= CHANGED:
                    self._is_over = True
                    return _suspicion(side, moved[side], pair, changes)
        return None


def _suspicion(
    side: str, moved: float, pair: Mapping[str, str], changes: Sequence[float]
) -> Finding:
    own, other = pair[side], next(name for each, name in pair.items() if each != side)
    return hard(
        "cameras_swapped",
        f"the {side} arm moved by {moved:.2g} rad, the image of {own} changed by {changes[0]:.1f} "
        f"of 255 and that of {other} by {changes[1]:.1f}",
        "Exchange the topics, addresses or cables of the wrist cameras, or of the arms",
    )


def _pairs(cameras: Mapping[str, CameraFacts]) -> list[dict[str, str]]:
    """Returns the pairs of cameras on the two arms: side -> camera."""
    found: list[dict[str, str]] = []
    for name, known in cameras.items():
        opposite = other_side(name)
        is_on_arm = any(word in name.lower() for word in ON_ARMS)
        if side_of(name) != "left" or opposite is None or not is_on_arm:
            continue
        if opposite not in cameras:
            continue
        contrasts = (known.contrast or 0.0, cameras[opposite].contrast or 0.0)
        if min(contrasts) >= LEAST_CONTRAST:
            found.append({"left": name, "right": opposite})
    return found


def _joints(spec: RobotSpec, side: str) -> list[int]:
    """Returns the rotating joints of one arm, without its gripper."""
    return [
        dim
        for dim, name in enumerate(spec.joint_names)
        if side_of(name) == side and spec.units[dim] == "rad" and not is_gripper(name)
    ]
