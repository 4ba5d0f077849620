"""A checkpoint written before modules were moved into folders; tests/golden has its generator."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flux_core.bundle import Bundle
from flux_core.config.deployable import uses
from flux_core.models.weights.checkpoint_file import load_checkpoint
from flux_runtime.export.cli import main as export
from flux_train.cli import main as train

ROOT = Path(__file__).resolve().parents[3]
OLD = ROOT / "tests" / "golden" / "old_checkpoint.pt"


@pytest.fixture
def work_dir(tmp_path: Path, one_episode: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run's directory, beside the data as it was when the checkpoint was written."""
    (tmp_path / "episode").symlink_to(one_episode)
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copyfile(OLD, folder / "checkpoint_epoch_1.pt")
    (folder / "config.json").write_text(json.dumps(load_checkpoint(OLD)["config"]))
    monkeypatch.chdir(tmp_path)
    return folder


def dotted_types(config: dict[str, Any]) -> list[object]:
    return [use.name for use in uses(config) if ":" in str(use.name)]


def test_it_was_written_with_the_class_paths_of_its_time() -> None:
    assert dotted_types(load_checkpoint(OLD)["config"]) == ["flux_train.config:TrainConfig"]


def test_its_run_resumes_and_nothing_is_reported_as_changed(
    work_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = work_dir.parent / "then.json"
    shutil.copyfile(work_dir / "config.json", config)
    options = ["runner.max_steps=3", "runner.lr_scheduler_type=constant"]
    command = [str(config), str(work_dir), "--resume-from", "auto", "--cfg-options", *options]
    assert train(command) == 0
    changes = [line for line in caplog.messages if "changed settings" in line]
    assert len(changes) == 1 and "runner.lr_scheduler_type" in changes[0]
    assert changes[0].count("->") == 1, "only what this test has changed"
    written = json.loads((work_dir / "config.json").read_text())
    assert dotted_types(written) == [] and written["type"] == "TrainConfig"
    assert written["train_dataloader"]["type"] == "TrainDataloader"
    assert written["inference"]["rtc_config"]["type"] == "RTCConfig"
    state = load_checkpoint(work_dir / "checkpoint_epoch_1.pt")
    assert state["global_step"] == 3 and dotted_types(state["config"]) == []


def test_its_config_in_todays_spelling_is_the_same_config(
    work_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ["runner.max_steps=3", "--dry-run"]
    once = [str(work_dir / "config.json"), str(work_dir), "--resume-from", "auto"]
    assert train([*once, "--cfg-options", *options[:1]]) == 0
    caplog.clear()
    shutil.copyfile(OLD, work_dir / "checkpoint_epoch_1.pt")
    assert train([*once, "--cfg-options", *options]) == 0
    assert not [line for line in caplog.messages if "changed settings" in line]


def test_it_is_exported_and_its_bundle_names_no_path(work_dir: Path) -> None:
    out = work_dir.parent / "bundle"
    assert export([str(work_dir / "checkpoint_epoch_1.pt"), "--out", str(out)]) == 0
    bundle = Bundle.open(out)
    assert dotted_types(bundle.config) == []
    assert bundle.manifest.components["RTCConfig"].distribution == "flux-core"
