"""Runs that are recorded as LeRobot datasets: their content, their end by SIGKILL, their use.

What was sent is compared with the arm's own log; what was shown with the numbers in its pictures.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_data.commands.main import main as data_main
from flux_data.lerobot.dataset import LeRobotDataset, open_lerobot
from flux_data.record.growing import WORK_FOLDER
from flux_data.repair.repairing import repair
from flux_data.validate.rows import validate
from flux_data.video.reader import VideoReader
from flux_runtime import read_recording
from flux_runtime.cli import main as runtime_main
from flux_train.cli import main as train_main

from .fake_arm.arm import CAMERAS, CODE_ROWS
from .fake_arm.judge import ArmLog
from .fake_arm.runs import PROGRAM, ROBOT, arm, environment, limits_of, make_bundle, spawn, wait_for

HZ = limits_of().control_hz
STEPS, SHORT = 30, 8
LIMIT_S = 90.0
CONFIG = Path(__file__).parents[2] / "configs" / "pi05" / "pi05_small_aloha_sim.py"


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A run that has ended."""

    folder: Path
    dataset: Path
    status: int
    report: dict[str, Any]
    errors: str


def command(folder: Path, *options: str) -> list[str]:
    bundle = folder / "bundle"
    if not bundle.exists():
        make_bundle(bundle)
    return [
        *(sys.executable, "-c", PROGRAM, "run", "--robot", ROBOT, "--bundle", str(bundle)),
        *("--mode", "async", "--json", "--record-dataset", str(folder / "set"), *options),
    ]


