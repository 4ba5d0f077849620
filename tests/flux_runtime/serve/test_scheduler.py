"""Who is next: deadlines, replacement, and fairness between robots."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from flux_runtime.serve.scheduler import Job, Scheduler


def _job(client: str, deadline_s: float = 1.0, *, expires: bool = False) -> Job:
    return Job(client=client, deadline_s=deadline_s, expires=expires)


def _clients(scheduler: Scheduler, count: int) -> list[str]:
    served = []
    for _ in range(count):
        job, _ = scheduler.next(0.0)
        assert job is not None
        scheduler.finished(job, 1.0)
        served.append(str(job.client))
    return served


def test_the_earliest_deadline_is_first() -> None:
    scheduler = Scheduler(10)
    for client, deadline_s in (("late", 3.0), ("early", 1.0), ("middle", 2.0)):
        assert scheduler.add(_job(client, deadline_s)) == []
    assert _clients(scheduler, 3) == ["early", "middle", "late"]
    assert scheduler.next(0.0) == (None, [])


def test_equal_deadlines_are_served_in_the_order_of_arrival() -> None:
    scheduler = Scheduler(10)
    for client in "bac":
        scheduler.add(_job(client))
    assert _clients(scheduler, 3) == ["b", "a", "c"]


def test_a_newer_request_replaces_the_older_one_of_its_client_alone() -> None:
    scheduler = Scheduler(10)
    old, new, other = _job("a"), _job("a"), _job("b")
    scheduler.add(old)
    scheduler.add(other)
    (dropped,) = scheduler.add(new)
    assert (dropped.job, dropped.kind) == (old, "replaced")
    assert [scheduler.next(0.0)[0], scheduler.next(0.0)[0]] == [new, other]


def test_beyond_the_limit_a_new_client_is_told_and_an_old_one_is_not() -> None:
    scheduler = Scheduler(2)
    scheduler.add(_job("a"))
    scheduler.add(_job("b"))
    refused = _job("c")
    (dropped,) = scheduler.add(refused)
    assert (dropped.job, dropped.kind) == (refused, "busy")
    (dropped,) = scheduler.add(_job("a"))
    assert dropped.kind == "replaced"
    assert len(scheduler) == 2


def test_only_requests_that_expire_are_dropped_after_their_deadline() -> None:
    scheduler = Scheduler(10)
    gone, patient = _job("a", 1.0, expires=True), _job("b", 1.0)
    scheduler.add(gone)
    scheduler.add(patient)
    job, late = scheduler.next(1.0)
    assert job is patient
    assert [(drop.job, drop.kind) for drop in late] == [(gone, "late")]


def test_a_client_with_short_deadlines_does_not_overtake_twice() -> None:
    scheduler = Scheduler(10)
    scheduler.add(_job("patient", 100.0))
    served = []
    for turn in range(4):
        scheduler.add(_job("hasty", 1.0 + turn))
        served += _clients(scheduler, 1)
    assert served == ["hasty", "patient", "hasty", "hasty"]


def test_a_client_that_replaces_its_request_keeps_its_place() -> None:
    scheduler = Scheduler(10)
    scheduler.add(_job("a", 100.0))
    scheduler.add(_job("b", 1.0))
    assert _clients(scheduler, 1) == ["b"]
    scheduler.add(_job("a", 100.0))
    scheduler.add(_job("b", 1.0))
    assert _clients(scheduler, 2) == ["a", "b"]


def test_a_client_that_has_left_is_forgotten() -> None:
    scheduler = Scheduler(10)
    job = _job("a")
    scheduler.add(job)
    assert scheduler.forget("a") is job
    assert scheduler.forget("a") is None
    assert scheduler.next(0.0) == (None, [])
    assert not vars(scheduler)["_claims"] and not vars(scheduler)["_served"]


def _served_s(clients: dict[str, tuple[str, float]], rounds: int) -> dict[str, float]:
    """Lets clients (name -> owner, seconds of a request) ask again at once; returns their time."""
    scheduler, taken = Scheduler(100), dict.fromkeys(clients, 0.0)
    for client, (owner, _) in clients.items():
        scheduler.add(Job(client=client, owner=owner, deadline_s=1.0))
    for step in range(rounds):
        job, _ = scheduler.next(0.0)
        assert job is not None
        client = str(job.client)
        taken[client] += clients[client][1]
        scheduler.finished(job, clients[client][1])
        scheduler.add(Job(client=client, owner=clients[client][0], deadline_s=2.0 + step))
    return taken


def test_an_owner_of_many_connections_gets_no_more_than_one_of_one() -> None:
    crowd = {f"crowd {number}": ("crowd", 0.01) for number in range(30)}
    taken = _served_s({**crowd, "robot": ("lab", 0.01)}, 2000)
    assert 9.5 < taken["robot"] < 10.5
    assert max(taken[name] for name in crowd) < 0.5


def test_who_asks_for_much_waits_for_those_who_ask_for_little() -> None:
    taken = _served_s({"slow": ("a", 0.8), "fast": ("b", 0.005)}, 5000)
    assert 0.5 < taken["slow"] / taken["fast"] < 2.0
    taken = _served_s({"slow": ("a", 0.8), "fast": ("a", 0.005)}, 5000)
    assert 0.5 < taken["slow"] / taken["fast"] < 2.0


def test_who_asks_seldom_is_served_at_once_beside_one_who_asks_always() -> None:
    scheduler = Scheduler(10)
    for step in range(200):
        scheduler.add(Job(client="greedy", owner="a", deadline_s=0.0))
        if step % 10 == 0:
            scheduler.add(Job(client="modest", owner="b", deadline_s=5.0))
        job, _ = scheduler.next(0.0)
        assert job is not None
        if step % 10 == 1:
            assert len(scheduler) <= 1
        scheduler.finished(job, 0.1 if job.client == "greedy" else 0.01)
    # Nobody saves up time: at most one service of the greedy one came before each of the modest's.
    assert len(scheduler) <= 1


def test_connecting_again_pays_nothing_off() -> None:
    scheduler = Scheduler(10)
    scheduler.add(Job(client="robot", owner="lab", deadline_s=1.0))
    first, _ = scheduler.next(0.0)
    assert first is not None
    scheduler.finished(first, 0.01)
    order = []
    for number in range(40):
        scheduler.add(Job(client=number, owner="crowd", deadline_s=0.0))
        scheduler.add(Job(client="robot", owner="lab", deadline_s=1.0))
        job, _ = scheduler.next(0.0)
        assert job is not None
        scheduler.finished(job, 1.0 if job.owner == "crowd" else 0.01)
        order.append(job.owner)
        scheduler.forget(number)
    assert order.count("crowd") <= 2


@dataclass
class _Waiting:
    """A client's request, and whose services it has seen since it arrived."""

    seen: list[str] = field(default_factory=list[str])


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from("abcd"), st.floats(0, 10)),
            st.just("begin"),
            st.just("end"),
        ),
        max_size=200,
    ),
    st.booleans(),
)
def test_nobody_waits_longer_than_one_service_of_each_other_client(
    steps: list[object], have_one_owner: bool
) -> None:
    scheduler = Scheduler(4)
    waiting: dict[str, _Waiting] = {}
    running: Job | None = None
    for step in steps:
        if isinstance(step, tuple):
            client, deadline_s = step
            owner = "lab" if have_one_owner else client
            scheduler.add(Job(client=client, owner=owner, deadline_s=deadline_s))
            entry = waiting.setdefault(client, _Waiting())
            if running is not None and running.client != client and not entry.seen:
                entry.seen.append(str(running.client))
        elif step == "begin" and running is None:
            running, late = scheduler.next(0.0)
            assert not late
            # Whoever waits is served: nobody is blocked by others for ever.
            assert (running is None) == (not waiting)
            if running is None:
                continue
            entry = waiting.pop(str(running.client))
            assert len(entry.seen) == len(set(entry.seen)), entry.seen
            for other in waiting.values():
                other.seen.append(str(running.client))
        elif step == "end" and running is not None:
            scheduler.finished(running, 1.0)
            running = None
