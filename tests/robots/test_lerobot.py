"""Real LeRobot's SO-101 on a bus of fake servos, and a robot of a plugin, driven as a user does.

The motor library is LeRobot's own, unmodified; the judge is what the fake servos were told.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ..environments import ROOT, Environment
from ..machine_stalls import Attempt
from .lerobot.fake_bus import GOAL, MOTORS, RANGES, TORQUE, FakeBus, Write, write_calibration
from .policy import write_bundle
from .runs import Run, finish, running

HZ = 25.0
LIMIT_S = 90.0
SILENT = 4  # wrist_flex
START = 2047
SPEED = 60.0  # degrees per second, the driver's default
STEPS_PER_DEGREE = 4095 / 360
SOURCES = ROOT / "packages" / "flux-runtime" / "src"
PLUGINS = Path(__file__).parent / "lerobot" / "plugins"
SHARED = ("arm", "checks", "slider")
"""What begins before a test asks for it."""
CHECKS = Path(__file__).parent / "lerobot" / "checks.py"


@dataclass(frozen=True)
class Arm:
    """A run with the SO-101, whose servo `SILENT` stopped answering at `silent_s`."""

    run: Run
    writes: list[Write]
    torque: list[int]
    silent_s: float

    def goals(self, servo: int) -> list[Write]:
        """What a servo was told, the oldest first."""
        return [one for one in self.writes if (one.address, one.servo) == (GOAL, servo)]

    def driven(self, servo: int) -> list[Write]:
        """The same, from the first command to the fault."""
        return [one for one in self.goals(servo)[1:] if one.time_s < self.silent_s]


@dataclass(frozen=True)
class Slider:
    """A run with the plugin's robot, and what that wrote down."""

    run: Run
    log: list[dict[str, Any]]


def run_to_its_end(*arguments: str) -> Run:
    """Runs `flux-runtime run ARGUMENTS`."""
    with running(*arguments, environment=os.environ) as process:
        return finish(process, LIMIT_S)


def robot_options(folder: Path, kind: str, config: dict[str, Any], python: Path) -> list[str]:
    """Returns the options that name a robot of LeRobot's."""
    path = folder / f"{kind}.json"
    path.write_text(json.dumps(config))
    robot = ["--robot", f"lerobot:{kind}", "--robot-config", str(path)]
    return [*robot, "--driver-python", str(python)]


def drive_arm(folder: Path, python: Path, seconds: float) -> Arm:
    """Drives the SO-101 for some seconds, then silences a servo, and waits for the end."""
    half = [(high - low) * 180 / 4095 for low, high in list(RANGES.values())[:5]]
    rest = [START - (low + high) / 2 for low, high in list(RANGES.values())[:5]]
    low, high = RANGES[6]
    spec = {
        "name": "so101_follower",
        "joint_names": [f"{motor}.pos" for motor in MOTORS],
        "units": ["degrees"] * 5 + ["percent"],
        "cameras": ["front"],
        "control_hz": HZ,
        "lower": [*(-end for end in half), 0],
        "upper": [*half, 100],
        "max_velocity": [SPEED] * 5 + [100],
    }
    bundle = write_bundle(
        folder / "bundle",
        spec,
        rest=[*(steps / STEPS_PER_DEGREE for steps in rest), 100 * (START - low) / (high - low)],
        pairs=[(0, 1), (2, 3)],
        radius=15,
        rate_rad_s=1.2,
    )
    write_calibration(folder / "arm.json")
    camera = {"type": "stripes", "width": 48, "height": 32, "fps": 30}
    with FakeBus() as bus:
        config = {"port": bus.port, "id": "arm", "calibration_dir": str(folder)}
        options = robot_options(
            folder, "so101_follower", {**config, "cameras": {"front": camera}}, python
        )
        steps = ["--episodes", "1", "--max-steps", "100000", "--json"]
        command = [*options, "--bundle", str(bundle), *steps]
        with running(*command, environment=os.environ) as process:
            while process.poll() is None and len(bus.written(GOAL, 1)) < seconds * HZ:
                time.sleep(0.1)
            bus.silent.add(SILENT)
            silent_s = time.monotonic()
            run = finish(process, LIMIT_S)
        torque = [servo.memory[TORQUE] for servo in bus.servos.values()]
        return Arm(run, bus.writes, torque, silent_s)


