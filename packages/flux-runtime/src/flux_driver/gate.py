"""Lets commands through to the robot while their session is open, and never after its stop."""

from __future__ import annotations

import threading


class Gate:
    """Closed at the start.

    Attributes:
        session: the number of the open session; 0 while the gate is closed.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._is_sending = False
        self.session = 0

    def open(self, session: int) -> None:
        """Lets the commands of `session`, a number above 0, through."""
        with self._condition:
            self.session = session

    def close(self) -> bool:
        """Lets nothing through; returns whether the gate was open."""
        with self._condition:
            was_open = self.session != 0
            self.session = 0
            return was_open

    def wait_until_sent(self, timeout_s: float) -> bool:
        """Waits for a command that was let through earlier; returns False if it still hangs."""
        with self._condition:
            return self._condition.wait_for(lambda: not self._is_sending, timeout_s)

    def enter(self, session: int) -> bool:
        """Returns whether a command of `session` may be sent; if so, `leave` must follow."""
        with self._condition:
            self._is_sending = session == self.session and session != 0
            return self._is_sending

    def leave(self) -> None:
        """The command has been sent, or has failed."""
        with self._condition:
            self._is_sending = False
            self._condition.notify_all()
