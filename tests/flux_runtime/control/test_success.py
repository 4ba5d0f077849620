"""Success within an episode, and the interval of a success rate."""

from __future__ import annotations

import pytest

from flux_runtime.control.success import STRICT_HOLD_TICKS, SuccessWatch, wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials"), [(0, 1), (1, 1), (0, 20), (20, 20), (13, 20), (1, 1000), (87, 100)]
)
def test_the_interval_matches_scipys_wilson_interval(successes: int, trials: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx(tuple(expected), abs=1e-12)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= successes"):
        wilson_interval(successes, trials)


def watch_after(*ticks: tuple[bool, bool]) -> SuccessWatch:
    """Returns a watch that has seen (transferred, held_by_left_only) for each tick."""
    watch = SuccessWatch(success_stage="transferred", end_state="held_by_left_only")
    for transferred, held in ticks:
        watch.update({"transferred": transferred, "held_by_left_only": held})
    return watch


def test_a_hand_over_that_is_held_long_enough_is_a_strict_success() -> None:
    watch = watch_after(*[(True, True)] * STRICT_HOLD_TICKS)
    assert watch.success
    assert watch.strict_success


def test_dropping_the_cube_again_is_not_a_strict_success() -> None:
    held = [(True, True)] * (STRICT_HOLD_TICKS - 1)
    assert not watch_after(*held).strict_success
    dropped = watch_after(*held, (True, False))
    assert dropped.success
    assert not dropped.strict_success
    assert not watch_after(*held, (True, False), (True, True)).strict_success


def test_the_end_state_does_not_count_before_the_task_is_done() -> None:
    watch = watch_after(*[(False, True)] * (2 * STRICT_HOLD_TICKS))
    assert not watch.success
    assert not watch.strict_success


def test_nothing_is_known_before_the_first_tick() -> None:
    assert not watch_after().success
