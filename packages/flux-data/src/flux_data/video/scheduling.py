"""Keeps encoders from taking a real-time priority.

For root, SVT-AV1 gives its threads and the calling thread the highest priority of SCHED_FIFO, which
they keep afterwards and pass on to every process that is started later.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

TASKS = Path("/proc/self/task")


class Restore(Protocol):
    """Undoes what an encoder has changed so far."""

    def __call__(self) -> None: ...


@contextmanager
def ordinary_scheduling() -> Iterator[Restore]:
    """Keeps the scheduling of this process's threads; new ones get that of the calling thread.

    Yields:
        A function to call once the encoder has started its threads. It is called at the end too.
    """
    if not TASKS.is_dir():
        yield lambda: None
        return
    usual = os.sched_getscheduler(0), os.sched_getparam(0)
    before: dict[int, int] = {}
    for thread in _threads():
        with suppress(ProcessLookupError):  # it has ended meanwhile
            before[thread] = os.sched_getscheduler(thread)

    def restore() -> None:
        for thread in _threads():
            with suppress(ProcessLookupError):
                changed = os.sched_getscheduler(thread) != before.get(thread, usual[0])
                if changed:
                    os.sched_setscheduler(thread, *usual)

    try:
        yield restore
    finally:
        restore()


def _threads() -> list[int]:
    return [int(task.name) for task in TASKS.iterdir()]
