"""The thread on which chunks are made in real time, beside the control thread.

Nothing waits for it: an inference that hangs is a fault of its own, to which the control loop
reacts. Such a thread cannot be ended, only left behind, so it is a daemon.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Protocol

logger = logging.getLogger("flux.runtime")

THREAD_NAME = "flux-inference"
POLL_S = 0.1
JOIN_S = 0.5


class InferenceRequest(Protocol):
    """A request of the control loop for a chunk."""

    @property
    def index(self) -> int:
        """Number of the chunk within its session."""
        ...

    @property
    def session(self) -> int:
        """The session that asks."""
        ...

    def as_data(self) -> dict[str, int]:
        """Returns all its fields as plain data."""
        ...


class RequestingLoop(Protocol):
    """The part of `_core.RealtimeLoop` that this thread uses."""

    def wait_for_request(self, timeout_s: float) -> Any:
        """Returns the next `InferenceRequest`, or None after `timeout_s`."""
        ...

    def report_failure(self, request: Any, text: str) -> None:
        """Reports that the request cannot be answered."""
        ...


class InferenceThread:
    """Answers the requests of a loop, one after another, until it is closed."""

    def __init__(self, loop: RequestingLoop, answer: Callable[[InferenceRequest], None]) -> None:
        """Starts the thread.

        Args:
            loop: asks for chunks.
            answer: makes a chunk and hands it to the loop; whatever it raises is reported to the
                loop, which decides how often it asks again.
        """
        self._loop = loop
        self._answer = answer
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = JOIN_S) -> bool:
        """Asks the thread to end, and returns whether it has ended within `timeout_s`."""
        self._is_closing.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._is_closing.is_set():
            request = self._loop.wait_for_request(POLL_S)
            if request is None:
                continue
            try:
                self._answer(request)
            except Exception as error:  # Transforms and engines may raise anything.
                logger.debug("the inference failed", exc_info=True)
                words = " ".join(str(error).split()) or type(error).__name__
                self._loop.report_failure(request, words)


def is_inference_stuck() -> bool:
    """Whether an inference thread still runs, although its loop has been closed."""
    return any(thread.name == THREAD_NAME for thread in threading.enumerate())
