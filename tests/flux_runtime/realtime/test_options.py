"""The options of runs in real time: their forms, their defaults, and what a robot allows."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flux_core.errors import UsageError
from flux_core.robots import ROBOT_SPECS, GripperClosing, RateTightening, motion_limits
from flux_runtime.cli import build_parser, main
from flux_runtime.control.session import RunOptions
from flux_runtime.realtime import (
    RealtimeOptions,
    core_grippers,
    gripper_settings,
    realtime_options_from,
    realtime_settings,
)

UR3 = ROBOT_SPECS["ur3"]


def parsed(*arguments: str) -> RealtimeOptions:
    return realtime_options_from(build_parser().parse_args(["run", "--robot", "ur3", *arguments]))


def test_without_options_the_command_line_has_the_defaults() -> None:
    assert parsed() == RealtimeOptions() == RunOptions(robot="ur3").realtime_options
    RealtimeOptions().check_unused("aloha-sim")


def test_every_option_is_read() -> None:
    cpu = min(os.sched_getaffinity(0))
    options = parsed(
        *("--driver-python", "/opt/ros/bin/python3", "--hold-for", "1.5", "--stop-category", "1"),
        *("--max-state-age", "0.2", "--max-frame-age", "0.3", "--return-to-limits"),
        *("--max-velocity", "50%", "elbow=0.5", "--max-velocity", "elbow=0.7", "20%"),
        *("--limit", "elbow=-1.5:1e0", "--priority", "80", "--cpu", str(cpu), "--max-retries", "2"),
        *("--command-hz", "125", "--speed", "0.2"),
    )
    assert options.driver_python == Path("/opt/ros/bin/python3")
    assert (options.hold_for_s, options.stop_category, options.max_retries) == (1.5, 1, 2)
    assert (options.max_state_age_s, options.max_frame_age_s) == (0.2, 0.3)
    assert (options.return_to_limits, options.priority, options.cpu) == (True, 80, cpu)
    assert (options.command_hz, options.speed) == (125, 0.2)
    assert options.tightening.max_velocity == RateTightening(share=0.2, joints={"elbow": 0.5})
    assert options.tightening.position == {"elbow": (-1.5, 1.0)}


@pytest.mark.parametrize(
    "text", ["0.5", "50", "elbow", "elbow=", "=0.5", "elbow=fast", "elbow=nan", "nan%", "%"]
)
def test_a_rate_that_could_mean_two_things_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--max-jerk: expected P%, such as 50%, or JOINT=VALUE"):
        parsed("--max-jerk", text)


@pytest.mark.parametrize("text", ["0%", "100.1%", "1e9%"])
def test_a_share_above_everything_or_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--max-velocity: expected above 0% and at most 100%"):
        parsed("--max-velocity", text)


@pytest.mark.parametrize("text", ["elbow", "elbow=1", "elbow=:1", "=0:1", "elbow=0:inf"])
def test_a_range_needs_a_joint_and_two_numbers(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--limit: expected JOINT=LOWER:UPPER, such as elbow=-"):
        parsed("--limit", text)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--hold-for", "0"), ("--hold-for", "nan"), ("--max-frame-age", "61")),
        *(("--stop-category", "3"), ("--priority", "100"), ("--max-retries", "-1")),
        *(("--cpu", "4096"), ("--cpu", "-1"), ("--cpu", "a")),
        *(("--command-hz", "0"), ("--command-hz", "nan"), ("--command-hz", "2001")),
        *(("--speed", "0"), ("--speed", "0.04"), ("--speed", "1.1"), ("--speed", "50%")),
    ],
)
def test_a_value_outside_its_range_is_a_usage_error(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed(option, value)
    assert caught.value.code == 2 and option in capsys.readouterr().err


def test_power_is_removed_only_from_a_robot_with_brakes() -> None:
    RealtimeOptions(stop_category=0).check(UR3)
    with pytest.raises(
        UsageError, match=r"^--stop-category: expected 2, because robot aloha falls"
    ):
        RealtimeOptions(stop_category=1).check(ROBOT_SPECS["aloha"])


def test_an_age_below_two_periods_could_never_be_kept() -> None:
    RealtimeOptions(max_state_age_s=0.067, max_frame_age_s=0.067).check(UR3)
    with pytest.raises(UsageError, match=r"^--max-state-age: expected at least 0.0666667 s, 2 per"):
        RealtimeOptions(max_state_age_s=0.05).check(UR3)
    with pytest.raises(UsageError, match=r"^--max-frame-age: expected at least"):
        RealtimeOptions(max_frame_age_s=math.nan).check(UR3)


@pytest.mark.parametrize(("control_hz", "expected"), [(10, 0.5), (50, 0.1), (500, 0.1)])
def test_a_state_may_be_five_periods_old_and_at_least_a_tenth_of_a_second(
    control_hz: float, expected: float
) -> None:
    assert RealtimeOptions().state_age_s(control_hz) == pytest.approx(expected)
    assert RealtimeOptions(max_state_age_s=0.3).state_age_s(control_hz) == 0.3


def test_settings_are_complete_and_plain() -> None:
    settings = realtime_settings(
        RealtimeOptions(hold_for_s=1.0),
        motion_limits(UR3),
        execution_horizon=10,
        action_horizon=30,
        mode="rtc",
        cameras=("cam_wrist",),
        continuation={"delays": [0, 4]},
        first_latency_s=0.1,
    )
    data = settings.as_data()
    assert (data["cameras"], data["control_hz"], data["rest_command"]) == ((1,), 30.0, ())
    assert data["inference_deadline_s"] == settings.max_observation_age_s(30) == 2.0
    assert data["max_state_age_s"] == pytest.approx(5 / 30)
    assert (data["command_hz"], data["speed"], data["first_latency_s"]) == (30.0, 1.0, 0.1)
    assert data["continuation"] == {"delays": [0, 4]}
    for name in ("max_following_error", "max_border_jump", "start_tolerance"):
        assert len(data[name]) == 7
    with pytest.raises(ValueError, match="max_frame_age_s: expected a finite number above 0"):
        replace(settings, max_frame_age_s=math.nan)
    with pytest.raises(ValueError, match="execution_horizon: expected at least 1, got 0"):
        replace(settings, execution_horizon=0)


def test_at_half_the_speed_chunks_may_be_twice_as_old() -> None:
    settings = realtime_settings(
        RealtimeOptions(speed=0.5, command_hz=120.0),
        motion_limits(UR3),
        execution_horizon=10,
        action_horizon=30,
        mode="async",
        cameras=(),
        continuation={},
    )
    assert settings.inference_deadline_s == settings.max_observation_age_s(30) == 3.0
    assert (settings.control_hz, settings.command_hz) == (30.0, 120.0)


def test_thresholds_of_grippers_are_plain_data_that_older_recordings_lack() -> None:
    nan = math.nan
    closing = GripperClosing(closes_below=(nan, 0.05), closed_command=(nan, -0.01))
    data = gripper_settings(closing)
    assert data == {"closes_below": (None, 0.05), "closed_command": (None, -0.01)}
    given = core_grippers(json.loads(json.dumps(data, allow_nan=False)))
    assert str(given) == "{'closes_below': [nan, 0.05], 'closed_command': [nan, -0.01]}"
    assert core_grippers({}) == {"closes_below": [], "closed_command": []}
    none = GripperClosing(closes_below=(nan,), closed_command=(nan,))
    assert gripper_settings(none) == gripper_settings(None)


def test_a_slow_start_lets_chunks_last_longer() -> None:
    settings = realtime_settings(
        RealtimeOptions(),
        motion_limits(UR3),
        execution_horizon=10,
        action_horizon=30,
        mode="async",
        cameras=(),
        continuation={},
    )
    slow = replace(settings, slow_start_s=1.0, slow_start_speed=0.25)
    assert (settings.max_observation_age_s(30), slow.max_observation_age_s(30)) == (2.0, 5.0)


def test_rates_that_the_robot_does_not_allow_are_refused() -> None:
    RealtimeOptions(command_hz=30.0, speed=0.1).check(UR3)
    with pytest.raises(UsageError, match=r"^--command-hz: expected at least 30, the control rate"):
        RealtimeOptions(command_hz=29.0).check(UR3)
    libero = ROBOT_SPECS["libero"]
    RealtimeOptions(command_hz=libero.control_hz).check(libero)
    with pytest.raises(
        UsageError, match=r"^--speed: expected 1, because robot libero is commanded"
    ):
        RealtimeOptions(speed=0.5).check(libero)
    with pytest.raises(
        UsageError, match=r"^--command-hz: expected 20, because robot libero is com"
    ):
        RealtimeOptions(command_hz=100.0).check(libero)


def test_in_simulated_time_the_options_of_real_time_are_refused(
    core: Any, toy: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("run", "--robot", "toy", "--policy", "hold", "--episodes", "1", "--max-steps", "3")
    assert main([*command, "--hold-for", "1", "--cpu", "0"]) == 2
    line = capsys.readouterr().err
    assert "--hold-for, --cpu: expected a robot in real time, but toy runs on simulated" in line
    assert main([*command, "--command-hz", "100"]) == 2
    assert "--command-hz: expected a robot in real time" in capsys.readouterr().err
    assert main([*command, "--speed", "0.5"]) == 0
    assert main([*command, "--max-velocity", "50%"]) == 0


def test_limits_are_tightened_in_simulated_time_too(
    core: Any, toy: Any, fakes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np

    bundle = fakes.write_toy_bundle(tmp_path / "bundle")
    joint = toy.spec.joint_names[0]
    command = ["run", "--robot", "toy", "--bundle", str(bundle), "--episodes", "1", "--json"]
    assert main([*command, "--max-steps", "40", "--max-velocity", f"{joint}=0.05"]) == 0
    speeds = np.abs(np.diff(np.array(toy.commands), axis=0)).max(axis=0) * toy.spec.control_hz
    assert speeds[0] <= 0.05 + 1e-4 < speeds[1:].max()
    capsys.readouterr()
    assert main([*command, "--max-velocity", f"{joint}=1000"]) == 2
    assert f"--max-velocity: {joint}: expected above 0 and at most" in capsys.readouterr().err
