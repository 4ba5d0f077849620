"""The thread that infers, one request at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from ..realtime.inference_thread import THREAD_NAME
from .scheduler import Dropped, Job, Scheduler

WAITED_SHARE = 0.1
"""Of the newest request in how long a request usually waits."""


class Worker:
    """Takes the scheduler's next request as soon as the last one is finished.

    The thread's name is that of a run: the process does not wait for a stuck inference.

    Args:
        scheduler: used by nobody else.
        work: infers a request; raises nothing.
        deliver: called on the worker's thread with a request and what `work` returned.
        deliver_dropped: likewise, with requests that expired.
        on_end: called on the worker's thread when it ends, with the fault that ended it, if any.
        now_s: a monotonic clock.
        cpu_s: the processor time of the calling thread.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        work: Callable[[Job], Any],
        deliver: Callable[[Job, Any], None],
        deliver_dropped: Callable[[Sequence[Dropped]], None],
        on_end: Callable[[BaseException | None], None] = lambda fault: None,
        now_s: Callable[[], float] = time.monotonic,
        cpu_s: Callable[[], float] = time.thread_time,
    ) -> None:
        self._scheduler = scheduler
        self._work, self._deliver, self._deliver_dropped = work, deliver, deliver_dropped
        self._now_s, self._cpu_s, self._on_end = now_s, cpu_s, on_end
        self._waited_s = 0.0
        self._changed = threading.Condition()
        self._is_stopping = False
        self._running: Job | None = None
        self._began_s = 0.0
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def add(self, job: Job) -> list[Dropped]:
        """Adds a request; returns what is dropped for it."""
        with self._changed:
            dropped = self._scheduler.add(job)
            self._changed.notify()
        return dropped

    def forget(self, client: Hashable) -> Job | None:
        """Removes a client that has left; returns the request that it left waiting."""
        with self._changed:
            return self._scheduler.forget(client)

    @property
    def num_waiting(self) -> int:
        """Requests that wait."""
        return len(self._scheduler)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        with self._changed:
            return self._running is None and not len(self._scheduler)

    @property
    def busy_s(self) -> float:
        """How long the running inference takes already; 0 if none runs."""
        return 0.0 if self._running is None else self._now_s() - self._began_s

    def stop(self, timeout_s: float) -> bool:
        """Ends the thread after the running inference; returns whether it has ended."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        fault: BaseException | None = None
        try:
            while (job := self._next()) is not None:
                began_cpu_s = self._cpu_s()
                result = self._work(job)
                taken_s = self._taken_s(self._cpu_s() - began_cpu_s)
                with self._changed:
                    self._scheduler.finished(job, taken_s)
                self._deliver(job, result)
                self._running = None
        except BaseException as error:  # noqa: BLE001 - whoever started the thread is told
            fault = error
        self._on_end(fault)

    def _taken_s(self, cpu_s: float) -> float:
        """Returns what the finished request counts as.

        The same inference takes equally long for everyone, so what the thread waited for, such as a
        card or a machine that stood still, is shared by all. What it computed itself depends on the
        request, such as the size of its pictures.
        """
        waited_s = max(0.0, self._now_s() - self._began_s - cpu_s)
        self._waited_s += WAITED_SHARE * (waited_s - self._waited_s)
        return cpu_s + self._waited_s

    def _next(self) -> Job | None:
        """Waits for a request; returns None when the worker is to stop."""
        while True:
            with self._changed:
                if self._is_stopping:
                    return None
                job, late = self._scheduler.next(self._now_s())
                if job is None and not late:
                    self._changed.wait()
                    continue
                self._running, self._began_s = job, self._now_s()
            if late:
                self._deliver_dropped(late)
            if job is not None:
                return job