def drive_slider(folder: Path, python: Path) -> Slider:
    """Drives the robot of the plugin, whose camera takes a quarter of a second per image."""
    spec = {
        "name": "slider",
        "joint_names": ["rail.pos", "jaw.pos"],
        "units": ["m", "normalized"],
        "cameras": ["side"],
        "control_hz": HZ,
        "lower": [0, 0],
        "upper": [1, 1],
        "max_velocity": [0.5, 2],
    }
    bundle = write_bundle(
        folder / "slider-bundle", spec, rest=[0.5, 0.5], pairs=[(0, 1)], radius=0.1
    )
    own = {
        "units": {"rail": "m", "jaw": "normalized"},
        "lower": 0,
        "upper": 1,
        "max_velocity": {"rail": 0.5, "jaw": 2.0},
    }
    config = {
        "log": str(folder / "slider.log"),
        "cameras": {"side": {"type": "stripes", "width": 48, "height": 32, "fps": 4}},
        "flux": own,
    }
    options = robot_options(folder, "slider", config, python)
    more = ["--episodes", "1", "--max-steps", "50", "--max-frame-age", "2", "--json"]
    run = run_to_its_end(*options, "--bundle", str(bundle), *more)
    log = folder / "slider.log"
    return Slider(run, [json.loads(line) for line in log.open()] if log.exists() else [])


def refuse_uncalibrated(folder: Path, python: Path) -> Run:
    """Asks for an arm that has never been calibrated."""
    config = {"port": "/dev/ttyACM0", "id": "new", "calibration_dir": str(folder)}
    options = robot_options(folder, "so100_follower", config, python)
    return run_to_its_end(*options, "--policy", "hold")


