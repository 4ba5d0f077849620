"""Treats SIGTERM and Ctrl-C as a request to stop at the end of the step."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT)

FORWARDED_S = 10.0
"""A SIGTERM this soon after another signal is the same request, forwarded by a launcher (slurm
signals every process of a job, and torchrun then signals its workers)."""
FORWARDED_CTRL_C_S = 2.0
"""Under torchrun a Ctrl-C reaches the workers from the terminal and then from torchrun."""


class StopSignals:
    """Inside the `with` block the first signal is only recorded; a repeated one takes effect.

    A second Ctrl-C counts as repeated. A second SIGTERM does after `FORWARDED_S`, but never under
    torchrun, which sends one itself: it must not interrupt a save.
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
        elif self._is_repeated(number):
            self._restore()
            signal.raise_signal(number)

    def _is_repeated(self, number: int) -> bool:
        """Whether a signal is a second request and not the first one forwarded."""
        since_s = self._clock() - self._received_s
        if number == signal.SIGINT:
            return not self._is_launched or since_s >= FORWARDED_CTRL_C_S
        return not self._is_launched and since_s >= FORWARDED_S

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
