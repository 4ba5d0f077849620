"""`flux-runtime replay`: a recorded run is the same again, bit for bit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_runtime import read_recording
from flux_runtime.replay import EpisodeComparison
from flux_runtime.run import replay_recording
from flux_runtime.run.replay_file import REPLAY_MAGIC, RecordKind
from flux_runtime.run.replay_writer import ReplayWriter
from flux_runtime.run.stream import StreamReader

from .conftest import RunRecorder

pytestmark = pytest.mark.usefixtures("core", "toy")
EPISODE = "episode_000000.replay"
LOCKSTEP = ("--episodes", "1", "--max-steps", "20")

KILLED = """
import os, signal, sys, time
import numpy as np
from pathlib import Path
from flux_runtime.control.episode_log import tick_rows
from flux_runtime.run.replay_recording import ReplayRecording

recording = ReplayRecording(Path(sys.argv[1]), {"clock": "simulated"}, is_realtime=False)
recording.add_start({"command": [0.0]})
row = np.zeros(1, tick_rows(1, 1))
for step in range(37):
    row["timestamp_s"] = step / 50
    recording.add_ticks(row.copy())
while recording._writer._num_bytes:
    time.sleep(0.001)
os.kill(os.getpid(), signal.SIGKILL)
"""


def only(report: dict[str, Any]) -> dict[str, Any]:
    """Returns the one episode of a report."""
    (episode,) = report["episodes"]
    return episode


def test_a_run_with_injected_faults_is_the_same_again(
    runs: RunRecorder, slow_bundle: Path, realtime_options: tuple[str, ...]
) -> None:
    options = (*realtime_options, "--mode", "async", "--episodes", "1", "--max-frame-age", "0.2")
    directory = runs.record("toy_arms:Faulty", slow_bundle, *options, code=1)
    assert runs.report["recording"] == "complete"
    recording = read_recording(directory / "episode_000000.npz")
    events = set(recording.arrays["event_name"].tolist())
    assert {"state_stale", "frame_stale", "state_not_finite", "left_limits"} <= events
    episode = only(runs.replay(directory))
    assert episode["identical"] and episode["made_with"] == {}
    assert episode["ticks"] >= recording.num_ticks > 40 and episode["events"] == "identical"
    assert episode["chunks"] > 3 and episode["different_chunks"] == 0
    assert (episode["clock"], episode["outcome"]) == ("monotonic", "failed")
    episode = only(runs.replay(directory, "--recorded-chunks"))
    assert episode["identical"] and episode["chunks"] == 0


@pytest.mark.parametrize(
    "options",
    [
        ("--mode", "rtc", "--episodes", "2", "--max-steps", "16"),
        ("--mode", "async", "--speed", "0.5", "--command-hz", "40", "--max-steps", "40"),
    ],
    ids=["rtc", "speed"],
)
def test_a_run_in_real_time_is_the_same_again(
    runs: RunRecorder,
    slow_bundle: Path,
    realtime_options: tuple[str, ...],
    options: tuple[str, ...],
) -> None:
    episodes = () if "--episodes" in options else ("--episodes", "1")
    directory = runs.record("toy_arms:Arm", slow_bundle, *realtime_options, *options, *episodes)
    if "rtc" in options:
        known_rows = [int(rows) for rows in runs.report["rtc"]["delays"]]
        assert max(known_rows) > 0
    for episode in runs.replay(directory)["episodes"]:
        assert episode["identical"], episode
        assert episode["chunks"] > 3


def test_a_run_without_a_network_is_the_same_again(
    runs: RunRecorder, realtime_options: tuple[str, ...]
) -> None:
    options = (*realtime_options, "--episodes", "1", "--max-steps", "12")
    directory = runs.record("toy_arms:Arm", None, *options)
    assert only(runs.replay(directory))["identical"]
    directory = runs.record("toy", None, *LOCKSTEP)
    assert only(runs.replay(directory))["identical"]
    assert "--policy hold" in runs.refusal(directory, "--engine", "onnxruntime", code=2)


@pytest.mark.parametrize("mode", ["sync", "async", "ensemble", "rtc"])
def test_episodes_on_simulated_time_are_the_same_again(
    runs: RunRecorder, fakes: Any, tmp_path: Path, mode: str
) -> None:
    bundle = fakes.write_toy_bundle(tmp_path / "bundle", rtc_valid_delays=(0, 2))
    options = ("--mode", mode, "--inference-delay", "2", "--episodes", "2", "--max-steps", "30")
    directory = runs.record("toy", bundle, *options, "--speed", "0.5")
    report = runs.replay(directory)
    assert [episode["identical"] for episode in report["episodes"]] == [True, True]
    assert [episode["seed"] for episode in report["episodes"]] == [10_000, 10_001]
    assert only(runs.replay(directory, "--episode", "1"))["file"] == "episode_000001.replay"
    assert "got no episode_000007.replay" in runs.refusal(directory, "--episode", "7", code=2)
    assert "--recorded-chunks" in runs.refusal(directory, "--recorded-chunks", code=2)


def test_the_largest_difference_of_another_engine_is_printed(
    runs: RunRecorder, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino")
    directory = runs.record("toy", toy_bundle, *LOCKSTEP, "--engine", "onnxruntime")
    report = runs.replay(directory, "--engine", "openvino")
    episode = only(report)
    assert report["ok"]
    assert episode["made_with"]["engine"] == "onnxruntime -> openvino"
    largest = {entry["joint"]: entry["value"] for entry in episode["largest_difference"]}
    assert list(largest) == ["left_a", "left_b", "left_gripper"]
    assert all(0 <= value < 1e-5 for value in largest.values())


def test_another_decoder_is_told_by_the_first_and_the_largest_difference(
    runs: RunRecorder,
    toy_bundle: Path,
    fakes: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from flux_runtime.cli import main

    directory = runs.record("toy", toy_bundle, *LOCKSTEP)
    scale = np.array([0.5, 0.5, 0.25], np.float32)
    monkeypatch.setattr(fakes.ToyEncoder, "scale", scale)
    report = runs.replay(directory, code=1)
    episode = only(report)
    assert not report["ok"] and not episode["identical"]
    assert episode["first_difference"]["what"] == "command of joint left_gripper"
    largest = {entry["joint"]: entry for entry in episode["largest_difference"]}
    assert largest["left_a"]["value"] == 0.0 < largest["left_gripper"]["value"]
    recorded = read_recording(directory / "episode_000000.npz")
    assert largest["left_gripper"]["time_s"] <= recorded.arrays["timestamp_s"][-1]
    assert main(["replay", str(directory)]) == 1
    lines = capsys.readouterr().out
    assert "20 ticks are different" in lines
    assert "what turns actions into robot units is different: scale" in lines
    assert "first difference: tick 0 (0.000 s): command of joint left_gripper: recorded" in lines
    assert "left_gripper" in lines.split("largest difference of the commands")[1]


def test_another_bundle_is_named(runs: RunRecorder, toy_bundle: Path, fakes: Any) -> None:
    directory = runs.record("toy", toy_bundle, *LOCKSTEP)
    other = fakes.write_toy_bundle(toy_bundle.with_name("other"), prompt="wave")
    episode = only(runs.replay(directory, "--bundle", str(other)))
    assert episode["made_with"] == {"bundle": "other manifest.json"}
    shutil.rmtree(toy_bundle)
    assert "Name it with --bundle DIR" in runs.refusal(directory)


def test_a_recording_with_a_dropped_record_is_refused(
    runs: RunRecorder, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(stream: Any, *, is_waiting: bool) -> ReplayWriter:
        return ReplayWriter(stream, is_waiting=False, queue_bytes=1)

    monkeypatch.setattr(replay_recording, "ReplayWriter", small)
    directory = runs.record("toy", toy_bundle, *LOCKSTEP)
    assert runs.report["recording"] == "incomplete"
    dropped = runs.report["recording_dropped"]["chunks"]
    assert dropped > 0
    assert f"{dropped} chunks (chunk 0" in runs.refusal(directory)


@pytest.mark.parametrize("kind", [RecordKind.TICKS, RecordKind.CHUNK])
def test_a_recording_from_which_a_record_was_removed_is_refused(
    runs: RunRecorder, toy_bundle: Path, kind: RecordKind
) -> None:
    path = runs.record("toy", toy_bundle, *LOCKSTEP) / EPISODE
    records = list(StreamReader(path, REPLAY_MAGIC).records())
    places = [record.offset for record in records]
    last = max(i for i, record in enumerate(records) if record.kind == kind)
    whole = path.read_bytes()
    path.write_bytes(whole[: places[last]] + whole[places[last + 1] :])
    assert f"records of the kind {kind.name}, got" in runs.refusal(path.parent)


def test_a_record_of_another_kind_is_damaged(runs: RunRecorder, toy_bundle: Path) -> None:
    path = runs.record("toy", toy_bundle, *LOCKSTEP) / EPISODE
    whole = path.read_bytes()
    for record in StreamReader(path, REPLAY_MAGIC).records():
        damaged = bytearray(whole)
        damaged[record.offset] ^= 1
        path.write_bytes(damaged)
        assert "damaged" in runs.refusal(path.parent)
        path.write_bytes(whole)


def test_a_full_disk_leaves_a_recording_that_is_incomplete(
    runs: RunRecorder, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def nearly_full(file: int, data: Any) -> int:
        is_replay = os.readlink(f"/proc/self/fd/{file}").endswith(".replay")
        if is_replay and os.fstat(file).st_size > 20_000:
            raise OSError(28, "No space left on device")
        return write(file, data)

    monkeypatch.setattr(os, "write", nearly_full)
    directory = runs.record("toy", toy_bundle, *LOCKSTEP, code=1)
    assert runs.report["recording"] == "incomplete"
    assert "No space left on device). It cannot be replayed" in runs.report["reason"]
    assert "or the disk was full" in runs.refusal(directory)


def test_a_chunk_before_the_first_tick_of_a_batch_is_no_difference() -> None:
    ticks = np.zeros(0, [("command", np.float32, (2,)), ("flags", np.uint32)])
    comparison = EpisodeComparison(joint_names=("a", "b"))
    comparison.add_ticks(ticks, ticks, np.zeros(0), ("command", "flags"))
    assert comparison.is_identical and comparison.num_ticks == 0


def test_a_killed_process_leaves_what_is_refused_with_its_last_tick(
    runs: RunRecorder, tmp_path: Path
) -> None:
    path = tmp_path / EPISODE
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    line = runs.refusal(tmp_path)
    assert "was cut off after tick 36 (0.72 s), because its process was killed or the disk" in line


def test_a_damaged_recording_is_refused_in_one_line(runs: RunRecorder, toy_bundle: Path) -> None:
    directory = runs.record("toy", toy_bundle, *LOCKSTEP)
    path = directory / EPISODE
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    path.write_bytes(damaged)
    assert "is damaged at byte" in runs.refusal(directory)
    path.write_bytes(whole[: len(whole) // 2])
    assert "was cut off after" in runs.refusal(directory)
    path.write_bytes(whole + bytes(100))  # as a machine that loses power may leave it
    assert f"is damaged at byte {len(whole)}" in runs.refusal(directory)
    path.write_bytes(b"PK\x03\x04")
    assert "begins with FLUXRP01" in runs.refusal(directory)
    path.unlink()
    assert "expected episode_*.replay" in runs.refusal(directory)
