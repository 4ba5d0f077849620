"""Faults of processes and threads, and an operator's signals, against an arm of its own."""

from __future__ import annotations

import pytest

from .conftest import Outcomes
from .fake_arm.judge import time_to_rest_s
from .fake_arm.policy import STUCK
from .fake_arm.promises import (
    PERIOD_S,
    REST_S,
    ROUGHLY_S,
    assert_ended_by,
    assert_kept,
    assert_no_gap,
    assert_refused,
    assert_went_on,
    recorded,
)
from .fake_arm.runs import PLAIN, PROGRAM, Fault, Outcome, Scenario

AT = 0.8
HOLD_S = 0.6
HOLD = ("--hold-for", f"{HOLD_S}")
INTERRUPTED = 130
EXIT_S = 5.0
"""From a signal to the end of the command: the way to rest, which has a bound of its own, the
driver's stop and close, and the report, which has taken 3 s on a busy machine."""


def _signal(to: str, *names: str, beside: Fault | None = None, program: str = PROGRAM) -> Scenario:
    """Signals 0.3 s apart, and a fault that is there besides."""
    faults: list[Fault] = [
        {"kind": "signal", "to": to, "name": name, "at": AT + 0.3 * number}
        for number, name in enumerate(names)
    ]
    faults += [beside] if beside else []
    return Scenario(faults=faults, arguments=HOLD, program=program)


STUCK_INFERENCE = {"kind": "picture", "brightness": [STUCK], "at": 0.2}
BUSY = (
    "import threading; "
    "threading.Thread(target=exec, args=('while True: pass',), daemon=True).start(); "
)
SCENARIOS = {
    "driver killed": _signal("driver", "SIGKILL"),
    "driver paused": _signal("driver", "SIGSTOP"),
    "driver crashes": Scenario(faults=[{"kind": "state_crash", "at": AT}], arguments=HOLD),
    "policy killed": _signal("policy", "SIGKILL"),
    "policy paused": Scenario(
        faults=[
            {"kind": "signal", "to": "policy", "name": "SIGSTOP", "at": AT},
            {"kind": "signal", "to": "policy", "name": "SIGCONT", "at": AT + 2.0},
        ],
        steps=200,
    ),
    "policy paused briefly": Scenario(
        faults=[
            {"kind": "signal", "to": "policy", "name": "SIGSTOP", "at": AT},
            {"kind": "signal", "to": "policy", "name": "SIGCONT", "at": AT + 0.05},
        ],
        steps=50,
    ),
    "inference stuck": Scenario(
        faults=[dict(STUCK_INFERENCE, at=AT)], arguments=HOLD, steps=400, program=PLAIN
    ),
    "interpreter busy": Scenario(program=BUSY + PLAIN, steps=50),
    "SIGINT": _signal("policy", "SIGINT"),
    "SIGINT twice": _signal(
        "policy", "SIGINT", "SIGINT", beside={"kind": "close_slow", "seconds": 0.8}
    ),
    "SIGHUP": _signal("policy", "SIGHUP"),
    "SIGTERM": _signal("policy", "SIGTERM"),
    "SIGINT during an inference": _signal(
        "policy", "SIGINT", beside=STUCK_INFERENCE, program=PLAIN
    ),
    "SIGTERM during connect": Scenario(
        faults=[
            {"kind": "connect_never"},
            {"kind": "signal", "to": "policy", "name": "SIGTERM", "after_connect": 0.5},
        ]
    ),
    "connect never": Scenario(
        faults=[{"kind": "connect_never"}], environment={"FAKE_ARM_CONNECT_S": "1"}
    ),
    "connect raises": Scenario(faults=[{"kind": "connect_error", "text": "no route to arm"}]),
    "close never": Scenario(faults=[{"kind": "close_never"}], steps=20),
    "stop never": _signal("policy", "SIGINT", beside={"kind": "stop_never"}),
}


def _assert_interrupted(outcome: Outcome, signal: str, *, exit_s: float = EXIT_S) -> None:
    assert outcome.status == INTERRUPTED, (outcome.status, outcome.errors)
    assert outcome.report["outcome"] == "interrupted"
    assert signal in str(outcome.report["stopped_by"])
    assert_kept(outcome)
    sent = next(event["t"] for event in outcome.log.events if event.get("name") == signal)
    assert time_to_rest_s(outcome.log, sent) <= PERIOD_S + REST_S + ROUGHLY_S
    assert (outcome.ended_ns - sent) * 1e-9 <= exit_s + ROUGHLY_S
    assert len(recorded(outcome)["command"]) >= 10, "what was recorded until then is lost"


def test_a_killed_driver_ends_the_run_with_the_reason(outcome: Outcomes) -> None:
    killed = outcome("driver killed")
    assert_ended_by(killed, "driver_dead")
    assert_kept(killed)
    assert (killed.ended_ns - killed.fault_ns) * 1e-9 <= EXIT_S + ROUGHLY_S


def test_a_driver_that_crashes_ends_the_run_with_the_reason(outcome: Outcomes) -> None:
    crashed = outcome("driver crashes")
    assert_ended_by(crashed, "driver_dead")
    assert "SIGSEGV" in crashed.report["reason"] or "signal 11" in crashed.report["reason"]
    assert_kept(crashed)


