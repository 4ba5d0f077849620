"""Faults of cameras and joint states, injected into an arm in its own process."""

from __future__ import annotations

import numpy as np
import pytest

from .conftest import Outcomes
from .fake_arm.judge import largest_stamped_gap_s
from .fake_arm.promises import (
    PERIOD_S,
    assert_kept,
    assert_refused,
    assert_stopped,
    assert_went_on,
    events,
    recorded,
)
from .fake_arm.runs import Scenario

AT = 0.8
HOLD_S, STATE_AGE_S, FRAME_AGE_S = 0.6, 0.2, 0.5
HOLD = ("--hold-for", f"{HOLD_S}")


def _fault(kind: str, **more: object) -> Scenario:
    return Scenario(faults=[{"kind": kind, "at": AT, **more}], arguments=HOLD)


SCENARIOS = {
    "nothing": Scenario(),
    "camera slow": _fault("frames_slow", seconds=0.1),
    "camera very slow": Scenario(faults=[{"kind": "frames_slow", "at": AT, "seconds": 1.5}]),
    "camera never": _fault("frames_never"),
    "camera frozen": _fault("camera_frozen"),
    "camera frozen for a moment": Scenario(
        faults=[{"kind": "camera_frozen", "at": AT, "for": 1.0}], steps=90
    ),
    "camera missing": _fault("camera_missing"),
    "camera stamps old": _fault("camera_time", by=-30.0),
    "camera stamps in the future": _fault("camera_time", by=30.0),
    "camera stamps NaN": _fault("camera_nan_time"),
    "camera size": _fault("camera_size"),
    "camera empty": _fault("camera_empty"),
    "camera grey": _fault("camera_grey"),
    "camera raises once": _fault("frames_error", times=1, text="select() timeout"),
    "camera raises": _fault("frames_error", text="select() timeout"),
    "camera dark": _fault("picture", brightness=[0]),
    "state frozen": _fault("state_frozen"),
    "state NaN": _fault("state_nan"),
    "state NaN once": _fault("state_nan", times=2),
    "state never": _fault("state_never"),
    "state stamps old": _fault("state_time", by=-30.0),
    "state stamps in the future": _fault("state_time", by=30.0),
    "state raises": _fault("state_error", text="bus off"),
    "state raises once": _fault("state_error", times=1, text="bus busy"),
    "camera empty at the start": Scenario(faults=[{"kind": "camera_empty"}]),
    "state NaN at the start": Scenario(faults=[{"kind": "state_nan"}]),
}


def test_without_a_fault_every_tick_has_its_command(outcome: Outcomes) -> None:
    nothing = outcome("nothing")
    assert_went_on(nothing)
    assert_kept(nothing)
    moved = np.ptp([command.values for command in nothing.log.commands], axis=0)
    assert (moved[:2] > 0.2).all(), "the arm hardly moved, so that nothing was judged"
    assert nothing.log.times("close"), "the driver was not closed"


def test_a_camera_that_takes_100_ms_delays_no_tick(outcome: Outcomes) -> None:
    slow = outcome("camera slow")
    assert_went_on(slow)
    assert_kept(slow)


def test_a_camera_that_takes_1500_ms_holds_the_arm_until_its_frames_come(
    outcome: Outcomes,
) -> None:
    slow = outcome("camera very slow")
    assert_went_on(slow)
    assert_kept(slow)
    assert slow.report["held_ticks"] > 10
    assert events(slow, "frame_stale")


@pytest.mark.parametrize(
    "name",
    [
        *("camera never", "camera frozen", "camera missing"),
        *("camera stamps old", "camera raises"),
    ],
)
def test_a_camera_without_new_frames_holds_and_then_stops(outcome: Outcomes, name: str) -> None:
    stopped = outcome(name)
    reason = "driver_failed" if name == "camera raises" else "frame_stale"
    assert_stopped(stopped, reason, within_s=FRAME_AGE_S)
    assert_kept(stopped)


def test_a_hold_ends_when_the_camera_is_back(outcome: Outcomes) -> None:
    back = outcome("camera frozen for a moment")
    assert_went_on(back, steps=90)
    assert_kept(back)
    flags = [command.is_held for command in back.log.commands]
    assert any(flags) and not all(flags[-15:]), "the arm was not released"


@pytest.mark.parametrize("name", ["camera stamps in the future", "camera stamps NaN"])
def test_a_camera_whose_stamps_cannot_be_true_counts_as_one_without_frames(
    outcome: Outcomes, name: str
) -> None:
    stopped = outcome(name)
    assert_stopped(stopped, "frame_time", "frame_stale", "driver_failed", within_s=FRAME_AGE_S)
    assert_kept(stopped)


@pytest.mark.parametrize("name", ["camera size", "camera empty", "camera grey"])
def test_a_camera_whose_image_changes_is_refused_frame_by_frame(
    outcome: Outcomes, name: str
) -> None:
    stopped = outcome(name)
    assert_stopped(stopped, "frame_stale", "driver_failed", within_s=FRAME_AGE_S)
    assert_kept(stopped)
    assert "top" in str(stopped.report["reason"]) + str(stopped.report["events"])


def test_one_exception_of_a_camera_ends_nothing(outcome: Outcomes) -> None:
    once = outcome("camera raises once")
    assert_went_on(once)
    assert_kept(once)
    assert "select() timeout" in str(once.report["events"])


def test_a_dark_picture_is_a_picture(outcome: Outcomes) -> None:
    dark = outcome("camera dark")
    assert_went_on(dark)
    assert_kept(dark)


@pytest.mark.parametrize("name", ["state frozen", "state never", "state stamps old"])
def test_a_state_that_does_not_advance_holds_and_then_stops(outcome: Outcomes, name: str) -> None:
    stopped = outcome(name)
    assert_stopped(stopped, "state_stale", within_s=STATE_AGE_S)
    assert_kept(stopped)


@pytest.mark.parametrize("name", ["state NaN", "state stamps in the future", "state raises"])
def test_a_state_that_cannot_be_true_holds_and_then_stops(outcome: Outcomes, name: str) -> None:
    stopped = outcome(name)
    expected = ("state_not_finite", "state_time", "state_stale", "driver_failed")
    assert_stopped(stopped, *expected, within_s=STATE_AGE_S)
    assert_kept(stopped)


@pytest.mark.parametrize("name", ["state NaN once", "state raises once"])
def test_one_wrong_state_ends_nothing(outcome: Outcomes, name: str) -> None:
    once = outcome(name)
    assert_went_on(once)
    assert_kept(once)


@pytest.mark.parametrize("name", ["camera empty at the start", "state NaN at the start"])
def test_what_cannot_be_used_at_the_start_is_refused(outcome: Outcomes, name: str) -> None:
    assert_refused(outcome(name), "top" if "camera" in name else "elbow")


def test_the_recording_has_the_stamps_that_the_arm_received(outcome: Outcomes) -> None:
    nothing = outcome("nothing")
    sent = recorded(nothing)["sent_s"]
    received = [command.stamp["sent_ns"] * 1e-9 for command in nothing.log.commands]
    np.testing.assert_allclose(sent[: len(received)], received[: len(sent)], atol=1e-6)
    assert largest_stamped_gap_s(nothing.log) <= 3 * PERIOD_S
