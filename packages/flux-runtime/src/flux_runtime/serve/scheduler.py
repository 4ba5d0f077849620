"""Which request is inferred next: the earliest deadline, but nobody twice while another waits."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal

DropKind = Literal["replaced", "busy", "late"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A request that waits to be inferred.

    Attributes:
        client: who asks; one robot.
        deadline_s: on the server's monotonic clock; the earliest is served first.
        expires: whether the request is worth nothing after its deadline.
        payload: what is needed to infer and to answer it.
    """

    client: Hashable
    deadline_s: float
    expires: bool = False
    payload: Any = None


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A request that will not be inferred, and why."""

    job: Job
    kind: DropKind


class Scheduler:
    """Chooses among the waiting requests, at most one of each client.

    - A newer request of a client replaces its older one.
    - A client that was served since another one's request arrived waits for that one. So nobody
      waits longer than one service of each other client.
    - Among the others, the earliest deadline is first; of equal deadlines, the oldest request.

    It has no clock and no lock: one thread at a time.

    Args:
        max_waiting: how many requests may wait; further clients are told that the server is busy.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._waiting: dict[Hashable, Job] = {}
        self._events = 0
        # By client, in numbers of events: when its first unserved request arrived, and when it was
        # last served. A claim outlives requests that were replaced or came too late.
        self._claims: dict[Hashable, int] = {}
        self._served: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, job: Job) -> list[Dropped]:
        """Adds a request; returns those that are dropped for it, or itself if there is no room."""
        older = self._waiting.get(job.client)
        if older is None and len(self._waiting) >= self._max_waiting:
            return [Dropped(job=job, kind="busy")]
        self._waiting[job.client] = job
        self._claims.setdefault(job.client, self._next_event())
        return [] if older is None else [Dropped(job=older, kind="replaced")]

    def next(self, now_s: float) -> tuple[Job | None, list[Dropped]]:
        """Returns the request to infer now, if any, and those that have expired meanwhile.

        The caller says with `finished` when it has been inferred.
        """
        late = [job for job in self._waiting.values() if job.expires and job.deadline_s <= now_s]
        for job in late:
            del self._waiting[job.client]
        job = min(self._eligible(), key=self._order, default=None)
        if job is not None:
            del self._waiting[job.client]
            del self._claims[job.client]
            self._served[job.client] = self._next_event()
        return job, [Dropped(job=job, kind="late") for job in late]

    def finished(self, job: Job) -> None:
        """Says that a request has been inferred, well or not."""
        if job.client in self._served:
            self._served[job.client] = self._next_event()

    def forget(self, client: Hashable) -> Job | None:
        """Removes a client that has left; returns its waiting request."""
        self._claims.pop(client, None)
        self._served.pop(client, None)
        return self._waiting.pop(client, None)

    def _eligible(self) -> list[Job]:
        """Returns the waiting requests of clients that need not wait for another one first."""
        if len(self._waiting) < 2:
            return list(self._waiting.values())
        oldest, second = sorted(self._claims[client] for client in self._waiting)[:2]
        return [
            job
            for client, job in self._waiting.items()
            if self._served.get(client, -1) < (oldest if self._claims[client] != oldest else second)
        ]

    def _order(self, job: Job) -> tuple[float, int]:
        return job.deadline_s, self._claims[job.client]

    def _next_event(self) -> int:
        self._events += 1
        return self._events
