"""A slot for the newest message of a topic."""

from __future__ import annotations

import threading
from typing import Any, Tuple

Received = Tuple[Any, float]


class Newest:
    """Keeps the newest message; the one before it is dropped, read or not.

    Args:
        condition: notified at each message; one condition may serve several slots.

    Attributes:
        count: messages so far.
    """

    def __init__(self, condition: threading.Condition | None = None) -> None:
        self.condition = threading.Condition() if condition is None else condition
        self.count = 0
        self._found: Received | None = None

    @property
    def has_one(self) -> bool:
        """Whether there is a message to take."""
        return self._found is not None

    def put(self, message: Any, received_s: float) -> None:
        """Keeps a message instead of the one before it."""
        with self.condition:
            self._found = message, received_s
            self.count += 1
            self.condition.notify_all()

    def take(self) -> Received | None:
        """Returns the newest message, once; None if there is no other since the last call."""
        with self.condition:
            found, self._found = self._found, None
            return found
