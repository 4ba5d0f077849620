"""Stamps of other clocks on `time.monotonic()`: measured offsets, jumps, a shared clock."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from flux_driver.clocks.stamps import RELEARN_S, WINDOW_S, StampClock

WALL_S = 1_700_000_000.0
"""What `time.time()` says when `time.monotonic()` says 0."""
FRAME_S = 1 / 30


class Sender:
    """Sends stamped messages over a way of some length, and keeps what the clock makes of them."""

    def __init__(self, is_local: bool | None, ahead_s: float = 0.0) -> None:
        self.clock = StampClock("/topic", is_local, lambda: -WALL_S)
        self.ahead_s = ahead_s
        self.now_s = 100.0
        self.texts: list[str] = []

    def send(self, way_s: float, after_s: float = FRAME_S) -> float | None:
        """Returns how much later than its capture a message is dated; None if it is ignored."""
        self.now_s += after_s
        captured_s = self.now_s
        stamp_s = captured_s + WALL_S + self.ahead_s
        dated_s = self.clock.time_s(stamp_s, captured_s + way_s)
        self.texts += [text for _, text in self.clock.take_warnings()]
        return None if dated_s is None else dated_s - captured_s


@pytest.mark.parametrize("is_local", [True, None])
def test_with_a_shared_clock_the_way_counts(is_local: bool | None) -> None:
    sender = Sender(is_local)

    late = [sender.send(way_s) for way_s in (0.05, 0.02, 0.2)]

    assert late == pytest.approx([0, 0, 0], abs=1e-6)
    assert sender.clock.is_shared
    assert sender.texts == []


@pytest.mark.parametrize("ahead_s", [7.0, -7.0, 0.2, -3600.0])
def test_the_offset_of_another_machine_is_the_shortest_way_seen(ahead_s: float) -> None:
    sender = Sender(False, ahead_s)

    late = [sender.send(way_s) for way_s in (0.05, 0.02, 0.2, 0.03)]

    assert late == pytest.approx([0.05, 0.02, 0.02, 0.02], abs=1e-6)
    assert len(sender.texts) == 1
    side = "ahead of" if ahead_s > 0 else "behind"
    assert f"s {side} this machine's: the difference is measured" in sender.texts[0]


@pytest.mark.parametrize("ahead_s", [3.0, -3.0, -1e9])  # the last counts from its start
def test_a_stamp_of_another_clock_is_noticed_although_the_sender_is_here(ahead_s: float) -> None:
    sender = Sender(True, ahead_s)

    assert sender.send(0.02) == pytest.approx(0.02, abs=1e-6)
    assert not sender.clock.is_shared


def test_a_drifting_clock_is_followed() -> None:
    sender = Sender(False, ahead_s=3.0)
    late = []
    for _ in range(3000):  # 100 s
        sender.ahead_s += 50e-6 * FRAME_S
        late.append(sender.send(0.02))

    assert np.abs(np.array(late) - 0.02).max() < 50e-6 * WINDOW_S + 1e-6


@pytest.mark.parametrize("is_local", [True, False, None])
def test_a_stamp_before_the_last_one_is_ignored_and_told(is_local: bool | None) -> None:
    sender = Sender(is_local)
    sender.send(0.01)
    sender.ahead_s = -5.0
    assert sender.send(0.01) is None
    sender.ahead_s = 0.0

    assert sender.send(0.01) == pytest.approx(0 if is_local is not False else 0.01, abs=1e-6)
    assert ["a stamp is 4.967 s before the one before it" in text for text in sender.texts] == [
        True
    ]


@pytest.mark.parametrize("is_local", [True, False, None])
@pytest.mark.parametrize("back_s", [1.0, 5.0])
def test_stamps_that_stay_behind_are_learnt_anew(is_local: bool | None, back_s: float) -> None:
    sender = Sender(is_local)
    sender.send(0.01)
    sender.ahead_s = -back_s

    late = [sender.send(0.01) for _ in range(round(1 / FRAME_S))]

    ignored = sum(found is None for found in late)
    assert RELEARN_S <= ignored * FRAME_S < RELEARN_S + 2 * FRAME_S
    accepted = [found for found in late if found is not None]
    assert accepted[-1] <= 0.01 + 1e-6
    assert any("for good: learnt anew" in text for text in sender.texts)


def test_stamps_that_jump_ahead_are_dated_by_their_arrival() -> None:
    sender = Sender(False)
    sender.send(0.01)
    sender.ahead_s = 5.0

    assert sender.send(0.02) == pytest.approx(0.02, abs=1e-6)
    assert sender.send(0.05) == pytest.approx(0.02, abs=1e-6)
    assert any("jumped ahead by 4.99" in text for text in sender.texts)


def test_without_a_stamp_the_arrival_counts() -> None:
    clock = StampClock("/topic", None, lambda: -WALL_S)

    assert [clock.time_s(0.0, at_s) for at_s in (3.0, 4.0)] == [3.0, 4.0]
    assert len(clock.take_warnings()) == 1


def test_times_never_step_back_nor_lie_ahead_of_the_arrival() -> None:
    random = np.random.default_rng(0)
    for is_local, ahead_s in itertools.product((True, False, None), (0.0, 0.005, -0.3, 40.0)):
        sender = Sender(is_local, ahead_s)
        dated = []
        for _ in range(500):
            way_s = random.exponential(0.01)
            late = sender.send(way_s)
            assert late is not None
            assert late <= way_s + 1e-6
            dated.append(sender.now_s + late)
        assert np.diff(dated).min() >= 0
