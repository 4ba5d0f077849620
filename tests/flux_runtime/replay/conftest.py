"""Recorded runs of the toy robot: a driver in a process of its own, and one on simulated time."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from flux_runtime.cli import main

ARMS = '''
import time
import numpy as np
from flux_core.robots import RobotSpec

SPEC = RobotSpec(
    name="toy", joint_names=("left_a", "left_b", "left_gripper"), lower=(-2.0, -2.0, 0.0),
    upper=(2.0, 2.0, 1.0), max_velocity=(5.0, 5.0, 10.0), units=("rad", "rad", "normalized"),
    cameras=("cam_a", "cam_b"), control_hz=20.0,
)


class Arm:
    """Obeys; its pictures become brighter with every command."""

    spec = SPEC

    def __init__(self):
        self.position = np.array([0.1, -0.1, 0.5], np.float32)
        self.num_sent = 0

    def connect(self): pass
    def read_state(self):
        time.sleep(0.005)
        return self.position, time.monotonic()
    def read_frames(self, cameras):
        time.sleep(0.01)
        image = np.full((48, 64, 3), self.num_sent * 5 % 256, np.uint8)
        return {name: (image, time.monotonic()) for name in cameras}
    def send(self, command, time_s):
        self.num_sent += 1
        self.position = command
    def stop(self, category): pass
    def close(self): pass


class Faulty(Arm):
    """Is silent for a while, then blind, then measures nonsense, and at last leaves its limits."""

    has_been_silent = has_been_blind = False

    def read_state(self):
        if self.num_sent > 8 and not self.has_been_silent:
            self.has_been_silent = True
            time.sleep(0.35)
        state, now_s = super().read_state()
        if 22 < self.num_sent < 26:
            state = np.array([0.1, np.nan, 0.5], np.float32)
        if self.num_sent > 40:
            state = np.array([2.4, 0.0, 0.5], np.float32)
        return state, now_s

    def read_frames(self, cameras):
        if self.num_sent > 14 and not self.has_been_blind:
            self.has_been_blind = True
            time.sleep(0.35)
        return super().read_frames(cameras)
'''


class RunRecorder:
    """Records runs of the toy robot, and replays them, as the command line does.

    Attributes:
        report: of the last recorded run.
    """

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.report: dict[str, Any] = {}
        self._folder = folder
        self._capsys = capsys

    def record(self, robot: str, bundle: Path | None, *options: str, code: int = 0) -> Path:
        """Returns the directory of a recorded run."""
        directory = self._folder / f"recording_{len(list(self._folder.glob('recording_*')))}"
        policy = ("--policy", "hold") if bundle is None else ("--bundle", str(bundle))
        arguments = ["run", "--robot", robot, *policy, "--record", str(directory), "--json"]
        found = main([*arguments, *options])
        out, err = self._capsys.readouterr()
        assert found == code, err
        self.report = json.loads(out)
        return directory

    def replay(self, directory: Path, *options: str, code: int = 0) -> dict[str, Any]:
        """Returns the report of a replay."""
        found = main(["replay", str(directory), "--json", *options])
        out, err = self._capsys.readouterr()
        assert found == code, err or out
        return json.loads(out)

    def refusal(self, directory: Path, *options: str, code: int = 1) -> str:
        """Returns the line with which a replay is refused."""
        assert main(["replay", str(directory), *options]) == code
        out, err = self._capsys.readouterr()
        assert out == "" and err.count("\n") == 1
        return err


@pytest.fixture
def runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> RunRecorder:
    return RunRecorder(tmp_path, capsys)


@pytest.fixture
def realtime_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Makes the arms above importable, here and in the driver's process."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "toy_arms.py").write_text(ARMS)
    monkeypatch.syspath_prepend(str(folder))
    paths = filter(None, (str(folder), os.environ.get("PYTHONPATH")))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return "--priority", "0"


@pytest.fixture
def slow_bundle(fakes: Any, tmp_path: Path) -> Path:
    """A toy bundle for the arms above, which was trained to continue chunks."""
    return fakes.write_toy_bundle(
        tmp_path / "slow_bundle",
        control_hz=20.0,
        execution_horizon=3,
        rtc_valid_delays=(0, 1, 2, 3),
    )
