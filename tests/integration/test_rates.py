"""More commands than rows, slower rows, and chunks that continue each other, at the fake arm.

Everything is judged from what the arm has received.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from .conftest import Outcomes
from .fake_arm.judge import ArmLog
from .fake_arm.policy import RADIUS, RATE_RAD_S
from .fake_arm.promises import assert_kept, recorded
from .fake_arm.runs import Scenario, limits_of

CONTROL_HZ, COMMAND_HZ = 50.0, 200.0
STEPS = 60
SIDE_BY_SIDE = 1
"""At 200 Hz a loop has no time to wait for others."""
SCENARIOS = {
    "holds": Scenario(control_hz=CONTROL_HZ, steps=STEPS),
    "200 Hz": Scenario(
        control_hz=CONTROL_HZ, steps=STEPS, arguments=("--command-hz", f"{COMMAND_HZ:g}")
    ),
    "half": Scenario(steps=STEPS, arguments=("--speed", "0.5")),
    "rtc": Scenario(
        control_hz=CONTROL_HZ,
        steps=STEPS,
        arguments=("--mode", "rtc", "--command-hz", "100", "--speed", "0.8"),
        delays=(0, 2, 4, 8),
    ),
}


def _commands(log: ArmLog) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the times in seconds, by the stamps, and the commands, (T, joints)."""
    times = np.array([command.tick_ns for command in log.commands]) * 1e-9
    return times - times[0], np.array([command.values for command in log.commands])


def _roughness(log: ArmLog) -> tuple[float, float]:
    """Returns the RMS of acceleration and jerk of what the arm was told at each of COMMAND_HZ
    moments per second, if it executes commands as steps."""
    times, commands = _commands(log)
    grid = np.arange(0.0, times[-1], 1 / COMMAND_HZ)
    held = commands[np.searchsorted(times, grid + 1e-6, side="right") - 1]
    acceleration = np.diff(held, 2, axis=0) * COMMAND_HZ**2
    jerk = np.diff(held, 3, axis=0) * COMMAND_HZ**3
    return float(np.sqrt(np.mean(acceleration**2))), float(np.sqrt(np.mean(jerk**2)))


def test_200_commands_per_second_arrive_and_are_within_the_limits(
    outcome: Outcomes,
) -> None:
    fast = outcome("200 Hz")
    assert fast.status == 0, fast.errors
    assert_kept(fast, limits=limits_of(control_hz=COMMAND_HZ))
    report = fast.report
    assert (report["command_hz"], report["speed"]) == (COMMAND_HZ, 1.0)
    assert report["episodes"][0]["steps"] == STEPS
    assert report["ticks"] >= STEPS * COMMAND_HZ / CONTROL_HZ
    times, _ = _commands(fast.log)
    assert abs(len(times) / times[-1] - COMMAND_HZ) < 0.05 * COMMAND_HZ
    assert abs(float(np.median(np.diff(times))) - 1 / COMMAND_HZ) < 1e-4


def test_interpolated_commands_are_at_least_twice_as_smooth_as_holds(
    outcome: Outcomes,
) -> None:
    acceleration, jerk = _roughness(outcome("holds").log)
    smooth_acceleration, smooth_jerk = _roughness(outcome("200 Hz").log)
    print(f"RMS of acceleration {acceleration:.4g} and {smooth_acceleration:.4g} per s^2")
    print(f"RMS of jerk {jerk:.4g} and {smooth_jerk:.4g} per s^3")
    assert smooth_acceleration < acceleration / 2
    assert smooth_jerk < jerk / 2


def _speed(log: ArmLog) -> float:
    """Returns the usual speed of the first two joints together, on their circle."""
    times, commands = _commands(log)
    steps = np.linalg.norm(np.diff(commands[:, :2], axis=0), axis=1) / np.diff(times)
    return float(np.median(steps[steps > 1e-6]))


def test_at_half_the_speed_the_arm_moves_half_as_fast(
    outcome: Outcomes,
) -> None:
    half = outcome("half")
    assert half.status == 0, half.errors
    assert_kept(half)
    assert half.report["speed"] == 0.5
    assert set(np.unique(recorded(half)["speed"])) == {0.5}
    assert _speed(half.log) == pytest.approx(0.5 * RADIUS * RATE_RAD_S, rel=0.1)


def test_real_time_chunking_between_rows_and_below_full_speed_keeps_the_limits(
    outcome: Outcomes,
) -> None:
    slow = outcome("rtc")
    assert slow.status == 0, slow.errors
    assert_kept(slow, limits=limits_of(control_hz=100.0))
    report = slow.report
    assert report["mode"] == "rtc"
    delays = {int(rows): count for rows, count in report["rtc"]["delays"].items()}
    assert delays.keys() <= {0, 2, 4, 8}
    assert sum(count for rows, count in delays.items() if rows) >= 3
    assert report["rtc"]["first_latency_ms"] > 0
