"""What a robot shows while it stands still and is looked at for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Frames = Mapping[str, tuple[NDArray[np.uint8], int]]

LOOK_S = 1.0
"""How long a real robot is looked at."""
LOOKS_HZ = 120.0
"""Looks per second: twice what the fastest usual camera delivers."""


class SeenDriver(Protocol):
    """The part of `DriverProcess` that is used here."""

    def observe(self, cameras: Sequence[str]) -> tuple[NDArray[np.float32], int, Frames]:
        """Returns the newest state, when it was captured, and the newest images, in ns."""
        ...


@dataclass(frozen=True, kw_only=True)
class CameraLook:
    """What one camera delivered during the look.

    Attributes:
        image: the newest, (height, width, 3) uint8.
        num_images: images with a stamp of their own.
        num_different: how many of them differ from the one before.
        hz: images per second by their stamps; None if there were too few.
        newest_age_s: the newest image's age at the end; None without a clock.
    """

    image: NDArray[np.uint8]
    num_images: int = 1
    num_different: int = 0
    hz: float | None = None
    newest_age_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What a robot showed.

    Attributes:
        state: (state_dim,) float, the newest.
        cameras: by name.
        duration_s: of the look; 0 for a single observation, which knows no rates.
        state_hz: states per second by their stamps; None if there were too few.
        latency_s: from looking at the robot to its chunk; None if it was not measured.
        too_slow: why chunks take too long for real-time chunking; None if they do not.
        is_simulated: whether the robot is a simulation, whose cameras have no noise.
    """

    state: NDArray[np.floating]
    cameras: Mapping[str, CameraLook] = field(default_factory=dict[str, CameraLook])
    duration_s: float = 0.0
    state_hz: float | None = None
    latency_s: float | None = None
    too_slow: str | None = None
    is_simulated: bool = False


class Look:
    """Takes in what a driver shows, again and again."""

    def __init__(self, cameras: Sequence[str]) -> None:
        self._state: NDArray[np.float32] | None = None
        self._state_stamps: list[int] = []
        self._stamps: dict[str, list[int]] = {name: [] for name in cameras}
        self._images: dict[str, NDArray[np.uint8]] = {}
        self._different = dict.fromkeys(cameras, 0)

    def add(self, state: NDArray[np.float32], captured_ns: int, frames: Frames) -> None:
        """Takes in one look; what has the stamp of the look before is the same reading."""
        self._state = state
        if captured_ns not in self._state_stamps[-1:]:
            self._state_stamps.append(captured_ns)
        for name, (image, at_ns) in frames.items():
            if at_ns in self._stamps[name][-1:]:
                continue
            before = self._images.get(name)
            is_first = before is None
            self._different[name] += not is_first and not np.array_equal(before, image)
            self._stamps[name].append(at_ns)
            self._images[name] = image

    def observed(
        self, duration_s: float, now_ns: int | None = None, *, is_simulated: bool = False
    ) -> Observed:
        """Returns what was seen."""
        assert self._state is not None, "add() comes first"
        cameras = {
            name: CameraLook(
                image=image,
                num_images=len(self._stamps[name]),
                num_different=self._different[name],
                hz=_rate(self._stamps[name]),
                newest_age_s=(None if now_ns is None else (now_ns - self._stamps[name][-1]) * 1e-9),
            )
            for name, image in self._images.items()
        }
        return Observed(
            state=self._state,
            cameras=cameras,
            duration_s=duration_s,
            state_hz=_rate(self._state_stamps),
            is_simulated=is_simulated,
        )


def look_at(
    driver: SeenDriver,
    cameras: Sequence[str],
    *,
    duration_s: float = LOOK_S,
    is_simulated: bool = False,
    cancelled: Callable[[], bool] = lambda: False,
) -> Observed:
    """Looks at a connected robot for some time; sends nothing.

    Args:
        driver: of the robot.
        cameras: names of those to look at.
        duration_s: 0 for a single observation.
        is_simulated: whether the robot is a simulation.
        cancelled: ends the look early.
    """
    look = Look(cameras)
    began_s = time.monotonic()
    while True:
        look.add(*driver.observe(cameras))
        elapsed_s = time.monotonic() - began_s
        if elapsed_s >= duration_s or cancelled():
            break
        time.sleep(1 / LOOKS_HZ)
    return look.observed(duration_s, time.monotonic_ns(), is_simulated=is_simulated)


def _rate(stamps_ns: Sequence[int]) -> float | None:
    """Returns the rate by the median interval, which a single stall does not move."""
    if len(stamps_ns) < 4:
        return None
    interval_ns = float(np.median(np.diff(stamps_ns)))
    return 1e9 / interval_ns if interval_ns > 0 else None
