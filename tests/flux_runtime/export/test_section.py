"""The robot's section of a checkpoint at export: compared with training, and changed by options."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flux_core.agreement import Changes
from flux_core.bundle import Bundle
from flux_core.errors import ExportError, UsageError
from flux_runtime.export.cli import main
from flux_runtime.export.source.policy import TrainedPolicy, load_policy
from flux_runtime.export.source.section import SectionEdits

CHECKPOINT = Path(__file__).resolve().parents[2] / "golden" / "old_checkpoint.pt"
Edit = Callable[[dict[str, Any]], object]


def edited(folder: Path, edit: Edit, **more: Any) -> Path:
    """A small checkpoint with another config."""
    state = torch.load(CHECKPOINT, weights_only=True)
    edit(state["config"])
    path = folder / "checkpoint_epoch_1.pt"
    torch.save({**state, **more}, path)
    return path


def loaded(checkpoint: Path, **edits: Any) -> TrainedPolicy:
    return load_policy(checkpoint, edits=SectionEdits(**edits))


def three_cameras(config: dict[str, Any]) -> None:
    """Training with three cameras, of which the robot's section has the first."""
    columns = [f"observation.images.{name}" for name in ("cam_high", "cam_left_wrist", "cam_low")]
    inputs = config["train_dataloader"]["dataset"]["datasets"]["transforms"][0]
    inputs["video_keys"] = columns


def longer_delays(config: dict[str, Any]) -> None:
    """Four steps share a token, so delays are multiples of four."""
    config["model"]["rtc_training_config"]["max_delay"] = 12


@pytest.mark.parametrize(
    ("edit", "parts"),
    [
        (
            lambda c: c["inference"]["denormalize_action"].update(action_key="proprio"),
            ["inference.denormalize_action.action_key: expected 'action'", "got 'proprio'"],
        ),
        (
            lambda c: c["inference"]["denormalize_action"].update(action_dim=7),
            ["inference.denormalize_action.action_dim: expected at least 14", "got 7"],
        ),
        (three_cameras, ["inference.dataset.img_keys", "cam_left_wrist", "--cameras"]),
    ],
)
def test_a_section_that_contradicts_the_training_is_not_exported(
    edit: Edit, parts: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ExportError) as error:
        loaded(edited(tmp_path, edit))
    told = str(error.value)
    assert all(part in told for part in [*parts, "and name it with --config"]), told


def test_a_config_with_a_corrected_section_repairs_it(tmp_path: Path) -> None:
    wrong = edited(
        tmp_path, lambda c: c["inference"]["denormalize_action"].update(action_key="proprio")
    )
    config = tmp_path / "config.json"
    section = torch.load(CHECKPOINT, weights_only=True)["config"]["inference"]
    config.write_text(json.dumps({"inference": section}))
    policy = loaded(wrong, config=config)
    assert policy.inference.denormalize_action.action_key == "action"
    assert policy.provenance["changed_after_training"] == {"config": "config.json"}
    config.write_text("{}")
    with pytest.raises(UsageError, match="expected an `inference` section"):
        loaded(wrong, config=config)


def test_cameras_that_are_named_leave_out_the_others(tmp_path: Path) -> None:
    policy = loaded(edited(tmp_path, three_cameras), cameras=("cam_high",))
    dataset = policy.inference.dataset
    assert dataset.img_keys == ("cam_high",)
    assert dataset.trained_cameras == ("cam_high", "cam_left_wrist", "cam_low")


def test_the_rate_that_the_checkpoint_states_is_compared(tmp_path: Path) -> None:
    facts = {"aloha-sim": {"fps": 25.0, "state_dim": 14, "action_dim": 14, "tasks": []}}
    slow = edited(tmp_path, lambda c: None, data_facts=facts)
    with pytest.raises(ExportError, match=r"control_hz: expected 25, the fps of training"):
        loaded(slow)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (Changes(execution_horizon=33), "execution_horizon: expected 1 to 32"),
        (Changes(rtc={"prefix_len": 3}), "prefix_len: expected (0, 4, 8) as in training"),
    ],
)
def test_a_change_that_does_not_fit_the_network_is_refused(
    changes: Changes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError) as error:
        loaded(edited(tmp_path, longer_delays), changes=changes)
    assert message in str(error.value)


def test_the_options_end_up_in_the_bundle_and_its_provenance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    options = ["--execution-horizon", "4", "--tasks", "a=wave", "b=fold", "--rtc", "prefix_len=4"]
    checkpoint = edited(tmp_path, longer_delays)
    assert main([str(checkpoint), "--out", str(out), *options]) == 0, capsys.readouterr().err
    bundle = Bundle.open(out)
    manifest, section = bundle.manifest, bundle.config["inference"]
    assert (manifest.execution_horizon, manifest.prompt) == (4, "wave")
    assert manifest.tasks == {"a": "wave", "b": "fold"}
    assert manifest.rtc_valid_delays == (0, 4, 8)
    assert section["rtc_config"]["prefix_len"] == 4  # type: ignore[index]
    assert manifest.provenance["changed_after_training"] == {
        "execution_horizon": 4,
        "task_descriptions": {"a": "wave", "b": "fold"},
        "rtc_config": {"prefix_len": 4},
    }
    assert main([str(CHECKPOINT), "--out", str(tmp_path / "no"), "--tasks", "wave"]) == 2
    assert "--tasks: expected KEY=VALUE, got 'wave'" in capsys.readouterr().err
