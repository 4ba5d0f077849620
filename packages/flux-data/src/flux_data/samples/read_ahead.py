"""Makes samples in threads of this process.

Decoding, resizing and stacking release the interpreter's lock, so threads scale like processes,
but nothing has to be copied between them.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from .frame_source import use_own_decoders

Batch = TypeVar("Batch")

BATCHES_AHEAD = 3
"""Enough to keep the threads busy; more would only use memory."""

MAX_THREADS = 8
"""The threads for the samples of one batch if a loader has no workers."""


class SampleSource(Protocol):
    """A dataset that several threads use at once."""

    def __getitem__(self, draw: int, /) -> dict[str, Any]: ...


def batches_ahead(
    dataset: SampleSource,
    batches: Iterable[Sequence[int]],
    collate: Callable[[list[dict[str, Any]]], Batch],
    threads: int,
) -> Iterator[Batch]:
    """Yields `collate([dataset[draw] for draw in batch])` for every batch, in order.

    The threads share the samples of a batch, so the first batch is soon ready and few batches are
    in memory. An error in a sample is raised here when it is its batch's turn.
    """
    pool = ThreadPoolExecutor(threads, "sample", initializer=use_own_decoders)
    collator = ThreadPoolExecutor(1, "collate")
    waiting: deque[Future[Batch]] = deque()

    def finish(samples: list[Future[dict[str, Any]]]) -> Batch:
        return collate([sample.result() for sample in samples])

    try:
        for draws in batches:
            samples = [pool.submit(dataset.__getitem__, draw) for draw in draws]
            waiting.append(collator.submit(finish, samples))
            if len(waiting) > BATCHES_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        collator.shutdown(wait=False, cancel_futures=True)


def make_samples(
    make: Callable[[int], dict[str, Any]], draws: Sequence[int]
) -> list[dict[str, Any]]:
    """Makes the samples of a batch in parallel, or one by one in a loader's worker."""
    is_process = multiprocessing.parent_process() is not None
    if is_process or threading.current_thread() is not threading.main_thread():
        return [make(draw) for draw in draws]
    return list(_pool(os.getpid()).map(make, draws))


@functools.lru_cache(maxsize=1)
def _pool(pid: int) -> ThreadPoolExecutor:
    """Returns the pool of this process; `pid` makes a forked child start its own."""
    del pid
    threads = min(len(os.sched_getaffinity(0)), MAX_THREADS)
    return ThreadPoolExecutor(threads, "sample", initializer=use_own_decoders)
