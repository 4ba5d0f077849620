"""The thread that infers: one request after the other, until it is stopped or fails."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flux_runtime.serve.scheduler import Dropped, Job, Scheduler
from flux_runtime.serve.worker import Worker


class _Desk:
    """A worker whose inferences wait until they are told to end."""

    def __init__(self, work: Callable[[Job], object]) -> None:
        self.delivered: queue.Queue[tuple[object, object]] = queue.Queue()
        self.dropped: queue.Queue[list[Dropped]] = queue.Queue()
        self.ended: queue.Queue[BaseException | None] = queue.Queue()
        self.now_s = 0.0
        self.worker = Worker(
            Scheduler(10),
            work=work,
            deliver=lambda job, result: self.delivered.put((job.client, result)),
            deliver_dropped=lambda dropped: self.dropped.put(list(dropped)),
            on_end=self.ended.put,
            now_s=lambda: self.now_s,
        )
        self.worker.start()


@contextmanager
def _desk(work: Callable[[Job], object]) -> Iterator[_Desk]:
    desk = _Desk(work)
    yield desk
    assert desk.worker.stop(30)


def test_requests_are_inferred_and_delivered() -> None:
    with _desk(lambda job: f"chunk of {job.client}") as desk:
        for client in "ab":
            assert desk.worker.add(Job(client=client, deadline_s=1.0)) == []
            assert desk.delivered.get(timeout=30) == (client, f"chunk of {client}")
    assert desk.ended.get(timeout=30) is None and desk.worker.is_idle


def test_while_one_runs_others_wait_and_the_time_is_told() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(job: Job) -> object:
        begun.set()
        assert go_on.wait(30)
        return None

    with _desk(work) as desk:
        desk.worker.add(Job(client="a", deadline_s=1.0))
        assert begun.wait(30)
        desk.now_s = 3.0
        assert desk.worker.busy_s == 3.0
        desk.worker.add(Job(client="b", deadline_s=2.0, expires=True))
        left = Job(client="c", deadline_s=9.0)
        desk.worker.add(left)
        assert desk.worker.forget("c") is left
        assert desk.worker.num_waiting == 1 and not desk.worker.is_idle
        go_on.set()
        (late,) = desk.dropped.get(timeout=30)
        assert (late.job.client, late.kind) == ("b", "late")
        assert desk.delivered.get(timeout=30)[0] == "a"


def test_a_running_inference_that_does_not_end_is_not_waited_for() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(job: Job) -> object:
        begun.set()
        return go_on.wait(30)

    desk = _Desk(work)
    desk.worker.add(Job(client="a", deadline_s=1.0))
    assert begun.wait(30)
    assert not desk.worker.stop(0.05)
    go_on.set()
    assert desk.worker.stop(30)


def test_a_worker_that_fails_says_so() -> None:
    def work(job: Job) -> object:
        raise MemoryError

    desk = _Desk(work)
    desk.worker.add(Job(client="a", deadline_s=1.0))
    assert isinstance(desk.ended.get(timeout=30), MemoryError)
