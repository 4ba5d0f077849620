"""What one client may take: its rate, the bytes that it holds, and its connections."""

from __future__ import annotations

from typing import Any

import pytest

from flux_runtime.serve.admission import (
    ByteBudget,
    ConnectionPlaces,
    Peer,
    RequestRate,
    client_address,
)


def _sent(rate: RequestRate, count: int, now_s: float) -> int:
    """Returns how many of so many requests at once are taken."""
    return sum(rate.wait_s(1.0, now_s) == 0.0 for _ in range(count))


def test_a_client_within_its_rate_never_waits() -> None:
    rate = RequestRate(50.0)
    assert all(rate.wait_s(1.0, step / 50.0) == 0.0 for step in range(1000))


def test_a_burst_is_taken_and_then_the_client_waits_for_a_second() -> None:
    rate = RequestRate(100.0)
    assert _sent(rate, 1, 0.0) == 1
    assert _sent(rate, 60, 100.0) == 50
    assert rate.wait_s(1.0, 100.25) == 0.75
    assert rate.wait_s(1.0, 101.0) == 0.0


def test_a_new_connection_may_send_less_at_once() -> None:
    rate = RequestRate(100.0)
    assert _sent(rate, 60, 0.0) == 10
    assert rate.wait_s(1.0, 0.25) == 0.75
    assert rate.wait_s(1.0, 1.0) == 0.0


def test_pauses_grow_while_a_client_goes_on_and_are_forgiven_later() -> None:
    rate, now_s, pauses = RequestRate(100.0), 0.0, []
    for _ in range(6):
        while (wait_s := rate.wait_s(1.0, now_s)) == 0.0:
            pass
        pauses.append(wait_s)
        now_s += wait_s
    assert pauses == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    now_s += 11.0
    while (wait_s := rate.wait_s(1.0, now_s)) == 0.0:
        pass
    assert wait_s == 1.0


def test_a_flood_is_read_for_a_small_share_of_its_requests() -> None:
    rate, now_s, taken = RequestRate(100.0), 0.0, 0
    while now_s < 60.0:
        if wait_s := rate.wait_s(1.0, now_s):
            now_s += wait_s
        else:
            taken += 1
            now_s += 1e-4
    assert taken < 60 * 10


def test_requests_that_were_answered_do_not_count() -> None:
    rate = RequestRate(10.0)
    for step in range(1000):
        assert rate.wait_s(1.0, step * 1e-3) == 0.0
        rate.charge(3.0)
        rate.give_back(4.0)


def test_large_requests_without_an_answer_cost_more() -> None:
    rate = RequestRate(100.0)
    assert rate.wait_s(1.0, 0.0) == 0.0
    rate.charge(32.0)
    assert rate.wait_s(1.0, 0.0) == 1.0


class _Connection:
    def __init__(self, owner: Any) -> None:
        self.owner, self.held, self.is_shed = owner, 0, False

    def shed(self) -> None:
        self.is_shed = True


def test_the_connection_that_holds_most_is_given_up_and_not_a_small_one() -> None:
    budget = ByteBudget(100, 100)
    small, large = _Connection("a"), _Connection("b")
    budget.take(large, 80)
    budget.take(small, 15)
    assert not large.is_shed
    budget.take(small, 10)
    assert large.is_shed and not small.is_shed
    assert (budget.held, large.held, small.held) == (25, 0, 25)


def test_the_connections_of_one_client_share_a_part() -> None:
    budget = ByteBudget(100, 50)
    first, second, other = _Connection("a"), _Connection("a"), _Connection("b")
    budget.take(other, 45)
    budget.take(first, 30)
    budget.take(second, 25)
    assert first.is_shed and not second.is_shed and not other.is_shed


def test_bytes_are_given_back_once() -> None:
    budget = ByteBudget(100, 100)
    one = _Connection("a")
    budget.take(one, 40)
    budget.give(one, 40)
    budget.give(one, 40)
    assert budget.held == one.held == 0


class _Crowd:
    """Connections that are accepted and never opened."""

    def __init__(self, most: int) -> None:
        self.kinds: list[str] = []
        self.closed: list[Peer] = []
        self.now_s = 0.0
        self.places = ConnectionPlaces(
            most, lambda kind, address: self.kinds.append(kind), now_s=lambda: self.now_s
        )

    def come(self, host: str, port: int) -> bool:
        peer = (host, port)
        return self.places.take(peer, lambda: self.closed.append(peer))


def test_the_oldest_of_the_address_that_has_most_makes_room() -> None:
    crowd = _Crowd(4)
    assert crowd.come("10.0.0.9", 1)  # a robot
    for port in range(10):
        assert crowd.come("10.0.0.1", port)
    assert crowd.closed == [("10.0.0.1", port) for port in range(7)]
    assert crowd.come("10.0.0.8", 2)  # another robot
    assert ("10.0.0.9", 1) not in crowd.closed and len(crowd.places) == 4
    assert set(crowd.kinds) == {"crowded"}


def test_an_open_or_closed_connection_leaves_its_place() -> None:
    crowd = _Crowd(2)
    for port in range(5):
        crowd.come("10.0.0.1", port)
        crowd.places.give(("10.0.0.1", port))
    assert len(crowd.places) == 0 and not crowd.closed


def test_an_address_may_not_connect_again_and_again() -> None:
    crowd = _Crowd(1000)
    assert sum(crowd.come("10.0.0.1", port) for port in range(300)) == 200
    assert set(crowd.kinds) == {"connecting_too_fast"}
    assert crowd.come("10.0.0.2", 1)
    crowd.now_s = 0.1
    assert sum(crowd.come("10.0.0.1", 300 + port) for port in range(300)) == 5


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_a_client_with_many_addresses_is_one(host: str, counted: str) -> None:
    assert client_address(host) == counted
