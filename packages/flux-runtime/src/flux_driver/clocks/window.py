"""The smallest value of a moving window of time."""

from __future__ import annotations

from collections import deque


class WindowMinimum:
    """Keeps the smallest value of the last `window_s` seconds.

    Args:
        window_s: the length of the window in seconds.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._rising: deque[tuple[float, float]] = deque()  # (time, value), values rise

    @property
    def value(self) -> float | None:
        """The smallest value; None before the first one."""
        return self._rising[0][1] if self._rising else None

    def add(self, time_s: float, value: float) -> float:
        """Adds a value, not older than those before it, and returns the smallest one."""
        while self._rising and self._rising[-1][1] >= value:
            self._rising.pop()
        self._rising.append((time_s, value))
        while self._rising[0][0] < time_s - self._window_s:
            self._rising.popleft()
        return self._rising[0][1]

    def clear(self) -> None:
        """Forgets all values."""
        self._rising.clear()
