"""Calls of a driver that may hang: each on a thread of its own, with a time limit."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable

from .robot import one_line


class BoundedCall:
    """A call that has begun; nobody waits for it longer than they want to."""

    def __init__(self, name: str, call: Callable[[], Any], timeout_s: float) -> None:
        self._call = call
        self._timeout_s = timeout_s
        self._deadline_s = time.monotonic() + timeout_s
        self._has_returned = threading.Event()
        self._error = ""
        self._name = name
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def wait(self, timeout_s: float) -> bool:
        """Waits until the call has ended one way or another."""
        self._has_returned.wait(min(timeout_s, max(0.0, self._deadline_s - time.monotonic())))
        return self.is_over

    @property
    def has_returned(self) -> bool:
        """Whether it has returned or raised."""
        return self._has_returned.is_set()

    @property
    def is_over(self) -> bool:
        """Whether it has returned, has raised or has used up its time."""
        return self._has_returned.is_set() or time.monotonic() >= self._deadline_s

    @property
    def fault(self) -> str:
        """What went wrong with a call that is over, or ''."""
        if not self._has_returned.is_set():
            return f"{self._name}(): expected an end within {self._timeout_s:g} s, got none"
        return f"{self._name}(): {self._error}" if self._error else ""

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as error:  # noqa: BLE001 - a driver may raise anything
            self._error = one_line(error)
        self._has_returned.set()
