"""Real LeRobot's SO-101 on a bus of fake servos, and a robot of a plugin, driven as a user does.

The motor library is LeRobot's own, unmodified; the judge is what the fake servos were told.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .conftest import ROOT, Environment
from .lerobot.fake_bus import GOAL, MOTORS, RANGES, TORQUE, FakeBus, Write, write_calibration
from .policy import write_bundle

HZ = 25.0
SILENT = 4  # wrist_flex
START = 2047
SPEED = 60.0  # degrees per second, the driver's default
STEPS_PER_DEGREE = 4095 / 360
SOURCES = ROOT / "packages" / "flux-runtime" / "src"
PLUGINS = Path(__file__).parent / "lerobot" / "plugins"
CHECKS = Path(__file__).parent / "lerobot" / "checks.py"
PROGRAM = "import sys; from flux_runtime.cli import main; sys.exit(main(sys.argv[1:]))"


@dataclass(frozen=True)
class Run:
    """A run of the command."""

    status: int
    output: str
    errors: str

    @property
    def report(self) -> dict[str, Any]:
        """The JSON object that it printed."""
        lines = [line for line in self.output.splitlines() if line.startswith("{")]
        assert lines, self.errors
        return json.loads(lines[-1])


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


def start(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """Starts `flux-runtime run`; it begins at once, because nobody can press a key."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "run", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], limit_s: float = 60) -> Run:
    """Waits for the end of a run."""
    try:
        output, errors = process.communicate(timeout=limit_s)
    finally:
        process.kill()
    return Run(process.returncode, output, errors)


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
        process = start([*options, "--bundle", str(bundle), *steps])
        while process.poll() is None and len(bus.written(GOAL, 1)) < seconds * HZ:
            time.sleep(0.1)
        bus.silent.add(SILENT)
        silent_s = time.monotonic()
        run = finish(process)
        torque = [servo.memory[TORQUE] for servo in bus.servos.values()]
        return Arm(run, bus.writes, torque, silent_s)


def drive_slider(folder: Path, python: Path) -> Run:
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
    return finish(start([*options, "--bundle", str(bundle), *more]))


def refuse_uncalibrated(folder: Path, python: Path) -> Run:
    """Asks for an arm that has never been calibrated."""
    config = {"port": "/dev/ttyACM0", "id": "new", "calibration_dir": str(folder)}
    options = robot_options(folder, "so100_follower", config, python)
    return finish(start([*options, "--policy", "hold"]))


def check_driver(folder: Path, python: Path) -> dict[str, str]:
    """Returns what the checks in LeRobot's environment have found."""
    folder = folder / "checks"
    folder.mkdir()
    done = subprocess.run(
        [python, CHECKS, SOURCES, folder, ROOT / "docs" / "robots.md"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@dataclass(frozen=True)
class Outcomes:
    """What the module's runs have done; they go on side by side until somebody asks."""

    arm: Callable[[], Arm]
    slider: Callable[[], Run]
    refused: Callable[[], Run]
    checks: Callable[[], dict[str, str]]
    folder: Path


@pytest.fixture(scope="module")
def outcomes(
    environment: Environment, robot_seconds: float, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcomes]:
    """Runs everything, two processes at a time."""
    python, folder = environment("lerobot"), tmp_path_factory.mktemp("lerobot")
    installed = python_with_plugins(folder, python)
    with ThreadPoolExecutor(2) as pool:
        arm = pool.submit(drive_arm, folder, installed, robot_seconds / 2)
        checks = pool.submit(check_driver, folder, python)
        slider = pool.submit(drive_slider, folder, installed)
        refused = pool.submit(refuse_uncalibrated, folder, python)
        yield Outcomes(arm.result, slider.result, refused.result, checks.result, folder)


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
        assert len(times) > 0.9 * (times[-1] - times[0]) * HZ


def test_every_goal_is_within_the_calibration_and_the_velocity(outcomes: Outcomes) -> None:
    arm = outcomes.arm()
    for servo, (low, high) in list(RANGES.items())[:5]:
        goals = arm.driven(servo)
        assert all(low <= one.value <= high for one in goals)
        for before, after in itertools.pairwise(goals):
            periods = max(1, round((after.time_s - before.time_s) * HZ) + 1)
            bound = periods * SPEED / HZ * STEPS_PER_DEGREE + 1
            assert abs(after.value - before.value) <= bound
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
    assert report["stopped_by"] in ("driver_failed", "unacknowledged", "held_too_long")
    assert "wrist_flex (id 4)" in arm.run.errors
    assert arm.goals(1)[-1].time_s < arm.silent_s + 3.5
    for servo in RANGES:
        moved = abs(arm.goals(servo)[-1].value - arm.driven(servo)[-1].value)
        assert moved < 0.3 * SPEED * STEPS_PER_DEGREE


def test_a_missing_calibration_is_one_line_and_no_question(outcomes: Outcomes) -> None:
    run = outcomes.refused()
    assert run.status == 1
    [line] = [line for line in run.errors.splitlines() if "error:" in line]
    assert f"{outcomes.folder}/new.json, got no such file" in line
    assert "lerobot-calibrate --robot.type=so100_follower --robot.port=/dev/ttyACM0" in line


def test_a_robot_of_a_plugin_is_found_and_driven(outcomes: Outcomes) -> None:
    run = outcomes.slider()
    assert run.status == 0, run.errors
    log = [json.loads(line) for line in (outcomes.folder / "slider.log").open()]
    assert log[0]["calibrate"] is False
    assert log[-1]["disconnected"] is True
    actions = [line for line in log if "action" in line]
    times = np.array([line["time_s"] for line in actions])
    assert np.median(np.diff(times)) == pytest.approx(1 / HZ, rel=0.1)
    rail = np.array([line["action"]["rail.pos"] for line in actions])
    assert np.ptp(rail) > 0.02
    assert np.abs(np.diff(rail)).max() < 2 * 0.5 / HZ + 1e-6


def test_a_slow_camera_does_not_delay_states(outcomes: Outcomes) -> None:
    assert "state_stale" not in outcomes.slider().report["event_counts"]


CHECK_NAMES = re.findall(r"^def (\w+)\(\) -> None:", CHECKS.read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in CHECK_NAMES if name != "main"])
def test_with_real_lerobot(name: str, outcomes: Outcomes) -> None:
    assert not outcomes.checks()[name]
