"""Turns the stamps of message headers, made by the sender's clock, into `time.monotonic()`.

The sender's clock may be this machine's, another machine's or a camera's own. `received - stamp` is
the offset between the clocks plus the time that the message took, so its smallest value within some
seconds is the offset plus the shortest travel time. The travel time itself is known only where
sender and receiver share a clock.
"""

from __future__ import annotations

import time
from typing import Callable

from ..events import DriverWarnings
from .window import WindowMinimum

WINDOW_S = 10.0
"""Clocks of two machines drift by 0.5 ms or so within it."""
RELEARN_S = 0.3
"""Stamps that stay behind the newest accepted one for so long are taken to be of a new clock."""
JUMP_S = 0.1
EARLY_S = 0.01
SHARED_S = {True: 2.0, None: 0.25}
"""How old a message may be by this machine's clock, if the sender is known to be on this machine or
its place is unknown; an older one has been stamped by another clock."""
TOLD_S = 0.05
"""A difference between clocks that is worth a line."""


def local_offset_s() -> float:
    """Returns what must be added to `time.time()` for `time.monotonic()`."""
    return time.monotonic() - time.time()


class StampClock:
    """The clock behind the stamps of one topic.

    Args:
        source: the topic, for messages.
        is_local: whether the sender is on this machine; None if unknown.
        local_offset: see `local_offset_s`.

    Attributes:
        is_shared: whether the stamps are taken to be of this machine's clock.
    """

    def __init__(
        self,
        source: str,
        is_local: bool | None,
        local_offset: Callable[[], float] = local_offset_s,
    ) -> None:
        self._source = source
        self._shared_s = -1.0 if is_local is False else SHARED_S[is_local]
        self._local_offset = local_offset
        self._offset = WindowMinimum(WINDOW_S)
        self._last_stamp_s = 0.0
        self._last_time_s = 0.0
        self._back_since_s: float | None = None
        self._has_told = False
        self._warnings = DriverWarnings()
        self.is_shared = False

    def take_warnings(self) -> list[tuple[str, str]]:
        """Returns what has been noticed since the last call, as (kind of fault, line)."""
        return self._warnings.take()

    def time_s(self, stamp_s: float, received_s: float) -> float | None:
        """Returns when a message was stamped; None for one that is to be ignored.

        Args:
            stamp_s: the header's stamp, on the sender's clock; 0 if the sender gives none.
            received_s: when the message was received, on `time.monotonic()`.
        """
        if stamp_s <= 0:
            self._tell_once("no_stamp", "its messages have no stamp: their arrival counts")
            return received_s
        if stamp_s < self._last_stamp_s and not self._relearns(stamp_s, received_s):
            return None
        self._back_since_s = None
        self._last_stamp_s = stamp_s
        measured_s = self._learn(received_s, received_s - stamp_s)
        offset_s = self._local_offset() if self.is_shared else measured_s
        self._last_time_s = max(self._last_time_s, min(stamp_s + offset_s, received_s))
        return self._last_time_s

    def _relearns(self, stamp_s: float, received_s: float) -> bool:
        """Returns whether stamps have been behind for so long that they are of a new clock."""
        back_s = self._last_stamp_s - stamp_s
        if self._back_since_s is None:
            self._back_since_s = received_s
        if received_s - self._back_since_s < RELEARN_S:
            self._warn(
                "stamps_jumped",
                f"a stamp is {back_s:.3f} s before the one before it: its message is not used",
            )
            return False
        self._offset.clear()
        self._shared_s = min(self._shared_s, SHARED_S[None])  # no delay sets a clock back
        self._warn(
            "stamps_jumped", f"the stamps have jumped back by {back_s:.3f} s for good: learnt anew"
        )
        return True

    def _learn(self, received_s: float, offset_s: float) -> float:
        """Takes in the offset of one message, and returns the smallest of the window."""
        local_s = self._local_offset()
        known_s = self._offset.value
        is_too_early = not self.is_shared or offset_s < local_s - EARLY_S
        if known_s is not None and offset_s < known_s - JUMP_S and is_too_early:
            ahead_s = known_s - offset_s
            self._warn("stamps_jumped", f"the stamps have jumped ahead by {ahead_s:.3f} s")
        smallest_s = self._offset.add(received_s, offset_s)
        travel_s = smallest_s - local_s
        self.is_shared = -EARLY_S <= travel_s <= self._shared_s
        if not self.is_shared and abs(travel_s) > TOLD_S:
            side = "behind" if travel_s > 0 else "ahead of"
            self._tell_once(
                "clock_differs",
                f"its clock is {abs(travel_s):.3f} s {side} this machine's: the difference is "
                f"measured and taken into account",
            )
        return smallest_s

    def _tell_once(self, name: str, text: str) -> None:
        if not self._has_told:
            self._has_told = True
            self._warn(name, text)

    def _warn(self, name: str, text: str) -> None:
        self._warnings.add(f"{name} {self._source}", f"{self._source}: {text}")
