"""Commands that arrive as lines on a channel, such as a pipe."""

from __future__ import annotations

import os

from flux_core.errors import UsageError

from .commands import OperatorCommand, parse_line

_MOST_BYTES = 1 << 16
"""Of a line that has not ended."""
_READ_BYTES = 1 << 14


class LineSource:
    """Reads commands from a descriptor, one a line; its end is `quit`.

    Attributes:
        has_ended: whether nothing will come any more.
    """

    is_terminal = False

    def __init__(self, descriptor: int) -> None:
        self.has_ended = False
        self._descriptor = descriptor
        self._early = b""
        self._unfinished = b""

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._descriptor

    def look_ahead(self) -> bool:
        """Reads what has come already, and returns whether that was anything; the descriptor is
        ready to be read."""
        try:
            self._early = os.read(self._descriptor, _READ_BYTES)
        except OSError:
            return False
        return bool(self._early)

    def open(self) -> list[OperatorCommand | str]:
        """Returns the commands that were sent early, as `read` does."""
        early, self._early = self._early, b""
        return self._take_in(early) if early else []

    def close(self) -> None:
        """Does nothing: the descriptor is not this object's own."""

    def read(self) -> list[OperatorCommand | str]:
        """Returns the commands that have come, and what to tell the operator about other lines."""
        try:
            received = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            received = b""
        if received:
            return self._take_in(received)
        self.has_ended = True
        last = self._take_in(b"\n") if self._unfinished.strip() else []
        return [*last, OperatorCommand(kind="quit", text="its commands have ended")]

    def _take_in(self, received: bytes) -> list[OperatorCommand | str]:
        *lines, self._unfinished = (self._unfinished + received).split(b"\n")
        if len(self._unfinished) > _MOST_BYTES:
            self._unfinished = b""
        return [_command_of(line) for line in lines]


def _command_of(line: bytes) -> OperatorCommand | str:
    try:
        return parse_line(line.decode("utf-8", "replace"))
    except UsageError as error:
        return str(error)
