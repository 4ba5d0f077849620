"""What flux-export cannot use is refused at once, with the file to use instead."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flux_runtime.export.cli import main


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of a run's last checkpoint, with the weights beside it."""
    for suffix in (".pt", ".safetensors"):
        shutil.copy(tiny_run / f"checkpoint_epoch_1{suffix}", tmp_path)
    return tmp_path


def refusal(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main([str(path), *options]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    return lines[0]


def test_weights_alone_name_the_checkpoint_beside_them(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(run / "checkpoint_epoch_1.safetensors", capsys)
    assert "got weights alone" in said
    assert said.endswith(f"Export {run / 'checkpoint_epoch_1.pt'} instead")
    os.rename(run / "checkpoint_epoch_1.safetensors", run / "model.safetensors")
    said = refusal(run / "model.safetensors", capsys)
    assert said.endswith(f"Export {run / 'checkpoint_epoch_1.pt'} instead")
    (run / "checkpoint_epoch_1.pt").unlink()
    said = refusal(run, capsys)
    assert said.endswith("Export the checkpoint_*.pt of the training")


def test_an_adapter_names_the_checkpoint_that_holds_it_merged(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run / "checkpoint_epoch_1_adapter"
    folder.mkdir()
    save_file({"x.lora_A.weight": torch.zeros(1)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": 8}))
    said = refusal(folder, capsys)
    assert "got a LoRA adapter" in said
    assert f"Use {run / 'checkpoint_epoch_1.pt'} to export it" in said
    shutil.move(folder, run / "other")
    assert ".merge_and_unload()" in refusal(run / "other", capsys, "--out", str(run / "out"))


@pytest.mark.parametrize("part", ["model", "ema"])
def test_a_weight_that_is_not_finite_is_named(
    part: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, name = run / "checkpoint_epoch_1.pt", "action_out_proj.projector.weight"
    state = torch.load(path, weights_only=True)
    state[part][name][0, 3] = torch.nan
    if part == "model":
        state["ema"] = None
    torch.save(state, path)
    said = refusal(path, capsys, "--out", str(run / "out"))
    assert f"{name}: expected finite weights, got nan at [0, 3]" in said
    assert "again" not in said
    assert not (run / "out").exists()


def test_a_bundles_weight_that_is_not_finite_is_named(
    tiny_export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from flux_core.bundle.bundle import Bundle, write_manifest

    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_export / "bundle", bundle)
    weights = load_file(bundle / "model.safetensors")
    name = "action_out_proj.projector.weight"
    weights[name] = weights[name].clone()
    weights[name][0, 3] = torch.inf
    manifest = Bundle.open(bundle).manifest
    save_file(weights, bundle / "model.safetensors", metadata={"format": "pt"})
    write_manifest(bundle, manifest)
    said = refusal(bundle, capsys, "--out", str(tmp_path / "out"))
    assert f"{name}: expected finite weights, got inf at [0, 3]" in said


def test_a_work_dir_names_its_newest_checkpoint(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(run, capsys, "--out", str(run / "out"))
    assert f"got a work dir. Export {run / 'checkpoint_epoch_1.pt'} instead" in said
