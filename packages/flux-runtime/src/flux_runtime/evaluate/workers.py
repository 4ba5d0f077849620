"""Plays the episodes of an evaluation in this process or in several worker processes."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType

from flux_core.errors import RobotError

from .evaluator import EpisodeJob, Evaluator, Played
from .options import EvaluationOptions


class Workers:
    """Plays jobs; the results do not depend on the number of processes."""

    def __init__(self, options: EvaluationOptions) -> None:
        self._options = options
        self._evaluator: Evaluator | None = None
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        if self._options.workers == 1:
            self._evaluator = Evaluator(self._options)
        else:
            self._executor = ProcessPoolExecutor(
                self._options.workers,
                multiprocessing.get_context("spawn"),
                initializer=_initialize,
                initargs=(self._options,),
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._evaluator is not None:
            self._evaluator.close()
        if self._executor is not None:
            self._executor.shutdown(wait=error is None, cancel_futures=True)

    def play(self, jobs: Sequence[EpisodeJob]) -> Iterator[Played]:
        """Yields the episodes as they end.

        Raises:
            FluxError: the first error of any episode.
        """
        if self._evaluator is not None:
            yield from map(self._evaluator.play, jobs)
        elif self._executor is not None:
            yield from self._as_completed([self._executor.submit(_play, job) for job in jobs])

    def film(self, played: Sequence[Played]) -> list[bytes | None]:
        """Films finished episodes; see `Evaluator.film`."""
        if self._evaluator is not None:
            return [self._evaluator.film(episode) for episode in played]
        assert self._executor is not None
        return list(self._executor.map(_film, played))

    def _as_completed(self, futures: Sequence[Future[Played]]) -> Iterator[Played]:
        try:
            yield from (future.result() for future in as_completed(futures))
        except BrokenProcessPool as error:
            raise RobotError(
                f"--workers {self._options.workers}: a worker process died, probably because "
                f"memory ran out. Use fewer workers."
            ) from error


_evaluator: Evaluator | None = None
"""The evaluator of this worker process."""


def _initialize(options: EvaluationOptions) -> None:
    global _evaluator
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker without a traceback
    _evaluator = Evaluator(options)


def _play(job: EpisodeJob) -> Played:
    assert _evaluator is not None
    return _evaluator.play(job)


def _film(played: Played) -> bytes | None:
    assert _evaluator is not None
    return _evaluator.film(played)
