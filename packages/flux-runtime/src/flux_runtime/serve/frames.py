"""Where the frames of a WebSocket connection begin, found before anything is parsed.

The lengths of frames are in their headers (RFC 6455, section 5.2), so a connection can be stopped
at the beginning of a message that it may not send yet. What is held back costs neither parsing nor,
once the socket's buffer is full, network.
"""

from __future__ import annotations

from collections.abc import Callable

CONTINUATION, FIRST_CONTROL = 0x0, 0x8
CONTINUATION_COST, CONTROL_COST = 1 / 256, 1 / 10
"""What a frame counts of a request. Some libraries send a message in fragments of 4 KiB."""
SHORT_FRAGMENT = 1024
"""Bytes; a shorter continuation costs as much as a control frame."""
MAX_FRAMES_AT_ONCE = 32
"""How many frames are let through before other connections have their turn."""


class FrameGate:
    """Counts the frames in a stream of bytes, and stops it at the beginning of a frame.

    Args:
        wait_s: takes a frame's cost and the time; returns 0, or how long the frame has to wait.
        charge: takes what a frame costs besides, once its length is known.

    Attributes:
        began_s: when the message or frame began that is not complete yet; None between messages.
        payload: bytes of messages so far.
        fragments: frames so far of the message that is not complete yet.
    """

    def __init__(
        self,
        wait_s: Callable[[float, float], float],
        charge: Callable[[float], None] = lambda cost: None,
    ) -> None:
        self._wait_s, self._charge = wait_s, charge
        self._header = bytearray()
        self._header_size = 2
        self._left = 0
        self._is_control = False
        self._is_in_message = False
        self.began_s: float | None = None
        self.payload = 0
        self.fragments = 0

    def admit(self, data: memoryview, now_s: float) -> tuple[int, float]:
        """Returns how many of these bytes may be parsed now, and how long the others have to wait.

        Bytes that are not admitted are to be given again. They wait 0 seconds if other connections
        should only have their turn first.
        """
        place, frames, size = 0, 0, len(data)
        while place < size:
            if self._left:
                taken = min(self._left, size - place)
                place += taken
                self._left -= taken
                if not self._is_control:
                    self.payload += taken
                if self._left == 0:
                    self._end_frame()
                continue
            if not self._header:
                if frames == MAX_FRAMES_AT_ONCE:
                    return place, 0.0
                if wait_s := self._wait_s(_cost(data[place]), now_s):
                    return place, wait_s
                frames += 1
                self._begin_frame(data[place], now_s)
            missing = self._header_size - len(self._header)
            self._header += data[place : place + missing]
            place += min(missing, size - place)
            if len(self._header) == self._header_size:
                self._read_header()
        return place, 0.0

    def _begin_frame(self, first: int, now_s: float) -> None:
        self._is_control = first & 0x0F >= FIRST_CONTROL
        if not self._is_control:
            self._is_in_message = not first & 0x80
            self.fragments += 1
        if self.began_s is None:
            self.began_s = now_s

    def _read_header(self) -> None:
        """Reads the length, once the bytes that hold it are there."""
        length = self._header[1] & 0x7F
        mask = 4 if self._header[1] & 0x80 else 0
        extended = {126: 2, 127: 8}.get(length, 0)
        if len(self._header) < 2 + extended + mask:
            self._header_size = 2 + extended + mask
            return
        self._left = int.from_bytes(self._header[2 : 2 + extended]) if extended else length
        is_continuation = self._header[0] & 0x0F == CONTINUATION
        if is_continuation and self._left < SHORT_FRAGMENT:
            self._charge(CONTROL_COST - CONTINUATION_COST)
        self._header.clear()
        self._header_size = 2
        if self._left == 0:
            self._end_frame()

    def _end_frame(self) -> None:
        if not self._is_in_message:
            self.began_s = None
            self.fragments = 0


def _cost(first: int) -> float:
    opcode = first & 0x0F
    if opcode >= FIRST_CONTROL:
        return CONTROL_COST
    return CONTINUATION_COST if opcode == CONTINUATION else 1.0
