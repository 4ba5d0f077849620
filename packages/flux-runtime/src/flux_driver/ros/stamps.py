"""Turns the stamps of message headers, made by the sender's clock, into `time.monotonic()`.

The sender's clock may be this machine's, another machine's or a camera's own. `received - stamp` is
the difference between the clocks plus the time that the message took, so the smallest of a while
is the difference plus the shortest way. Only where both clocks are known to be one is the way
itself known.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Callable, List, Tuple

WINDOW_S = 10.0
"""Clocks of two machines drift by 0.5 ms or so within it."""
RELEARN_S = 0.3
"""How long stamps must be before the one accepted last until that is taken as a new clock."""
JUMP_S = 0.1
EARLY_S = 0.01
SHARED_S = {True: 5.0, None: 0.25}
"""How old a message may be by this machine's clock, if the sender is known to be on this machine or
its place is unknown; an older one has been stamped by another clock."""
TOLD_S = 0.05
"""A difference between clocks that is worth a line."""

Warnings = List[Tuple[str, str]]


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
        self._offsets: deque[tuple[float, float]] = deque()  # (received, offset), offsets rise
        self._last_stamp_s = 0.0
        self._last_time_s = 0.0
        self._back_since_s: float | None = None
        self._has_told = False
        self._warnings: Warnings = []
        self.is_shared = False

    def take_warnings(self) -> Warnings:
        """Returns what has been noticed since the last call, as (kind of fault, line)."""
        found = self._warnings[:]
        del self._warnings[: len(found)]  # another thread may have added more
        return found

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
        self._learn(received_s, received_s - stamp_s)
        offset_s = self._local_offset() if self.is_shared else self._offsets[0][1]
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
        self._offsets.clear()
        self._warn(
            "stamps_jumped", f"the stamps have jumped back by {back_s:.3f} s for good: learnt anew"
        )
        return True

    def _learn(self, received_s: float, offset_s: float) -> None:
        """Keeps the smallest offset of the window in front."""
        local_s = self._local_offset()
        if self._offsets and offset_s < self._offsets[0][1] - JUMP_S:
            ahead_s = self._offsets[0][1] - offset_s
            if not self.is_shared or offset_s < local_s - EARLY_S:
                self._warn("stamps_jumped", f"the stamps have jumped ahead by {ahead_s:.3f} s")
        while self._offsets and self._offsets[-1][1] >= offset_s:
            self._offsets.pop()
        self._offsets.append((received_s, offset_s))
        while self._offsets[0][0] < received_s - WINDOW_S:
            self._offsets.popleft()
        way_s = self._offsets[0][1] - local_s
        self.is_shared = -EARLY_S <= way_s <= self._shared_s
        if not self.is_shared and abs(way_s) > TOLD_S:
            self._tell_once(
                "clock_differs",
                f"its clock is {abs(way_s):.3f} s {'behind' if way_s > 0 else 'ahead of'} this "
                f"machine's: the difference is measured and taken into account",
            )

    def _tell_once(self, name: str, text: str) -> None:
        if not self._has_told:
            self._has_told = True
            self._warn(name, text)

    def _warn(self, name: str, text: str) -> None:
        self._warnings.append((f"{name} {self._source}", f"{self._source}: {text}"))
