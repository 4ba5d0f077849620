"""Runs of a real robot that an operator begins, pauses, judges and ends."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_core.config import bind
from flux_core.robots import RobotSpec
from flux_data.validate.rows import validate
from flux_runtime import read_recording
from flux_runtime.cli import main
from flux_runtime.control.policy_source import HoldSource
from flux_runtime.control.session import RunOptions
from flux_runtime.operator import opened_desk
from flux_runtime.realtime import RealtimeOptions
from flux_runtime.replay import ReplayOptions, replay
from flux_runtime.replay.comparison import EpisodeComparison
from flux_runtime.replay.realtime import replay_session
from flux_runtime.replay.recorded import read_replay
from flux_runtime.run.command import RunHooks, run
from flux_runtime.run.console import RunConsole

from ...machine_stalls import Attempt
from .conftest import FIRST_LEFT_S, Cue, FakeInputDevice, ScriptedOperator

pytestmark = pytest.mark.usefixtures("core")
WAIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Attended:
    """A run that a scripted operator has attended."""

    report: dict[str, Any]
    operator: ScriptedOperator
    calls: list[str]
    folder: Path


def attend(
    calls: Path,
    folder: Path,
    operator: ScriptedOperator,
    max_seconds: float = FIRST_LEFT_S,
    **realtime: Any,
) -> Attended:
    """Runs two episodes of the arm."""
    calls.unlink(missing_ok=True)
    options = RunOptions(
        robot="small_real_arm:Arm",
        policy="hold",
        episodes=2,
        max_seconds=max_seconds,
        record=folder,
        record_dataset=folder.with_name("dataset"),
        realtime_options=RealtimeOptions(priority=0, **realtime),
    )
    hooks = RunHooks(
        operator=lambda dead_man: opened_desk(dead_man, operator.descriptor), screen=operator
    )
    try:
        report = run(options, hooks)
    finally:
        operator.close()
    return Attended(
        report=report, operator=operator, calls=calls.read_text().splitlines(), folder=folder
    )


@pytest.fixture(scope="module")
def attended_runs() -> dict[int, Attended]:
    """The runs of `attended`: one, and one for each time that a test is run again."""
    return {}


@pytest.fixture
def attended(
    attended_runs: dict[int, Attended], arm: Path, tmp_path_factory: pytest.TempPathFactory
) -> Attended:
    """One run with everything that an operator may do."""
    if Attempt.number not in attended_runs:
        attended_runs[Attempt.number] = attend_everything(arm, tmp_path_factory)
    return attended_runs[Attempt.number]


def attend_everything(arm: Path, tmp_path_factory: pytest.TempPathFactory) -> Attended:
    """Runs two episodes in which an operator does everything that is possible."""
    left = FIRST_LEFT_S
    operator = ScriptedOperator(
        Cue("idle", "home"),
        Cue("homing", "start"),  # has no effect
        Cue("idle", "task wave"),
        Cue("idle", "start"),
        Cue("running", "home", left - 0.1),  # not while the robot moves
        Cue("running", "pause", left - 0.3),
        Cue("paused", "task"),  # no such command
        Cue("paused", "resume"),
        Cue("running", "success", left - 0.7),
        Cue("idle", "next"),
        Cue("idle", "resume"),  # not now
        Cue("idle", ""),
        Cue("running", "quit", left - 0.2),
    )
    return attend(arm, tmp_path_factory.mktemp("runs") / "r", operator)


def test_the_run_does_what_the_operator_asks_for(attended: Attended) -> None:
    assert attended.operator.is_done
    shown = [status.state for status in attended.operator.shown]
    # The screen shows the newest state only, and an arm may stop between two looks.
    assert [state for state in shown if state != "pausing"] == [
        *("idle", "homing", "idle", "running", "paused", "running", "idle", "running"),
    ]
    first, second = attended.report["episodes"]
    assert (first["success"], first["outcome"], first["pauses"]) == (True, "finished", 1)
    assert (first["task"], second["task"]) == ("wave", "wave")
    assert (second["success"], second["outcome"]) == (None, "interrupted")
    report = attended.report
    assert (report["outcome"], report["stopped_by"]) == ("interrupted", "operator")
    assert report["reason"] == "quit by the operator"
    assert report["success_rate"] == 1.0
    assert report["commands_out_of_limit"] == 0


def test_what_makes_no_sense_is_said_and_not_done(attended: Attended) -> None:
    said = "\n".join(attended.operator.said)
    for text in (
        "home: pause first",
        "operator: expected one of start, pause",
        "next: this policy has no other tasks",
        "resume: not now; start, next, task, home, quit",
    ):
        assert text in said


def test_a_pause_is_a_stop_of_category_2_and_the_same_episode_goes_on(attended: Attended) -> None:
    assert attended.calls.count("stop 2") == 2  # the pause, and the end of the run
    episode = read_recording(attended.folder / "episode_000000.npz")
    assert episode.arrays["event_name"].tolist().count("operator_stop") == 1
    times = episode.arrays["timestamp_s"]
    assert np.all(np.diff(times) > 0)
    sequence = episode.arrays["sequence"]
    assert sequence.tolist().count(1) == 2  # a session of the control thread before and after it
    steps = attended.report["episodes"][0]["steps"]
    assert int(np.isin(episode.arrays["phase"], (2, 3)).sum()) == steps


def test_a_pause_brakes_within_the_next_ticks(attended: Attended) -> None:
    episode = read_recording(attended.folder / "episode_000000.npz")
    (first, *_) = np.flatnonzero(episode.arrays["phase"] == 4)
    braked_s = float(episode.arrays["sent_s"][first])
    assert 0 < braked_s - attended.operator.written["pause"] < 0.25  # six periods


def test_the_episode_with_its_pause_is_replayed_bit_for_bit(attended: Attended) -> None:
    report: Any = replay(ReplayOptions(directory=attended.folder, recorded_chunks=True))
    assert report["ok"] and len(report["episodes"]) == 2
    assert all(episode["identical"] for episode in report["episodes"])
    recorded = [read_recording(path).num_ticks for path in attended.folder.glob("*.npz")]
    assert sum(episode["ticks"] for episode in report["episodes"]) >= sum(recorded)


def test_a_recording_from_before_slow_starts_and_grippers_is_replayed(attended: Attended) -> None:
    recorded = read_replay(attended.folder / "episode_000000.replay")
    settings = recorded.header["loop"]["settings"]
    for name in ("slow_start_s", "slow_start_speed", "closes_below", "closed_command"):
        del settings[name]
    for start in recorded.starts:
        del start["is_slow"]
    spec: RobotSpec = bind(RobotSpec, recorded.header["robot_spec"], "robot_spec")
    comparison = EpisodeComparison(joint_names=spec.joint_names)
    replay_session(recorded, HoldSource(spec), comparison, uses_recorded_chunks=True)
    assert comparison.is_identical and comparison.num_ticks == recorded.num_ticks


def test_the_way_to_the_prepare_pose_is_slow_and_smooth(attended: Attended) -> None:
    assert "small-arm: prepare pose: reached" in attended.operator.said
    sent = [line.split()[1:] for line in attended.calls if line.startswith("send")]
    way = np.array(sent, float)
    end = int(np.flatnonzero(np.abs(way - (0.3, 0.0)).max(axis=1) < 1e-6)[0])
    assert 10 < end < 60
    steps = np.diff(np.vstack([(0.2, -0.1), way[: end + 1]]), axis=0) * 25.0
    assert np.abs(steps).max() <= 0.2 + 1e-3  # a fifth of max_velocity
    assert np.all(steps[:, 0] >= -1e-6) and np.all(steps[:, 1] >= -1e-6)
    assert np.allclose(way[end:], (0.3, 0.0), atol=1e-6)  # the episodes hold the pose


def test_the_recordings_have_the_marks_and_the_tasks(attended: Attended) -> None:
    text = (attended.folder / "episodes.jsonl").read_text()
    first, second = (json.loads(line) for line in text.splitlines())
    assert (first["success"], first["prompt"], first["pauses"]) == (True, "wave", 1)
    assert (second["success"], second["stopped_by"]) == (None, "operator")


def test_the_dataset_has_the_marks_and_no_rows_of_a_pause(attended: Attended) -> None:
    dataset = attended.folder.with_name("dataset")
    assert validate(dataset) == []
    text = (dataset / "meta" / "episodes.jsonl").read_text()
    first, second = (json.loads(line) for line in text.splitlines())
    assert (first["success"], first["tasks"], first["outcome"]) == (True, ["wave"], "finished")
    assert (second["success"], second["stopped_by"]) == (None, "operator")
    steps = [episode["steps"] for episode in attended.report["episodes"]]
    assert [first["length"], second["length"]] == steps
    assert first["missed_steps"] == 0


def test_a_released_dead_man_pauses_the_run_and_an_unplugged_one_too(
    arm: Path, tmp_path: Path, devices: dict[str, FakeInputDevice]
) -> None:
    def device() -> FakeInputDevice:
        return devices["/dev/input/event5"]

    def release() -> None:
        device().press(is_held=False)

    def hold() -> None:
        device().press()
        operator.write("resume")

    operator = ScriptedOperator(
        Cue("idle", "start"),
        Cue("running", release, FIRST_LEFT_S - 0.2),
        Cue("paused", "resume"),  # nobody holds it
        Cue("paused", hold, after="hold the dead-man (Pedal BTN_TRIGGER) first"),
        Cue("running", lambda: device().unplug(), FIRST_LEFT_S - 0.4),
        Cue("paused", "quit"),
    )
    found = attend(arm, tmp_path / "r", operator, dead_man="/dev/input/event5:BTN_TRIGGER")
    (episode,) = found.report["episodes"]
    assert (episode["outcome"], episode["pauses"]) == ("interrupted", 1)
    said = "\n".join(operator.said)
    assert "was released: hold it, then go on" in said
    assert "was unplugged: begin a new run" in said
    assert found.calls.count("stop 2") == 2


def test_an_episode_whose_time_is_up_waits_for_its_mark(arm: Path, tmp_path: Path) -> None:
    operator = ScriptedOperator(
        Cue("idle", "start"),
        Cue("ended", "failure"),
        Cue("idle", "start"),
        Cue("ended", "start"),  # leaves it unmarked
    )
    report = attend(arm, tmp_path / "r", operator, max_seconds=0.2).report
    assert operator.is_done
    assert [episode["success"] for episode in report["episodes"]] == [False, None]
    assert [episode["steps"] for episode in report["episodes"]] == [5, 5]
    assert (report["outcome"], report["success_rate"]) == ("finished", 0.0)


def test_an_operator_who_hangs_up_before_the_first_episode_has_quit(
    arm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    operator = ScriptedOperator(Cue("idle", lambda: operator.hang_up()))
    found = attend(arm, tmp_path / "r", operator)
    report = found.report
    assert (report["episodes"], report["ticks"]) == ([], 0)
    assert (report["outcome"], report["reason"]) == (
        "interrupted",
        "quit by the operator before the first episode",
    )
    assert not any(call.startswith("send") for call in found.calls)
    RunConsole(RunOptions(robot="x"), is_json=False).print_report(report)
    assert "small-arm: quit by the operator before" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--prepare", "--dead-man /dev/input/event5"])
def test_options_for_an_operator_are_refused_for_a_simulated_robot(
    option: str, devices: dict[str, FakeInputDevice], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--robot", "aloha-sim", "--policy", "hold", *option.split()]) == 2
    assert f"{option.split()[0]}: expected a robot in real time" in capsys.readouterr().err


@dataclass
class Terminal:
    """A run on a terminal of its own."""

    process: subprocess.Popen[bytes]
    master: int
    slave: int
    settings: list[Any]
    shown: str = ""

    def wait_for(self, text: str) -> None:
        """Reads what is shown until it has `text`."""
        deadline_s = time.monotonic() + WAIT_S
        while text not in self.shown:
            assert time.monotonic() < deadline_s, self.shown[-2000:]
            assert self.process.poll() is None, self.shown[-2000:]
            if select.select([self.master], [], [], 0.1)[0]:
                self.shown += os.read(self.master, 65536).decode("utf-8", "replace")
        self.shown = self.shown.partition(text)[2]

    def press(self, keys: bytes) -> None:
        """Presses keys."""
        os.write(self.master, keys)


@pytest.fixture
def terminal(arm: Path) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    arguments = "run --robot small_real_arm:Arm --policy hold --priority 0 --task wave"
    program = Path(sys.executable).parent / "flux-runtime"
    # The leader of a new session gets the terminal that it opens first.
    line = f"exec {program} {arguments} < {os.ttyname(slave)} > {os.ttyname(slave)} 2>&1"
    process = subprocess.Popen(["bash", "-c", line], start_new_session=True)
    yield Terminal(process, master, slave, termios.tcgetattr(slave))
    if process.poll() is None:
        process.kill()
    process.wait()
    os.close(master)
    os.close(slave)


def test_on_a_terminal_keys_drive_the_run_and_a_signal_ends_it_while_a_task_is_typed(
    terminal: Terminal,
) -> None:
    terminal.wait_for("press Enter to begin")
    assert termios.tcgetattr(terminal.slave)[3] & termios.ICANON == 0
    terminal.press(b"\r")
    terminal.wait_for("running")
    terminal.wait_for("Space pause")
    terminal.press(b" ")
    terminal.wait_for("paused")
    terminal.press(b"t")
    terminal.press(b"reach")
    terminal.wait_for("task: reach_")
    terminal.process.send_signal(signal.SIGINT)
    deadline_s = time.monotonic() + WAIT_S
    while terminal.process.poll() is None and time.monotonic() < deadline_s:
        if select.select([terminal.master], [], [], 0.1)[0]:
            terminal.shown += os.read(terminal.master, 65536).decode("utf-8", "replace")
    assert terminal.process.returncode == 130, terminal.shown[-2000:]
    assert termios.tcgetattr(terminal.slave) == terminal.settings