def drive(folder: Path, *options: str) -> Recorded:
    """Runs to the end."""
    folder.mkdir(exist_ok=True)
    (folder / "arm.sock").unlink(missing_ok=True)
    with (
        arm(folder, are_numbers_shown=True),
        spawn(
            command(folder, *options),
            env=environment(folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process,
    ):
        try:
            output, errors = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
    lines = [line for line in output.splitlines() if line.startswith("{")]
    return Recorded(
        folder=folder,
        dataset=folder / "set",
        status=process.returncode,
        report=json.loads(lines[-1]) if lines else {},
        errors=errors,
    )


def kill_in_fifth_episode(folder: Path, version: str, victims: str) -> Path:
    """Sends SIGKILL to the run, to its recording process, or to both."""
    folder.mkdir()
    options = ("--to", version, "--episodes", "7", "--max-steps", f"{SHORT}")
    with (
        arm(folder),
        spawn(
            command(folder, *options),
            env=environment(folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process,
    ):
        try:
            wait_for(lambda: session_of_newest(folder) == 5 or process.poll() is not None, LIMIT_S)
            (recorder,) = children(process.pid, "record")
            for pid in (process.pid,) * (victims != "recorder") + (recorder,) * (victims != "run"):
                os.kill(pid, signal.SIGKILL)
            process.communicate(timeout=LIMIT_S)
            wait_for(lambda: not Path(f"/proc/{recorder}").exists(), LIMIT_S)
        finally:
            process.kill()
    return folder / "set"


def session_of_newest(folder: Path) -> int:
    log = folder / "log.jsonl"
    commands = ArmLog.read(log).commands if log.exists() else []
    return commands[-1].stamp["session"] if commands else 0


def children(pid: int, argument: str) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in found
        if argument in Path(f"/proc/{child}/cmdline").read_text().split("\0")
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Any]]]:
    """A run that ends as planned, and one that is killed, side by side."""
    folder = tmp_path_factory.mktemp("recorded")
    planned = ("--to", "v3.0", "--episodes", "2", "--max-steps", f"{STEPS}")
    record = ("--record", str(folder / "recording"))
    with ThreadPoolExecutor(2) as pool:
        yield {
            "planned": pool.submit(drive, folder / "planned", *planned, *record),
            "killed": pool.submit(kill_in_fifth_episode, folder / "killed", "v2.1", "run"),
        }


def faults(root: Path) -> list[Any]:
    return list(validate(root))


def numbers_shown(source: LeRobotDataset, episode: int, camera: str) -> list[int]:
    """The number that each picture of an episode shows."""
    video, reader = source.video(f"observation.images.{camera}", episode), VideoReader()
    found: list[int] = []
    for row in range(int(source.lengths[episode])):
        image = reader.frame(video.path, video.start_s + row / HZ, 0.5 / HZ)
        blocks = image[CODE_ROWS].mean(axis=-1).reshape(2, 4, 8, 4).mean(axis=(1, 3)) > 127
        found.append(sum(1 << place for place, bit in enumerate(blocks.ravel()) if bit))
    return found


def test_a_recording_holds_what_the_arm_was_sent_and_what_its_cameras_showed(
    runs: dict[str, Future[Recorded]],
) -> None:
    run = runs["planned"].result()
    assert run.status == 0, run.errors
    told = run.report["dataset_recording"]
    assert (told["episodes"], told["rows"], told["pictures"]) == (2, 2 * STEPS, 4 * STEPS)
    assert (told["complete"], told["dropped"]) == (True, {"rows": 0, "pictures": 0})
    assert faults(run.dataset) == []
    source, log = open_lerobot(run.dataset), ArmLog.read(run.folder / "log.jsonl")
    assert source.info.get("robot_type") == "fake-arm" and source.fps == HZ
    taken = {event["stamp"]: event["number"] for event in log.events if event["what"] == "frames"}
    stamps = np.array(sorted(taken))
    for episode in range(2):
        columns = source.episode(episode, ["action", "observation.state"])
        sent = {c.stamp["sequence"]: c for c in log.commands if c.stamp["session"] == episode + 1}
        # A command that was superseded never reached the arm.
        commands = {number - 1: c for number, c in sent.items() if number <= STEPS}
        assert len(commands) > STEPS / 2
        for row, arrived in commands.items():
            np.testing.assert_array_equal(columns["action"][row], np.float32(arrived.values))
        recording = read_recording(
            run.folder.parent / "recording" / f"episode_{episode:06d}.npz"
        ).arrays
        np.testing.assert_array_equal(columns["observation.state"], recording["state"][:STEPS])
        for place, camera in enumerate(CAMERAS):
            ages_s = np.asarray(recording["frame_age_s"][:, place], np.float64)
            captured = np.asarray(recording["sent_s"], np.float64) - ages_s
            nearest = np.abs(stamps[None] - captured[:STEPS, None] * 1e9).argmin(axis=1)
            expected = [taken[int(stamp)] % (1 << 16) for stamp in stamps[nearest]]
            assert numbers_shown(source, episode, camera) == expected


def test_a_run_that_is_killed_in_its_fifth_episode_leaves_four_that_are_intact(
    runs: dict[str, Future[Path]], tmp_path: Path
) -> None:
    dataset = runs["killed"].result()
    assert faults(dataset) == []
    assert open_lerobot(dataset).lengths.tolist() == [SHORT] * 4
    assert repair(dataset, tmp_path / "repaired")["num_episodes"] == 4
    assert data_main(["record", str(dataset)]) == 0
    assert not (dataset / WORK_FOLDER).exists()
    assert faults(dataset) == []


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("victims", ["recorder", "both", "run"])
def test_whoever_is_killed_the_episodes_before_are_intact_and_others_follow(
    tmp_path: Path, version: str, victims: str
) -> None:
    dataset = kill_in_fifth_episode(tmp_path / "run", version, victims)
    assert faults(dataset) == []
    assert open_lerobot(dataset).num_episodes == 4
    again = drive(dataset.parent, "--episodes", "1", "--max-steps", f"{SHORT}")
    assert again.status == 0, again.errors
    assert again.report["dataset_recording"]["episodes_before"] == 4
    assert open_lerobot(dataset).lengths.tolist() == [SHORT] * 5
    assert not (dataset / WORK_FOLDER).exists()
    assert faults(dataset) == []


def simulated(*options: str) -> int:
    return runtime_main(["run", "--robot", "aloha-sim", "--episodes", "2", *options, "--json"])


def test_a_recorded_run_trains(
    tmp_path: Path, tiny_network: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = tmp_path / "set"
    assert simulated("--max-steps", "12", "--record-dataset", str(dataset)) == 0
    report = json.loads(capsys.readouterr().out)["dataset_recording"]
    assert (report["version"], report["rows"], report["complete"]) == ("v2.1", 24, True)
    assert data_main(["validate", str(dataset)]) == 0
    options = [*tiny_network, f"train_dataloader.dataset.datasets.data_root_path={dataset}"]
    code = train_main([str(CONFIG), str(tmp_path / "run"), "--dry-run", "--cfg-options", *options])
    assert code == 0, capsys.readouterr().err
