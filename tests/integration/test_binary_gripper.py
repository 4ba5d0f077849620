"""A policy whose grippers are 0 or 1, from training through export to the simulated robot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flux_core.bundle import Bundle
from flux_core.policy_io import PolicyIO
from flux_core.robots import ROBOT_SPECS
from flux_runtime import read_recording
from flux_runtime.cli import main as runtime
from flux_runtime.control.policy_source import decoder_arrays
from flux_runtime.engines.core import load_core
from flux_runtime.wire.facts import PolicyFacts

from ..conftest import MakeOnce

GRIPPERS = (6, 13)
KEYS = [
    ["left_arm", 6, "min_max"],
    ["left_gripper", 1, "binary"],
    ["right_arm", 6, "q99"],
    ["right_gripper", 1, "binary"],
]


@pytest.fixture(scope="module")
def bundle_dir(tiny_options: list[str], made_once: MakeOnce, repo_root: Path) -> Path:
    """Exported from a run of four steps; `action_smoothing` must leave the grippers alone."""
    from flux_runtime.export.cli import main as export
    from flux_train.cli import main as train

    keys = json.dumps(KEYS)
    options = [
        *tiny_options,
        f"train_dataloader.dataset.datasets.transforms.1.action_keys={keys}",
        f"inference.dataset.transforms.0.action_keys={keys}",
        f"inference.denormalize_action.action_keys={keys}",
        "model.rtc_training_config.max_delay=8",
        "model.action_smoothing=1.5",
    ]
    config = str(repo_root / "configs" / "pi05" / "pi05_small_aloha_sim.py")

    def write(folder: Path) -> None:
        run = folder / "run"
        assert train([config, str(run), "--cfg-options", *options]) == 0
        checkpoint = str(run / "checkpoint_epoch_1.pt")
        assert export([checkpoint, "--out", str(folder / "bundle"), "--json"]) == 0

    return made_once("binary_gripper", write) / "bundle"


@pytest.fixture(scope="module")
def io(bundle_dir: Path) -> PolicyIO:
    return PolicyIO.from_bundle(Bundle.open(bundle_dir))


def test_the_bundle_reproduces_pytorch(
    bundle_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runtime(["check", str(bundle_dir), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] and report["max_abs_error"] < 1e-4


def test_the_decoder_equals_python_and_turns_back(io: PolicyIO) -> None:
    assert np.flatnonzero(io.binary_mask).tolist() == [*GRIPPERS]
    arrays = decoder_arrays(io.scale, io.offset, io.relative_mask, io.binary_mask)
    decoder = load_core().ActionDecoder(**arrays)
    random = np.random.default_rng(0)
    outputs = random.normal(0.5, 0.5, (50, 16)).astype(np.float32)
    outputs[:3, 6] = [0.5, np.nextafter(np.float32(0.5), np.float32(1.0)), np.nan]
    outputs[3, 13] = np.inf
    state = io.mean_state
    actions = decoder.decode(outputs, state)
    np.testing.assert_array_equal(actions, io.decode(outputs, state))
    assert actions[:3, 6].tolist()[:2] == [0.0, 1.0] and np.isnan(actions[2, 6])
    actions = actions[4:]
    assert {*np.unique(actions[:, GRIPPERS])} == {0.0, 1.0}
    again = decoder.decode(decoder.encode(actions, 16, state), state)
    np.testing.assert_array_equal(again[:, GRIPPERS], actions[:, GRIPPERS])


def commands(folder: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """What was sent, (ticks, joints), and in which ticks something of a chunk was executed."""
    (path,) = folder.glob("episode_*.npz")
    recording = read_recording(path)
    held = load_core().HELD
    return recording.arrays["command"], (recording.arrays["flags"] & held) == 0


@pytest.mark.parametrize("mode", ["sync", "async", "ensemble", "rtc"])
def test_no_command_of_a_run_lies_between(
    bundle_dir: Path, tmp_path: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "recorded"
    options = ("--episodes", "1", "--max-steps", "80", "--mode", mode, "--record", str(folder))
    speed = ("--speed", "0.6") if mode in ("async", "rtc") else ()
    run = ["run", "--robot", "aloha-sim", "--bundle", str(bundle_dir), "--json"]
    assert runtime([*run, *options, *speed]) == 0, capsys.readouterr().err
    report = json.loads(capsys.readouterr().out)
    assert report["commands_out_of_limit"] == 0
    sent, is_moving = commands(folder)
    first = int(np.argmax(is_moving))
    grippers = sent[first:, GRIPPERS]
    assert {*np.unique(grippers)} == {0.0, 1.0}
    assert (np.diff(grippers, axis=0) != 0).sum() > 5
    arms = np.abs(np.diff(np.delete(sent, GRIPPERS, axis=1), axis=0)).max()
    assert arms <= max(ROBOT_SPECS["aloha-sim"].max_velocity[:6]) / 50.0 + 1e-6
    assert runtime(["replay", str(folder), "--json"]) == 0, capsys.readouterr()


def test_a_robot_far_from_the_policy_knows_its_switches(bundle_dir: Path) -> None:
    bundle = Bundle.open(bundle_dir)
    facts = PolicyFacts.of(bundle, "onnxruntime", can_continue=True)
    told = PolicyFacts.from_data(json.loads(json.dumps(facts.as_data())))
    np.testing.assert_array_equal(told.binary_mask, PolicyIO.from_bundle(bundle).binary_mask)
