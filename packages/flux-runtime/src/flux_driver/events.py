"""What happens in the driver's process, as events for the policy's process.

Each kind is reported at once the first time, then counted and reported once per second at most.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Callable

INTERVAL_S = 1.0


class Events:
    """Collects events from all threads; the host's main thread passes them on."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        self._kinds: dict[str, dict[str, Any]] = {}
        self._told_s: dict[str, float] = {}
        self._single: list[dict[str, Any]] = []

    def report(self, name: str, text: str, count: int = 1) -> None:
        """Adds `count` events of the kind `name`; `text` is one line."""
        with self._lock:
            event = self._kinds.setdefault(name, {"count": 0})
            event.update(text=text, count=event["count"] + count, time_ns=time.monotonic_ns())

    def tell(self, name: str, text: str) -> None:
        """Adds an event that happens rarely and is never counted with another."""
        with self._lock:
            event = {"kind": "event", "name": name, "text": text, "count": 1}
            self._single.append({**event, "time_ns": time.monotonic_ns()})

    def due(self) -> list[dict[str, Any]]:
        """Returns the messages that are to be sent now."""
        now_s = self._now_s()
        with self._lock:
            names = [
                name
                for name in self._kinds
                if now_s - self._told_s.get(name, -INTERVAL_S) >= INTERVAL_S
            ]
            self._told_s.update(dict.fromkeys(names, now_s))
            single, self._single = self._single, []
            counted = [{"kind": "event", "name": name, **self._kinds.pop(name)} for name in names]
            return single + counted


class Retries:
    """Counts failures in a row of one call of a driver."""

    def __init__(self, call: str, most: int, events: Events) -> None:
        self._call = call
        self._most = most
        self._events = events
        self._failures = 0

    def failed(self, reason: str) -> str:
        """Records a failure; returns why to give up, or '' if the call is to be tried again."""
        self._failures += 1
        self._events.report(f"{self._call}_failed", f"{self._call}(): {reason}")
        if self._failures <= self._most:
            return ""
        return f"{self._call}() failed {self._failures} times in a row: {reason}"

    def worked(self) -> None:
        """Records that the call worked."""
        self._failures = 0


class DriverWarnings:
    """What a driver's threads have noticed, until its `take_warnings` returns it."""

    def __init__(self) -> None:
        self._lines: list[tuple[str, str]] = []

    def add(self, name: str, text: str) -> None:
        """Adds a line; `name` is the kind of fault."""
        self._lines.append((name, text))

    def take(self) -> list[tuple[str, str]]:
        """Returns what has been added since the last call, as (kind of fault, line)."""
        found = self._lines[:]
        del self._lines[: len(found)]  # another thread may have added more
        return found