def check_driver(folder: Path, python: Path) -> dict[str, str]:
    """Returns what the checks in LeRobot's environment have found."""
    done = subprocess.run(
        [python, CHECKS, SOURCES, folder, ROOT / "docs" / "lerobot-arms.md"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


class Outcomes:
    """What the module's runs have done. They go on side by side until a test asks for one; each is
    run again, alone, for a test that is run again because the machine stood still."""

    def __init__(
        self, python: Path, folder: Path, seconds: float, pool: ThreadPoolExecutor
    ) -> None:
        self._folder = folder
        self._pool = pool
        plugins = python_with_plugins(folder, python)
        self._runs: dict[str, Callable[[Path], Any]] = {
            "arm": lambda where: drive_arm(where, plugins, seconds),
            "checks": lambda where: check_driver(where, python),
            "slider": lambda where: drive_slider(where, plugins),
            "refused": lambda where: refuse_uncalibrated(where, python),
        }
        self._done: dict[tuple[str, int], Future[Any]] = {}
        for name in SHARED:
            self._begin(name, 0)

    def _begin(self, name: str, attempt: int) -> Future[Any]:
        key = name, attempt
        if key not in self._done:
            where = self._folder / f"{name}-{attempt}"
            where.mkdir()
            self._done[key] = self._pool.submit(self._runs[name], where)
        return self._done[key]

    def _of(self, name: str) -> Any:
        return self._begin(name, Attempt.number).result()

    def arm(self) -> Arm:
        """The run with the SO-101."""
        return self._of("arm")

    def slider(self) -> Slider:
        """The run with the plugin's robot."""
        return self._of("slider")

    def refused(self) -> Run:
        """The run with an arm that is not calibrated."""
        return self._of("refused")

    def checks(self) -> dict[str, str]:
        """What the checks in LeRobot's environment have found."""
        return self._of("checks")


@pytest.fixture(scope="module")
def outcomes(
    environment: Environment, robot_seconds: float, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcomes]:
    """Runs everything, two processes at a time."""
    folder = tmp_path_factory.mktemp("lerobot")
    with ThreadPoolExecutor(2) as pool:
        yield Outcomes(environment("lerobot"), folder, robot_seconds / 2, pool)


def python_with_plugins(folder: Path, python: Path) -> Path:
    """Installs the plugins beside LeRobot's environment; returns a Python that has both."""
    target = folder / "plugins"
    install = ["install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            *install,
            "--no-build-isolation",
            "--target",
            target,
            PLUGINS,
        ],
        check=True,
        capture_output=True,
    )
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{target}" exec "{python}" "$@"\n')
    script.chmod(0o755)
    return script


def test_the_arm_is_commanded_at_the_control_rate(outcomes: Outcomes, robot_seconds: float) -> None:
    arm = outcomes.arm()
    assert arm.run.report["episodes"], arm.run.errors
    for servo in RANGES:
        times = np.array([one.time_s for one in arm.driven(servo)])
        assert len(times) > 0.8 * robot_seconds / 2 * HZ
        assert np.median(np.diff(times)) == pytest.approx(1 / HZ, rel=0.1)
        assert len(times) > 0.7 * (times[-1] - times[0]) * HZ


def test_every_goal_is_within_the_calibration_and_the_velocity(outcomes: Outcomes) -> None:
    arm = outcomes.arm()
    for servo, (low, high) in list(RANGES.items())[:5]:
        goals = arm.driven(servo)
        assert all(low <= one.value <= high for one in goals)
        steps = np.abs(np.diff([one.value for one in goals]))
        step = SPEED / HZ * STEPS_PER_DEGREE
        assert np.quantile(steps, 0.9) <= step + 1
        assert steps.max() <= 3 * step + 1  # where a busy machine has swallowed commands
    assert max(one.value for one in arm.driven(1)) - min(one.value for one in arm.driven(1)) > 100


def test_the_torque_comes_on_where_the_arm_is_and_stays_on(outcomes: Outcomes) -> None:
    arm = outcomes.arm()
    for servo in RANGES:
        switches = [one for one in arm.writes if (one.address, one.servo) == (TORQUE, servo)]
        assert [one.value for one in switches] == [0, 1]
        before = [one.value for one in arm.goals(servo) if one.time_s < switches[1].time_s]
        assert before == [START]
    assert arm.torque == [1] * 6


def test_the_operator_is_told_what_was_decided(outcomes: Outcomes) -> None:
    said = outcomes.arm().run.errors
    assert "disable_torque_on_disconnect: False" in said
    assert re.search(r"max_relative_target: 23.2 for shoulder_pan.* 112 for gripper", said)
    assert "max_velocity: 60 for shoulder_pan" in said


def test_a_motor_that_stops_answering_stops_the_arm_where_it_is(outcomes: Outcomes) -> None:
    arm = outcomes.arm()
    report = arm.run.report
    assert arm.run.status == 1
    assert report["stopped_by"]
    assert any("wrist_flex (id 4)" in event["text"] for event in report["events"])
    assert arm.goals(1)[-1].time_s < arm.silent_s + 3.5
    for servo in RANGES:
        moved = abs(arm.goals(servo)[-1].value - arm.driven(servo)[-1].value)
        assert moved < 0.3 * SPEED * STEPS_PER_DEGREE


@pytest.mark.slow
def test_a_missing_calibration_is_one_line_and_no_question(outcomes: Outcomes) -> None:
    run = outcomes.refused()
    assert run.status == 1
    [line] = [line for line in run.errors.splitlines() if "error:" in line]
    assert "/new.json, got no such file" in line
    assert "lerobot-calibrate --robot.type=so100_follower --robot.port=/dev/ttyACM0" in line


def test_a_robot_of_a_plugin_is_found_and_driven(outcomes: Outcomes) -> None:
    slider = outcomes.slider()
    assert slider.run.status == 0, slider.run.errors
    log = slider.log
    assert log[0]["calibrate"] is False
    assert log[-1]["disconnected"] is True
    actions = [line for line in log if "action" in line]
    times = np.array([line["time_s"] for line in actions])
    assert np.median(np.diff(times)) == pytest.approx(1 / HZ, rel=0.1)
    rail = np.array([line["action"]["rail.pos"] for line in actions])
    assert np.ptp(rail) > 0.02
    assert np.abs(np.diff(rail)).max() < 2 * 0.5 / HZ + 1e-6


def test_a_slow_camera_does_not_delay_states(outcomes: Outcomes) -> None:
    assert "state_stale" not in outcomes.slider().run.report["event_counts"]


CHECK_NAMES = re.findall(r"^def (\w+)\(\) -> None:", CHECKS.read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in CHECK_NAMES if name != "main"])
def test_with_real_lerobot(name: str, outcomes: Outcomes) -> None:
    assert not outcomes.checks()[name]
