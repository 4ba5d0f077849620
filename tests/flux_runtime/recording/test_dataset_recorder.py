"""`flux-runtime run --record-dataset`: what is recorded, what is refused, what a failure costs."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest

from flux_data.lerobot import open_lerobot
from flux_data.validate import validate
from flux_runtime.cli import main

pytestmark = pytest.mark.usefixtures("core")
DRIVERS = '''
import os, pathlib, signal, time
import numpy as np
from flux_core.robots import RobotSpec
from flux_core.types import Observation

SPEC = RobotSpec(
    name="small-arm", joint_names=("a", "b"), lower=(-1.0, -1.0), upper=(1.0, 1.0),
    max_velocity=(1.0, 1.0), units=("rad", "rad"), cameras=(), control_hz=25.0,
)


class Real:
    """Has a depth camera and a mobile base; moves by itself, as a hand would move it."""

    spec = SPEC
    extras = {
        "top_depth": {"kind": "depth"},
        "base": {"kind": "vector", "names": ["linear_velocity", "angular_velocity"]},
    }
    number = 0

    def connect(self):
        pathlib.Path(os.environ["CALLS"]).touch()
        self.position = np.array([0.2, -0.3], np.float32)
    def read_state(self):
        time.sleep(0.005)
        return self.position, time.monotonic()
    def read_frames(self, cameras): return {}
    def read_extras(self):
        self.number += 1
        at = time.monotonic()
        depth = np.full((16, 24), 100 + self.number, np.uint16)
        return {"top_depth": (depth, at), "base": (np.array([self.number, 0.5]), at)}
    def send(self, command, time_s): self.position = command
    def stop(self, category): pass
    def close(self): pass


class Killing(Real):
    """Kills the recording process after some commands."""

    num_sent = 0

    def send(self, command, time_s):
        super().send(command, time_s)
        self.num_sent += 1
        if self.num_sent == 6:
            policy = os.getppid()
            children = pathlib.Path(f"/proc/{policy}/task/{policy}/children").read_text().split()
            for pid in children:
                if "--run-socket" in pathlib.Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(int(pid), signal.SIGKILL)


class Simulated:
    """Its camera shows the number of the step."""

    spec = SPEC.__class__(**{**vars(SPEC), "cameras": ("top",)})
    task, success_stage, end_state = "wave", "waved", "waving"

    def connect(self): self.reset(0)
    def reset(self, seed):
        self.steps = 0
        self.position = np.array([0.01 * (seed % 10), 0.0], np.float32)
    def state(self): return self.position + np.float32(0.01 * self.steps)
    def observe(self, prompt, cameras):
        images = {name: np.full((16, 24, 3), 10 * self.steps, np.uint8) for name in cameras}
        return Observation(images=images, state=self.state(), prompt=prompt, timestamp_s=0.0)
    def command(self, action): self.steps += 1
    def stages(self): return {"waved": self.steps >= 8, "waving": self.steps >= 8}
    def render(self, cameras): return {}
    def close(self): pass


class Other(Simulated):
    spec = SPEC.__class__(**{**vars(SPEC), "cameras": ("top",), "name": "other-arm"})


class Odd(Simulated):
    def observe(self, prompt, cameras):
        images = {name: np.zeros((15, 24, 3), np.uint8) for name in cameras}
        return Observation(images=images, state=self.state(), prompt=prompt, timestamp_s=0.0)
'''


@pytest.fixture(autouse=True)
def connected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the drivers above importable, here and in a driver's process; returns a file that the
    real one makes when it is connected."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "recorded_arms.py").write_text(DRIVERS)
    monkeypatch.syspath_prepend(str(folder))
    paths = filter(None, (str(folder), os.environ.get("PYTHONPATH")))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path / "calls"


def run(robot: str, dataset: Path, *options: str) -> int:
    return main(
        [
            *("run", "--robot", f"recorded_arms:{robot}", "--policy", "hold", "--priority", "0"),
            *("--record-dataset", str(dataset), "--json", *options),
        ]
    )


SIMULATED = ("--episodes", "2", "--max-steps", "20")


def simulated(robot: str, dataset: Path, *options: str) -> int:
    return main(
        [
            *("run", "--robot", f"recorded_arms:{robot}", "--policy", "hold"),
            *("--record-dataset", str(dataset), "--json", *SIMULATED, *options),
        ]
    )


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    assert simulated("Simulated", tmp_path / "set", "--to", "v3.0") == 0
    return tmp_path / "set"


def test_depth_and_a_base_are_recorded_beside_what_the_policy_sees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--episodes", "1", "--max-steps", "12", "--task", "look", "--to", "v3.0")
    assert run("Real", tmp_path / "set", *options) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)["dataset_recording"]
    assert (told["episodes"], told["rows"], told["complete"]) == (1, 12, True), err
    assert validate(tmp_path / "set") == []
    source = open_lerobot(tmp_path / "set")
    base = source.episode(0, ["observation.base"])["observation.base"]
    assert (np.diff(base[:, 0]) >= 0).all() and base[-1, 0] > base[0, 0]
    assert source.depth_keys == ("observation.images.top_depth",)
    assert list(source.tasks.values()) == ["look"]


def test_on_simulated_time_each_row_has_the_picture_that_precedes_its_command(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from flux_data.video import VideoReader

    capsys.readouterr()
    assert validate(recorded) == []
    source, reader = open_lerobot(recorded), VideoReader()
    for episode in range(2):
        length = int(source.lengths[episode])
        state = source.episode(episode, ["observation.state"])["observation.state"]
        np.testing.assert_allclose(np.diff(state[:, 0]), 0.01, atol=1e-6)
        video = source.video("observation.images.top", episode)
        for row in range(length):
            image = reader.frame(video.path, video.start_s + row / 25, 0.02)
            assert abs(float(image.mean()) - 10 * row) < 3


def test_another_run_appends_episodes_and_another_robot_is_refused(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert simulated("Simulated", recorded) == 0
    told = json.loads(capsys.readouterr().out)["dataset_recording"]
    assert (told["episodes_before"], told["episodes"], told["version"]) == (2, 2, "v3.0")
    assert open_lerobot(recorded).num_episodes == 4
    assert simulated("Other", recorded) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "robot_type 'other-arm', as this run records, got 'small-arm'" in line
    assert open_lerobot(recorded).num_episodes == 4


def test_what_cannot_be_recorded_is_refused_before_anything_moves(
    tmp_path: Path, connected: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulated("Odd", tmp_path / "set") == 2
    assert "top: expected an even height and width" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").touch()
    assert simulated("Simulated", tmp_path / "letters") == 2
    assert "expected an empty folder or a recorded dataset" in capsys.readouterr().err
    assert main(["run", "--robot", "aloha-sim", "--to", "v3.0"]) == 2
    assert "--to: expected --record-dataset DIR beside it" in capsys.readouterr().err
    assert not connected.exists()


def test_a_missing_flux_data_is_one_line_before_anything_moves(
    tmp_path: Path,
    connected: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    for options in ((), ("--dry-run",)):
        assert run("Real", tmp_path / "set", *options) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "--record-dataset: needs flux-data" in line
    assert not connected.exists()


def test_a_recording_process_that_is_killed_stops_no_robot_and_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert run("Killing", tmp_path / "set", "--episodes", "3", "--max-steps", "15") == 1
    report = json.loads(capsys.readouterr().out)
    assert [episode["steps"] for episode in report["episodes"]] == [15]  # to its end, and no other
    assert report["episodes"][0]["outcome"] == "finished"
    assert not report["dataset_recording"]["complete"]
    assert "the recording process has ended with signal 9" in report["reason"]
    (line,) = caplog.messages
    assert line.startswith(report["reason"]) and line.endswith("The run ends after this episode")


def test_without_the_option_nothing_is_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--policy", "hold", "--episodes", "1", "--max-steps", "3", "--json")
    assert main(["run", "--robot", "recorded_arms:Simulated", *options]) == 0
    assert "dataset_recording" not in json.loads(capsys.readouterr().out)