def test_a_driver_that_is_silent_ends_the_run(outcome: Outcomes) -> None:
    paused = outcome("driver paused")
    assert_ended_by(paused, "driver_silent", "unacknowledged", "state_stale")
    assert_kept(paused)
    assert (paused.ended_ns - paused.fault_ns) * 1e-9 <= HOLD_S + 8.0


def test_when_the_policy_is_killed_the_driver_stops_the_arm(outcome: Outcomes) -> None:
    killed = outcome("policy killed")
    assert killed.status == -9
    assert_kept(killed)
    stop = killed.log.first("stop")
    assert (stop - killed.fault_ns) * 1e-9 <= 3 * PERIOD_S + ROUGHLY_S
    assert time_to_rest_s(killed.log, killed.fault_ns) <= 3 * PERIOD_S + REST_S + ROUGHLY_S
    assert killed.log.times("close"), "the driver was not closed"
    assert len(recorded(killed)["command"]) >= 10


def test_when_the_policy_is_paused_the_driver_stops_the_arm_for_good(outcome: Outcomes) -> None:
    paused = outcome("policy paused")
    assert_ended_by(paused, "session_lost", "driver_stopped")
    assert_kept(paused)
    stop = paused.log.first("stop")
    assert (stop - paused.fault_ns) * 1e-9 <= 3 * PERIOD_S + ROUGHLY_S
    times = recorded(paused)["sent_s"]
    assert (times[1:] > times[:-1]).all(), "recorded times run backwards"
    assert not [command for command in paused.log.commands if command.arrived_ns > stop + 10**8]


def test_ticks_that_passed_during_a_pause_are_not_caught_up_with(outcome: Outcomes) -> None:
    paused = outcome("policy paused briefly")
    assert_kept(paused)
    times = recorded(paused)["sent_s"]
    assert (times[1:] - times[:-1]).min() >= PERIOD_S / 4 - 0.001
    if paused.log.times("stop"):  # on a machine so busy that the pause became a long one
        assert_ended_by(paused, "session_lost", "driver_stopped")
    else:
        assert_went_on(paused, steps=50)


def test_an_inference_that_is_stuck_holds_and_then_stops(outcome: Outcomes) -> None:
    stuck = outcome("inference stuck")
    assert_ended_by(stuck, "inference_deadline", "starved", "policy_too_slow")
    assert_kept(stuck)
    assert_no_gap(stuck)
    longest_s = 0.64 + HOLD_S + 0.64 + EXIT_S
    assert (stuck.ended_ns - stuck.fault_ns) * 1e-9 <= longest_s + 2 * ROUGHLY_S


def test_a_busy_interpreter_delays_no_tick(outcome: Outcomes) -> None:
    busy = outcome("interpreter busy")
    assert_went_on(busy, steps=50)
    assert_kept(busy)


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP", "SIGTERM"])
def test_a_signal_is_a_bounded_stop(outcome: Outcomes, name: str) -> None:
    interrupted = outcome(name)
    _assert_interrupted(interrupted, name)
    assert interrupted.log.times("stop") and interrupted.log.times("close")


def test_a_second_signal_does_not_cut_the_close_off(outcome: Outcomes) -> None:
    twice = outcome("SIGINT twice")
    _assert_interrupted(twice, "SIGINT", exit_s=EXIT_S + 0.8)
    assert twice.log.times("close"), "the driver was not closed"


def test_a_signal_does_not_wait_for_the_inference(outcome: Outcomes) -> None:
    interrupted = outcome("SIGINT during an inference")
    _assert_interrupted(interrupted, "SIGINT")
    assert interrupted.log.times("close")


def test_a_signal_during_connect_ends_the_run(outcome: Outcomes) -> None:
    interrupted = outcome("SIGTERM during connect")
    assert interrupted.status == INTERRUPTED, (interrupted.status, interrupted.errors)
    assert interrupted.log.commands == []
    assert (interrupted.ended_ns - interrupted.log.times("fault")[-1]) * 1e-9 <= 6.0


def test_a_driver_that_never_connects_is_given_up(outcome: Outcomes) -> None:
    assert_refused(outcome("connect never"), "connect")


def test_a_driver_that_cannot_connect_is_refused_with_its_reason(outcome: Outcomes) -> None:
    assert_refused(outcome("connect raises"), "no route to arm")


def test_a_close_that_never_returns_is_cut_off(outcome: Outcomes) -> None:
    closed = outcome("close never")
    assert closed.status in (0, 1), closed.errors
    assert_kept(closed)
    last = closed.log.commands[-1].arrived_ns
    assert (closed.ended_ns - last) * 1e-9 <= 5.0 + EXIT_S + 2 * ROUGHLY_S


def test_a_stop_that_never_returns_does_not_keep_the_run(outcome: Outcomes) -> None:
    stopped = outcome("stop never")
    assert stopped.status == INTERRUPTED, (stopped.status, stopped.errors)
    assert_kept(stopped)
    assert (stopped.ended_ns - stopped.fault_ns) * 1e-9 <= 1.0 + 5.0 + EXIT_S + 2 * ROUGHLY_S
