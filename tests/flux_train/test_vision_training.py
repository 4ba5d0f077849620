"""Training with an image encoder of `transformers`: from a folder, and in shards."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from flux_core.config import bind
from flux_core.models import FlowPolicy
from flux_core.models.weights.checkpoint_file import load_checkpoint

from ..vision_towers import STATISTICS, WIDTH, preprocessor, reference, section, weights_of
from .distributed.test_distributed import FSDP, HALF, ForkedRuns, losses, run

__all__ = ["run"]

SIZE = dict(image_height=96, image_width=128)


def write_config(file: Path, vision: dict[str, Any]) -> str:
    """The small pi0.5 with another image encoder."""
    file.write_text(
        "from flux_train import recipes\n"
        f"model = recipes.small_pi05_model(action_horizon=32, vision_backbone={vision!r})\n"
        "train_dataloader = recipes.small_aloha_sim_data(\n"
        "    data_root_path='demonstrations', action_horizon=32, batch_size=8)\n"
        "runner = recipes.small_runner(max_steps=4)\n"
        "inference = recipes.small_aloha_sim_inference(execution_horizon=16)\n"
    )
    return str(file)


@pytest.fixture(scope="module")
def options(tiny_options: list[str]) -> list[str]:
    ours = ("model.vision_backbone.", "model.projector.in_dim=")
    tiny = [each for each in tiny_options if not each.startswith(ours)]
    return [*tiny, f"model.projector.in_dim={WIDTH}", "runner.ema_decay=0.9"]


def test_a_run_starts_from_the_folder_and_its_checkpoint_needs_none(
    run: ForkedRuns, options: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    theirs = reference("dinov2")
    theirs.save_pretrained(folder)
    processor = preprocessor("BitImageProcessor")(**STATISTICS)
    processor.save_pretrained(folder)
    vision = dict(
        type="TransformersVisionBackbone",
        pretrained_name_or_path=str(folder),
        interpolate_positions=True,
        **SIZE,
    )
    config = write_config(tmp_path / "config.py", vision)
    frozen = ["model.freeze_vision_backbone=true", "runner.max_steps=2"]
    run(tmp_path / "run", [*options, *frozen], config=config)
    shutil.rmtree(folder)
    state = load_checkpoint(tmp_path / "run" / "checkpoint_epoch_1.pt")
    model = bind(FlowPolicy.Config, state["config"]["model"], "model").build()
    model.load_state_dict(state["model"])
    found = model.get_submodule("vision_backbone.model").state_dict()
    for key, value in weights_of(theirs).items():
        if key in found and "position" not in key:
            assert torch.equal(found[key], value), key


@pytest.mark.slow
def test_two_processes_with_shards_and_recomputation_train_like_one(
    run: ForkedRuns, options: list[str], tmp_path: Path
) -> None:
    config = write_config(tmp_path / "config.py", section("dinov3_vit", 96, 128))
    full = [*options, "runner.enable_mixed_precision_training=false"]
    run(tmp_path / "one", full, config=config)
    sharded = [*FSDP, "runner.sharding_strategy=full-shard", HALF]
    recomputed = "runner.enable_gradient_checkpointing=true"
    run(tmp_path / "two", [*full, *sharded, recomputed], config=config, ranks=2)
    torch.testing.assert_close(
        losses(tmp_path / "two"), losses(tmp_path / "one"), atol=1e-5, rtol=0
    )
