"""What a controller's state means for a run."""

from __future__ import annotations

import pytest

from flux_driver.ur.status import Sample, why_ended, why_not_ready

WELL = Sample(
    timestamp_s=1.0,
    captured_s=2.0,
    positions=(0.0,) * 6,
    robot_mode=7,
    safety_mode=1,
    safety_bits=1,
    robot_bits=3,
    runtime_state=2,
    speed_scaling=1.0,
)


def test_an_arm_that_runs_may_be_commanded() -> None:
    assert why_not_ready(WELL) == why_ended(WELL) == ""


def test_reduced_mode_is_no_fault() -> None:
    assert why_not_ready(WELL._replace(safety_mode=2)) == ""


@pytest.mark.parametrize(
    ("mode", "words"),
    [(3, "protective stop"), (5, "safeguard stop"), (7, "emergency stop"), (99, "safety mode 99")],
)
def test_every_stop_for_safety_is_named_and_left_to_the_operator(mode: int, words: str) -> None:
    text = why_ended(WELL._replace(safety_mode=mode))

    assert words in text
    assert "clear it on the pendant, then start a new run" in text


def test_a_stop_that_only_the_bits_show_is_a_stop() -> None:
    assert "stopped by its safety system" in why_not_ready(WELL._replace(safety_bits=1 << 10))


def test_an_arm_without_power_is_not_ready() -> None:
    text = why_not_ready(WELL._replace(robot_mode=3))

    assert "expected the mode running, got power off" in text


def test_an_arm_whose_program_has_ended_is_no_longer_under_control() -> None:
    text = why_ended(WELL._replace(robot_bits=1))

    assert "the control program on the controller has ended" in text


@pytest.mark.parametrize(
    ("state", "scaling", "share"), [(2, 0.2, 0.2), (2, 1.0001, 1.0), (4, 1.0, 0.0), (3, 0.5, 0.0)]
)
def test_a_program_that_is_paused_on_the_pendant_does_not_move(
    state: int, scaling: float, share: float
) -> None:
    sample = WELL._replace(runtime_state=state, speed_scaling=scaling)

    assert sample.share_of_speed == share
    assert why_ended(sample) == ""


def test_a_sample_survives_its_way_between_processes() -> None:
    message = {"kind": "sample", **WELL._asdict(), "positions": [0.0] * 6}

    assert Sample.of(message) == WELL
