"""Stamps of a device on `time.monotonic()`: of a camera, or of a robot's controller."""

from __future__ import annotations

import time

from .window import WindowMinimum

OLDEST_S = 1.0
"""A stamp that is older than this when its image arrives is of another clock."""

AHEAD_S = 0.02
"""How far an estimated stamp may lie ahead of the clock; it then counts as now."""

WINDOW_S = 30.0
"""How long a clock's offset is remembered: two crystals drift apart by some 50 us per second."""

JUMP_S = 1.0
"""A larger change of the offset means that the clock has been set again."""


def from_monotonic(stamp_s: float, before_s: float, now_s: float) -> float:
    """Returns a stamp that should be on the monotonic clock, or `before_s` if it is not.

    Args:
        stamp_s: what the device says; 0 if it says nothing.
        before_s: a time before the image was waited for.
        now_s: the present time.
    """
    return min(stamp_s, now_s) if 0 < now_s + AHEAD_S - stamp_s < OLDEST_S else before_s


def from_wall_clock(stamp_s: float, before_s: float) -> float:
    """Returns a stamp of the system's wall clock on the monotonic clock.

    `before_s` is returned if the stamp is from the future or too old.
    """
    now_s = time.monotonic()
    return from_monotonic(stamp_s - (time.time() - now_s), before_s, now_s)


class DeviceClock:
    """A clock of a device, which began to count at some unknown time.

    A reading arrives at the earliest when it was captured, so the smallest difference between
    arrival and stamp is the offset of the clock, plus the shortest transfer.
    """

    def __init__(self) -> None:
        self._offset = WindowMinimum(WINDOW_S)

    def from_device(self, stamp_s: float, now_s: float) -> float:
        """Returns a stamp, which has just arrived, on the monotonic clock."""
        offset_s = now_s - stamp_s
        known_s = self._offset.value
        if known_s is not None and abs(offset_s - known_s) > JUMP_S:
            self._offset.clear()
        return stamp_s + self._offset.add(now_s, offset_s)
