"""SIGTERM and Ctrl-C as a wish to stop at the end of the step."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT)

PASSED_ON_S = 10.0
"""A SIGTERM so soon after a signal is the same wish, passed on by a launcher (slurm signals every
process of a job, and torchrun then signals its workers)."""
PASSED_ON_CTRL_C_S = 2.0
"""A Ctrl-C reaches torchrun's workers from the terminal, and at once again from torchrun."""


class StopSignals:
    """Within its `with`, the first signal is remembered in `received`; one that insists acts.

    A second Ctrl-C insists. A second SIGTERM does after `PASSED_ON_S`, but never under torchrun,
    which sends one by itself: a save that is under way must not be cut off by it.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.received: signal.Signals | None = None
        self._received_s = 0.0
        self._clock = clock
        self._is_launched = "TORCHELASTIC_RUN_ID" in environment
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in STOPPING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._restore()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._received_s = signal.Signals(number), self._clock()
        elif self._insists(number):
            self._restore()
            signal.raise_signal(number)

    def _insists(self, number: int) -> bool:
        """Whether a signal is a second wish, and not the first one passed on."""
        since_s = self._clock() - self._received_s
        if number == signal.SIGINT:
            return not self._is_launched or since_s >= PASSED_ON_CTRL_C_S
        return not self._is_launched and since_s >= PASSED_ON_S

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
