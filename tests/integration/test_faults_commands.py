"""Faults of the start pose, of chunks, of the sink and of the arm, against an arm of its own."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from .conftest import Outcomes
from .fake_arm.judge import time_to_rest_s
from .fake_arm.policy import FAILING, HUGE, LEFT, NAN, RIGHT, SHORT, SLOW, ZIGZAG
from .fake_arm.promises import (
    PERIOD_S,
    REST_S,
    ROUGHLY_S,
    assert_ended_by,
    assert_kept,
    assert_no_gap,
    assert_refused,
    assert_stopped,
    assert_went_on,
    events,
    recorded,
)
from .fake_arm.runs import PROGRAM, Scenario, limits_of

AT = 0.8
HOLD_S = 0.6
HOLD = ("--hold-for", f"{HOLD_S}")
DISK_S = 0.8
SLOW_DISK = f"import os, time\nos.fsync = lambda file: time.sleep({DISK_S})\n"
UPPER = 1.25
TIGHTER = 0.4


def _fault(kind: str, **more: object) -> Scenario:
    return Scenario(faults=[{"kind": kind, "at": AT, **more}], arguments=HOLD)


def _picture(*brightness: int, **more: object) -> Scenario:
    return _fault("picture", brightness=list(brightness), **more)


SCENARIOS = {
    "degrees": Scenario(faults=[{"kind": "state_degrees"}], start=(0.5, 0.3, 0.5)),
    "degrees, dry run": Scenario(
        faults=[{"kind": "state_degrees"}], start=(0.5, 0.3, 0.5), arguments=("--dry-run",)
    ),
    "far outside": Scenario(start=(UPPER + 0.4, 0.0, 0.5)),
    "slightly outside": Scenario(start=(UPPER + 0.03, 0.0, 0.5)),
    "slightly outside, confirmed": Scenario(
        start=(TIGHTER + 0.03, 0.0, 0.5),
        arguments=("--return-to-limits", "--limit", f"shoulder=-1.85:{TIGHTER}"),
        steps=100,
    ),
    "leaves its limits": _fault("state_outside", by=0.2),
    "other order": Scenario(faults=[{"kind": "state_order"}], arguments=HOLD),
    "NaN": _picture(NAN),
    "one NaN": _picture(NAN, **{"for": 0.2}),
    "constant 1e6": _picture(HUGE),
    "alternating": _picture(LEFT, RIGHT, every=0.4),
    "zigzag": _picture(ZIGZAG),
    "slow policy": Scenario(
        faults=[{"kind": "picture", "brightness": [SLOW]}],
        arguments=("--hold-for", "3", "--mode", "sync"),
        horizon=SHORT,
        steps=100,
    ),
    "slow policy, asynchronous": Scenario(
        faults=[{"kind": "picture", "brightness": [SLOW], "at": AT}],
        arguments=("--hold-for", "3"),
        horizon=SHORT,
        steps=400,
    ),
    "failing": _picture(FAILING),
    "failing once": _picture(FAILING, **{"for": 0.3}),
    "standing start": Scenario(steps=40),
    "blocked": _fault("blocked", joint=0),
    "sink slow": _fault("send_slow", seconds=0.2),
    "sink blocks": _fault("send_never"),
    "sink raises": _fault("send_error", text="bus off"),
    "sink raises once": _fault("send_error", times=1, text="bus busy"),
    "differences": Scenario(
        faults=[{"kind": "camera_frozen", "at": AT}], arguments=HOLD, by_differences=True
    ),
    "two episodes": Scenario(arguments=("--episodes", "2"), steps=30),
    "two episodes, slow disk": Scenario(
        arguments=("--episodes", "2"), steps=30, program=SLOW_DISK + PROGRAM
    ),
}


@pytest.mark.parametrize("name", ["degrees", "degrees, dry run"])
def test_a_driver_that_reports_degrees_is_refused(outcome: Outcomes, name: str) -> None:
    assert_refused(outcome(name), "shoulder")


def test_a_start_far_outside_the_limits_is_refused(outcome: Outcomes) -> None:
    assert_refused(outcome("far outside"), "shoulder", "1.65", "1.25")


def test_a_start_slightly_outside_the_limits_needs_a_confirmation(outcome: Outcomes) -> None:
    assert_refused(outcome("slightly outside"), "shoulder", "--return-to-limits")


def test_a_confirmed_return_to_the_limits_is_slow(outcome: Outcomes) -> None:
    back = outcome("slightly outside, confirmed")
    assert back.status == 0, back.errors
    assert_kept(back, limits=limits_of(upper=(TIGHTER + 0.03, 1.5, 1.0)))
    first = [command.values[0] for command in back.log.commands]
    outside = [value for value in first if value > TIGHTER]
    assert outside and max(outside) <= TIGHTER + 0.03 + 1e-4
    steps = np.abs(np.diff(outside))
    assert steps.max(initial=0.0) <= 0.1 * 1.5 * PERIOD_S * 1.01, "the return is not slow"
    assert max(first[len(outside) :]) <= TIGHTER, "the arm left its limits again"
    assert events(back, "return_to_limits")


def test_leaving_the_limits_during_a_run_is_a_stop(outcome: Outcomes) -> None:
    stopped = outcome("leaves its limits")
    assert_stopped(stopped, "left_limits", within_s=3 * PERIOD_S)
    assert_kept(stopped)


def test_states_in_another_order_are_noticed_by_the_following_error(outcome: Outcomes) -> None:
    """The first command repeats a wrong state, which nobody can know; the arm must not go on."""
    stopped = outcome("other order")
    assert_ended_by(stopped, "following_error", "border_jump")
    assert events(stopped, "following_error")
    first = stopped.log.commands[0].arrived_ns
    assert time_to_rest_s(stopped.log, first) <= 4 * PERIOD_S + HOLD_S + REST_S + ROUGHLY_S


@pytest.mark.parametrize("name", ["NaN", "alternating"])
def test_a_chunk_that_cannot_be_meant_is_refused_and_the_arm_held(
    outcome: Outcomes, name: str
) -> None:
    stopped = outcome(name)
    kept = {"NaN": "non_finite_chunk", "alternating": "border_jump"}[name]
    if name == "NaN":
        assert_ended_by(stopped, kept)
    assert events(stopped, kept), stopped.report["events"]
    assert_kept(stopped)
    assert_no_gap(stopped)


def test_one_chunk_of_nan_ends_nothing(outcome: Outcomes) -> None:
    once = outcome("one NaN")
    assert_went_on(once)
    assert_kept(once)


def test_a_chunk_of_1e6_leads_nowhere(outcome: Outcomes) -> None:
    huge = outcome("constant 1e6")
    assert_ended_by(huge, "border_jump")
    assert_kept(huge)
    assert_no_gap(huge)
    assert time_to_rest_s(huge.log, huge.fault_ns) <= 1.0 + HOLD_S + REST_S + ROUGHLY_S


def test_rows_that_jump_back_and_forth_are_smoothed_within_the_limits(outcome: Outcomes) -> None:
    zigzag = outcome("zigzag")
    assert_went_on(zigzag)
    assert_kept(zigzag)
    assert zigzag.report["violations"]["jerk"] > 0


def test_a_policy_that_takes_longer_than_its_chunk_is_waited_for_if_nothing_else_runs(
    outcome: Outcomes,
) -> None:
    slow = outcome("slow policy")
    assert_went_on(slow, steps=100)
    assert_kept(slow)
    assert slow.report["chunks"] >= 2


def test_a_policy_slower_than_its_chunk_is_stopped_with_the_figures(outcome: Outcomes) -> None:
    stopped = outcome("slow policy, asynchronous")
    assert_ended_by(stopped, "policy_too_slow")
    assert "0.08" in stopped.report["reason"], "the chunk lasts 0.08 s"
    assert_kept(stopped)
    assert_no_gap(stopped)


def test_an_inference_that_fails_is_retried_and_then_a_stop(outcome: Outcomes) -> None:
    stopped = outcome("failing")
    assert_ended_by(stopped, "retries_exhausted", "inference_failed")
    assert "Gather" in str(stopped.report["reason"]) + str(stopped.report["events"])
    assert_kept(stopped)
    assert_no_gap(stopped)


def test_one_failed_inference_ends_nothing(outcome: Outcomes) -> None:
    once = outcome("failing once")
    assert_went_on(once)
    assert_kept(once)


def test_the_first_chunk_is_executed_from_its_first_row(outcome: Outcomes) -> None:
    run = outcome("standing start")
    assert_went_on(run, steps=40)
    assert_kept(run)
    arrays = recorded(run)
    rows = arrays["row"][arrays["chunk"] == arrays["chunk"][arrays["row"] >= 0][0]]
    assert rows[rows >= 0][0] == 0


def test_a_blocked_arm_is_a_following_error(outcome: Outcomes) -> None:
    stopped = outcome("blocked")
    # The circle leads 0.25 rad away from the blocked joint within a second.
    assert_stopped(stopped, "following_error", within_s=1.2 + HOLD_S)
    assert_kept(stopped)


@pytest.mark.parametrize("name", ["sink slow", "sink blocks"])
def test_a_sink_that_does_not_keep_up_makes_the_arm_brake_and_stop(
    outcome: Outcomes, name: str
) -> None:
    stopped = outcome(name)
    assert_ended_by(stopped, "unacknowledged", "driver_failed", "step_refused")
    assert_kept(stopped)
    assert time_to_rest_s(stopped.log, stopped.fault_ns) <= 5 * PERIOD_S + REST_S + ROUGHLY_S


def test_a_sink_that_raises_is_retried_and_then_a_stop(outcome: Outcomes) -> None:
    stopped = outcome("sink raises")
    assert_stopped(stopped, "driver_failed", within_s=6 * PERIOD_S)
    assert "bus off" in stopped.report["reason"]
    assert_kept(stopped)


def test_one_busy_bus_ends_nothing(outcome: Outcomes) -> None:
    once = outcome("sink raises once")
    assert_went_on(once)
    assert_kept(once)
    assert "bus busy" in str(once.report["events"])


def test_a_robot_of_differences_rests_at_once_when_it_is_held(outcome: Outcomes) -> None:
    held = outcome("differences")
    assert_stopped(held, "frame_stale", within_s=0.5)
    commands = held.log.commands
    assert all((command.values == 0).all() for command in commands if command.is_held)
    assert any((command.values != 0).any() for command in commands)
    assert commands[-1].is_held


@pytest.mark.parametrize("name", ["two episodes", "two episodes, slow disk"])
def test_an_episode_begins_where_the_arm_stands(outcome: Outcomes, name: str) -> None:
    two = outcome(name)
    assert_went_on(two, steps=60, episodes=2)
    assert_kept(two)
    ((last, first),) = (
        (before.arrived_ns, command.arrived_ns)
        for before, command in pairwise(two.log.commands)
        if before.stamp["session"] != command.stamp["session"]
    )
    assert (first - last) * 1e-9 > (DISK_S if "disk" in name else 0), "it waits for its recording"
    assert not two.log.times("stop"), "nothing was wrong meanwhile"
