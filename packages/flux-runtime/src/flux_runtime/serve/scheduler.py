"""Which request is inferred next: the earliest deadline, but nobody twice while another waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

TOLERANCE = 1.5
"""In services: so far ahead of the others an owner or client is not asked to wait for them."""
USUAL_SHARE = 0.1
"""Of the newest service in what a client usually takes."""
MOST_REMEMBERED = 256
DropKind = Literal["replaced", "busy", "late"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A request that waits to be inferred.

    Attributes:
        client: who asks; one robot, on one connection.
        owner: whose robot that is: an address and a token. None: its own.
        deadline_s: on the server's monotonic clock; the earliest is served first.
        expires: whether the request is worth nothing after its deadline.
        payload: what is needed to infer and to answer it.
    """

    client: Hashable
    owner: Hashable = None
    deadline_s: float
    expires: bool = False
    payload: Any = None


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A request that will not be inferred, and why."""

    job: Job
    kind: DropKind


class _Shares:
    """How much time each of several users has taken, as start-time fair queueing counts it.

    Who comes back after a pause begins where the others are: nobody saves up time.
    """

    def __init__(self) -> None:
        self._taken_s: dict[Hashable, float] = {}
        self._usual_s: dict[Hashable, float] = {}
        self._now_s = 0.0

    def come(self, user: Hashable) -> None:
        """Says that a user begins to wait."""
        self._taken_s[user] = max(self._taken_s.get(user, 0.0), self._now_s)

    def begin(self, users: Iterable[Hashable]) -> None:
        """Says that one of those who wait is served."""
        self._now_s = max(self._now_s, min(self._taken_s[user] for user in users))

    def take(self, user: Hashable, time_s: float) -> None:
        """Adds the time of a service."""
        if user in self._taken_s:
            self._taken_s[user] += time_s
            usual_s = self._usual_s.get(user, time_s)
            self._usual_s[user] = usual_s + USUAL_SHARE * (time_s - usual_s)

    def forget(self, user: Hashable) -> None:
        """Removes a user."""
        self._taken_s.pop(user, None)
        self._usual_s.pop(user, None)

    def entitled(self, users: Iterable[Hashable]) -> set[Hashable]:
        """Returns those who have not taken much more than the one who has taken least.

        Much is what the most modest of them usually takes a few times.
        """
        waiting = set(users)
        least_s = min((self._taken_s[user] for user in waiting), default=0.0)
        modest_s = min((self._usual_s.get(user, 0.0) for user in waiting), default=0.0)
        return {user for user in waiting if self._taken_s[user] <= least_s + TOLERANCE * modest_s}


class Scheduler:
    """Chooses among the waiting requests, at most one of each client.

    - A newer request of a client replaces its older one.
    - An owner who has taken more of the policy's time than another one waits for that one, and so
      does a client among those of one owner.
    - A client that was served since another one's request arrived waits for that one. So nobody
      waits longer than one service of each other client.
    - Among the others, the earliest deadline is first; of equal deadlines, the oldest request.

    It has no clock and no lock: one thread at a time.

    Args:
        max_waiting: how many requests may wait; any more are refused as `busy`.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._waiting: dict[Hashable, Job] = {}
        self._events = 0
        # By client, in numbers of events: when its first unserved request arrived, and when it was
        # last served. A claim outlives requests that were replaced or came too late.
        self._claims: dict[Hashable, int] = {}
        self._served: dict[Hashable, int] = {}
        self._owners, self._clients = _Shares(), _Shares()
        # Who is known: client -> owner, and how many clients an owner has.
        self._known: dict[Hashable, Hashable] = {}
        self._clients_of: Counter[Hashable] = Counter()
        self._left: dict[Hashable, None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, job: Job) -> list[Dropped]:
        """Adds a request; returns those that are dropped for it, or itself if there is no room."""
        older = self._waiting.get(job.client)
        if older is None and len(self._waiting) >= self._max_waiting:
            return [Dropped(job=job, kind="busy")]
        if older is None:
            owner = _owner(job)
            self._clients_of[owner] += job.client not in self._known
            self._known[job.client] = owner
            if all(_owner(other) != owner for other in self._waiting.values()):
                self._owners.come(owner)
            self._clients.come(job.client)
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
            self._owners.begin(map(_owner, self._waiting.values()))
            self._clients.begin(self._waiting)
            del self._waiting[job.client]
            del self._claims[job.client]
            self._served[job.client] = self._next_event()
        return job, [Dropped(job=job, kind="late") for job in late]

    def finished(self, job: Job, time_s: float) -> None:
        """Says that a request has been inferred, well or not, and how long that took."""
        self._owners.take(_owner(job), time_s)
        self._clients.take(job.client, time_s)
        if job.client in self._served:
            self._served[job.client] = self._next_event()

    def forget(self, client: Hashable) -> Job | None:
        """Removes a client that has left; returns its waiting request."""
        self._claims.pop(client, None)
        self._served.pop(client, None)
        self._clients.forget(client)
        owner = self._known.pop(client, None)
        if owner is not None:
            self._clients_of[owner] -= 1
            if not self._clients_of[owner]:
                # What it has taken is remembered for a while: connecting again pays nothing off.
                del self._clients_of[owner]
                self._left[owner] = None
                if len(self._left) > MOST_REMEMBERED:
                    gone = next(iter(self._left))
                    del self._left[gone]
                    if gone not in self._clients_of:
                        self._owners.forget(gone)
        return self._waiting.pop(client, None)

    def _eligible(self) -> list[Job]:
        """Returns the waiting requests of clients that need not wait for another one first."""
        waiting = list(self._waiting.values())
        owners = self._owners.entitled(_owner(job) for job in waiting)
        waiting = [job for job in waiting if _owner(job) in owners]
        clients = self._clients.entitled(job.client for job in waiting)
        waiting = [job for job in waiting if job.client in clients]
        if len(waiting) < 2:
            return waiting
        oldest, second = sorted(self._claims[job.client] for job in waiting)[:2]
        return [
            job
            for client, job in ((job.client, job) for job in waiting)
            if self._served.get(client, -1) < (oldest if self._claims[client] != oldest else second)
        ]

    def _order(self, job: Job) -> tuple[float, int]:
        return job.deadline_s, self._claims[job.client]

    def _next_event(self) -> int:
        self._events += 1
        return self._events


def _owner(job: Job) -> Hashable:
    return job.client if job.owner is None else job.owner
