"""`flux-runtime run` in real time, with drivers in processes of their own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from flux_runtime import read_recording
from flux_runtime.cli import main
from flux_runtime.run.command import NOBODY

pytestmark = pytest.mark.usefixtures("core")
DRIVERS = '''
import os, time
import numpy as np
from flux_core.robots import RobotSpec
from flux_core.types import Observation

SPEC = RobotSpec(
    name="small-arm", joint_names=("a", "b"), lower=(-1.0, -1.0), upper=(1.0, 1.0),
    max_velocity=(1.0, 1.0), units=("rad", "rad"), cameras=(), control_hz=25.0,
)


class Real:
    """Appends what is asked of it to the file that CALLS names."""

    spec = SPEC

    def __init__(self):
        self.position = np.array([0.2, -0.3], np.float32)

    def _note(self, call):
        with open(os.environ["CALLS"], "a") as file:
            file.write(call + "\\n")

    def connect(self): self._note("connect")
    def read_state(self):
        time.sleep(0.005)
        return self.position, time.monotonic()
    def read_frames(self, cameras): return {}
    def send(self, command, time_s):
        self._note("send")
        self.position = command
    def stop(self, category): self._note(f"stop {category}")
    def close(self): self._note("close")


class InDegrees(Real):
    def __init__(self):
        self.position = np.array([0.2, -54.96], np.float32)


class Simulated:
    spec = SPEC
    task, success_stage, end_state = "wave", "waved", "waving"

    def connect(self): self.steps = 0
    def reset(self, seed):
        self.steps = 0
        self.position = np.array([0.01 * (seed % 10), 0.0], np.float32)
    def state(self): return self.position
    def observe(self, prompt, cameras):
        return Observation(images={}, state=self.position, prompt=prompt, timestamp_s=0.0)
    def command(self, action):
        self.steps += 1
        self.position = action
    def stages(self): return {"waved": self.steps >= 8, "waving": self.steps >= 8}
    def render(self, cameras): return {}
    def close(self): pass


def make_simulated():
    return Simulated()
'''


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the drivers above importable, here and in the driver's process."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "small_arms.py").write_text(DRIVERS)
    monkeypatch.syspath_prepend(str(folder))
    paths = filter(None, (str(folder), os.environ.get("PYTHONPATH")))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path / "calls"


def command(robot: str, *options: str) -> list[str]:
    return [
        "run",
        "--robot",
        f"small_arms:{robot}",
        "--policy",
        "hold",
        "--priority",
        "0",
        *options,
    ]


def test_a_real_robot_is_driven_recorded_and_closed(
    calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--episodes", "2", "--max-steps", "12", "--record", str(tmp_path / "r"), "--json")
    assert main(command("Real", *options)) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert err.splitlines() == [NOBODY]  # pytest's own input is at its end
    assert (report["clock"], report["outcome"], report["ticks"]) == ("monotonic", "finished", 24)
    assert [episode["steps"] for episode in report["episodes"]] == [12, 12]
    assert (report["success_rate"], report["ci95"]) == (None, None)
    assert report["commands_out_of_limit"] == 0
    assert report["limits"]["max_velocity"]["a"] == {"value": 1.0, "source": "the driver"}
    assert report["interval"]["p50_ms"] == pytest.approx(40, abs=4)
    episode = read_recording(tmp_path / "r" / "episode_000001.npz")
    assert np.allclose(episode.arrays["command"], (0.2, -0.3))
    made = calls.read_text().splitlines()
    assert (made[0], made[-1]) == ("connect", "close")
    recorded = sum(read_recording(path).num_ticks for path in (tmp_path / "r").glob("*.npz"))
    # The last command of a session, of a robot at rest, may be dropped with the session's end.
    assert recorded - 2 <= made.count("send") <= recorded
    commands = report["commands"]
    assert commands["sent"] == recorded
    assert made.count("send") - 2 <= commands["accepted"] <= made.count("send")
    assert commands["superseded"] <= recorded - made.count("send")


def test_a_dry_run_checks_the_robot_and_sends_nothing(
    calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command("Real", "--dry-run", "--max-velocity", "50%")) == 0
    out = capsys.readouterr().out
    assert "small-arm: ready to run (none)" in out
    assert main(command("Real", "--dry-run", "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] and report["stop_category"] == 2
    assert "send" not in calls.read_text()


def test_a_driver_that_reports_degrees_does_not_pass_a_dry_run(
    calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command("InDegrees", "--dry-run")) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "joint b: expected -1 to 1 rad, got -54.96. Does the driver return degrees?" in error
    assert "send" not in calls.read_text()


def test_a_simulated_robot_may_be_driven_as_a_real_one(
    calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--realtime", "--seed", "7", "--episodes", "1", "--max-steps", "200", "--json")
    assert main(command("Simulated", *options, "--record", str(tmp_path / "r"))) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["clock"], report["prompt"]) == ("monotonic", "wave")
    (episode,) = report["episodes"]
    assert (episode["success"], episode["strict_success"], episode["waved"]) == (True,) * 3
    assert 32 <= episode["steps"] < 80
    commands = read_recording(tmp_path / "r" / "episode_000000.npz").arrays["command"]
    assert np.allclose(commands, (0.07, 0.0))


def test_a_factory_of_simulated_robots_runs_in_simulated_time(
    calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("run", "--robot", "small_arms:make_simulated", "--policy", "hold", "--episodes", "1")
    assert main([*options, "--max-steps", "5", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["clock"], report["ticks"]) == ("simulated", 5)
    assert (report["outcome"], report["scheduling"]) == ("finished", None)


def test_options_for_real_time_are_refused_in_simulated_time(
    calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command("Simulated", "--hold-for", "1")) == 2
    assert "--hold-for" in capsys.readouterr().err
