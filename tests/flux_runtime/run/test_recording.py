"""Recordings: every tick until a run ends is on disk, whatever ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flux_runtime
from flux_core.errors import DataError, UsageError
from flux_runtime.control.episode import EpisodeResult, run_episode
from flux_runtime.control.episode_log import Event, InferenceTimes, realtime_rows, tick_rows
from flux_runtime.control.policy_source import HoldSource
from flux_runtime.run.recorded_episode import read_recording
from flux_runtime.run.recording import EpisodeRecording, Recorder, prepare_recording
from flux_runtime.run.stream import ROWS, StreamWriter, read_stream

KILLED = """
import os, signal, sys, time
import numpy as np
from pathlib import Path
from flux_core.robots import robot_spec
from flux_runtime.control.episode_log import tick_rows
from flux_runtime.run.recording import Recorder

spec = robot_spec("ur3")
recording = Recorder(Path(sys.argv[1]), spec).begin(prompt="push", seed=3)
row = np.zeros(1, tick_rows(spec.state_dim, spec.action_dim))
for step in range(37):
    row["timestamp_s"] = step / 50
    recording.add_rows(row)
os.kill(os.getpid(), signal.SIGKILL)
"""


def record(fakes: Any, folder: Path, robot: Any = None, **changes: Any) -> EpisodeResult:
    """Records one episode as `flux-runtime run` does."""
    robot = robot or fakes.ToyRobot()
    recording = Recorder(folder, robot.spec).begin(prompt="wave", seed=7)
    fields: dict[str, Any] = {"prompt": "wave", "seed": 7, "max_steps": 60}
    fields |= {"source": HoldSource(robot.spec)}
    fields |= {"loop": fakes.FakeLoop(), "log": recording, "on_end": recording.finish}
    return run_episode(robot=robot, **(fields | changes))


def failing_at(fakes: Any, step: int, error: BaseException) -> Any:
    """A toy robot that raises `error` instead of taking a command."""
    robot = fakes.ToyRobot(transferred_at=999)
    obey = robot.command

    def command(action: np.ndarray) -> None:
        if len(robot.commands) == step:
            raise error
        obey(action)

    robot.command = command
    return robot


def test_a_recording_holds_every_tick(fakes: Any, tmp_path: Path) -> None:
    result = record(fakes, tmp_path)
    with np.load(tmp_path / "episode_000000.npz") as arrays:
        assert arrays["state"].shape == arrays["command"].shape == (result.steps, 3)
        assert (arrays["command"] == np.stack(result.trace.commands)).all()
        assert (arrays["state"] == np.stack(result.trace.states)).all()
        assert arrays["chunk_starts"].tolist() == result.trace.chunk_starts
        assert np.allclose(arrays["timestamp_s"] - arrays["lateness_s"], np.arange(29) / 50)
        assert arrays["flags"].dtype == arrays["chunk_starts"].dtype == np.int64
        assert len(arrays["flags"]) == result.steps
    line = json.loads((tmp_path / "episodes.jsonl").read_text())
    assert (line["file"], line["seed"], line["outcome"]) == ("episode_000000.npz", 7, "finished")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "episode_000000.npz",
        "episodes.jsonl",
    ]


@pytest.mark.parametrize(
    ("error", "outcome", "stopped_by"),
    [
        (OSError("cable"), "failed", "OSError"),
        (KeyboardInterrupt(), "interrupted", "SIGINT"),
        (SystemExit(143), "interrupted", "SIGTERM"),
    ],
)
def test_an_episode_that_ends_early_is_recorded_until_then(
    fakes: Any, tmp_path: Path, error: BaseException, outcome: str, stopped_by: str
) -> None:
    with pytest.raises(type(error)):
        record(fakes, tmp_path, failing_at(fakes, 37, error))
    episode = read_recording(tmp_path / "episode_000000.npz")
    assert (episode.num_ticks, episode.outcome) == (37, outcome)
    line = json.loads((tmp_path / "episodes.jsonl").read_text())
    assert (line["stopped_by"], line["steps"], line["success"]) == (stopped_by, 37, None)
    assert line["reason"]


def test_what_a_killed_process_recorded_can_be_read(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    episode = flux_runtime.read_recording(tmp_path / "episode_000000.stream")
    assert (episode.num_ticks, episode.outcome, episode.robot) == (37, "killed", "ur3")
    assert (episode.prompt, episode.seed, len(episode.joint_names)) == ("push", 3, 7)
    assert np.allclose(episode.arrays["timestamp_s"], np.arange(37) / 50)
    with pytest.raises(UsageError, match="was cut off when its process ended") as caught:
        prepare_recording(tmp_path)
    assert "read_recording" in str(caught.value)


@pytest.fixture
def stream(fakes: Any, tmp_path: Path) -> Iterator[EpisodeRecording]:
    recording = Recorder(tmp_path, fakes.toy_spec()).begin(prompt="wave", seed=7)
    yield recording
    recording._stream.close()


def rows(count: int, first: int = 0) -> Any:
    made = np.zeros(count, tick_rows(3, 3))
    made["timestamp_s"] = np.arange(first, first + count)
    return made


def test_only_a_record_that_was_cut_off_is_lost(
    stream: EpisodeRecording, fakes: Any, tmp_path: Path
) -> None:
    path = tmp_path / "episode_000000.stream"
    for step in range(5):
        stream.add_rows(rows(1, step))
    whole = path.read_bytes()
    size = rows(1).nbytes
    for lost in (1, size // 2, size, size + 8):
        path.write_bytes(whole[:-lost])
        assert read_recording(path).arrays["timestamp_s"].tolist() == [0, 1, 2, 3]
    damaged = bytearray(whole)
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert read_recording(path).num_ticks == 4
    path.write_bytes(whole[:30])
    with pytest.raises(DataError, match="ends within its header"):
        read_recording(path)
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match="begins with FLUXEP01"):
        read_recording(path)


def test_appending_hands_rows_to_the_system_at_once(
    stream: EpisodeRecording, tmp_path: Path
) -> None:
    stream.add_rows(rows(2))
    assert read_recording(tmp_path / "episode_000000.stream").num_ticks == 2


def test_a_full_disk_ends_the_recording_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = StreamWriter(tmp_path / "x.stream", {"rows": []})
    stream.append(ROWS, b"first")

    def full(file: int, data: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(DataError, match=r"x\.stream: cannot be written \(No space left"):
            stream.append(ROWS, b"second")
    with pytest.raises(DataError, match="No space left"):
        stream.append(ROWS, b"third")
    stream.close()
    assert list(read_stream(tmp_path / "x.stream")[1]) == [(ROWS, b"first")]


@pytest.mark.parametrize("name", ["episode_000000.npz", "episodes.jsonl"])
def test_a_disk_that_is_full_when_an_episode_ends_keeps_its_stream(
    fakes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    sync = os.fsync

    def full(file: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{file}")).name.removesuffix(".partial") == name:
            raise OSError(28, "No space left on device")
        sync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=rf"{name}: cannot be written \(No space") as caught:
            record(fakes, tmp_path)
    stream = tmp_path / "episode_000000.stream"
    assert str(stream) in str(caught.value)
    assert read_recording(stream).outcome == "finished"
    assert not list(tmp_path.glob("*.partial"))
    lines = tmp_path / "episodes.jsonl"
    assert not lines.exists() or lines.read_text() == ""


def test_a_recording_in_real_time_has_true_times_events_and_ages(
    fakes: Any, tmp_path: Path
) -> None:
    cameras = ("cam_a", "cam_b")
    recording = Recorder(tmp_path, fakes.toy_spec()).begin(
        prompt="wave", seed=7, is_realtime=True, cameras=cameras
    )
    ticks = np.zeros(3, realtime_rows(3, 3, 2))
    ticks["timestamp_s"] = [0.0005, 0.0203, 0.071]
    ticks["sent_s"] = ticks["timestamp_s"] + 1000
    ticks["frame_age_s"] = [[0.01, 0.02], [0.03, 0.04], [np.nan, 0.06]]
    recording.add_rows(ticks)
    recording.add_event(Event(time_s=0.05, name="frame_stale", subject="cam_a", value=0.3))
    recording.add_inference(
        InferenceTimes(
            time_s=0.015, duration_s=0.01, state_age_s=0.004, frame_ages_s={"cam_a": 0.02}
        )
    )
    result = run_episode(
        robot=fakes.ToyRobot(),
        loop=fakes.FakeLoop(),
        source=HoldSource(fakes.toy_spec()),
        prompt="wave",
        seed=7,
        max_steps=3,
    )
    episode = read_recording(recording.finish(result))
    arrays = episode.arrays
    assert episode.cameras == cameras
    assert arrays["sent_s"].tolist() == [1000.0005, 1000.0203, 1000.071]
    assert np.array_equal(arrays["frame_age_s"], ticks["frame_age_s"], equal_nan=True)
    assert (arrays["event_name"].tolist(), arrays["event_subject"].tolist()) == (
        ["frame_stale"],
        ["cam_a"],
    )
    assert np.isnan(arrays["event_limit"][0])
    assert arrays["chunk_starts"].tolist() == [1]
    assert np.array_equal(arrays["inference_frame_age_s"], [[0.02, np.nan]], equal_nan=True)


def test_an_episode_of_an_earlier_version_can_be_read(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "state": np.zeros((2, 3), np.float32),
        "command": np.zeros((2, 3), np.float32),
    }
    arrays["timestamp_s"] = np.zeros(2)
    np.savez_compressed(tmp_path / "episode_000000.npz", allow_pickle=False, **arrays)
    line = {"file": "episode_000000.npz", "robot": "toy", "prompt": "wave", "seed": 4}
    (tmp_path / "episodes.jsonl").write_text(json.dumps(line) + "\n")
    episode = read_recording(tmp_path / "episode_000000.npz")
    assert (episode.robot, episode.prompt, episode.seed) == ("toy", "wave", 4)
    assert (episode.outcome, episode.num_ticks) == ("finished", 2)


def test_a_recording_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "episodes.jsonl").write_text("")
    with pytest.raises(UsageError, match="already holds a recording"):
        prepare_recording(tmp_path)
