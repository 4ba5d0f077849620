"""flux-train from the command line to the checkpoint, on real files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import stats

from flux_core.errors import CheckpointError
from flux_core.models import sample_time
from flux_core.models.checkpoint_file import load_checkpoint
from flux_core.models.lora import apply_lora, load_adapter, merged_weights
from flux_core.models.pretrained import load_pretrained
from flux_train.cli import main
from flux_train.config import read_train_config
from flux_train.optimization import learning_rate_at
from flux_train.runner_config import SingleTrainRunner
from flux_train.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
SMALL = str(ROOT / "configs" / "pi05" / "pi05_small_aloha_sim.py")


def train(work_dir: Path, options: list[str], *more: str) -> int:
    return main([SMALL, str(work_dir), *more, "--cfg-options", *options])


def losses(work_dir: Path) -> list[float]:
    lines = (work_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_the_work_dir_is_self_contained(tiny_run: Path) -> None:
    names = {path.name for path in tiny_run.iterdir()}
    assert {
        "checkpoint_epoch_1.pt",
        "checkpoint_epoch_1.safetensors",
        "config.json",
        "loss.png",
        "metrics.jsonl",
        "norm_stats.json",
        "tokenizer",
    } <= names
    last = json.loads((tiny_run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 4 and np.isfinite(last["loss"])
    assert {"samples_per_s", "data_wait_share", "peak_memory_bytes", "learning_rate"} <= set(last)


def test_the_written_config_trains_to_the_same_losses(tiny_run: Path, tmp_path: Path) -> None:
    assert main([str(tiny_run / "config.json"), str(tmp_path / "again")]) == 0
    assert losses(tmp_path / "again") == losses(tiny_run)


LORA = [
    "model.use_lora=true",
    "model.lora_rank=2",
    "model.lora_dropout=0.1",
    "model.modules_to_save=['action_in_proj','action_out_proj']",
]


@pytest.mark.parametrize("more", [[], LORA], ids=["full", "lora"])
def test_a_resumed_run_gives_the_losses_of_an_uninterrupted_one(
    tmp_path: Path, tiny_options: list[str], tiny_run: Path, more: list[str]
) -> None:
    # From random weights, whose gates let adapters and dropout reach the loss.
    random = {k: torch.randn_like(v) * 0.2 for k, v in load_file(_weights_of(tiny_run)).items()}
    save_file(random, tmp_path / "random.safetensors")
    # Large batches, so that an epoch of 150 samples is three steps.
    options = [*tiny_options, *more, "train_dataloader.per_device_batch_size=50"]
    options.append(f"model.pretrained_name_or_path={tmp_path / 'random.safetensors'}")
    thin = [*options, "runner.lr_scheduler_type=constant", "runner.ema_decay=0.9"]
    whole = [*thin, "runner.max_steps=none", "runner.max_epochs=2"]
    assert train(tmp_path / "whole", whole) == 0
    first = [*thin, "runner.max_steps=none", "runner.max_epochs=1"]
    assert train(tmp_path / "parts", first) == 0
    checkpoint = tmp_path / "parts" / "checkpoint_epoch_1.pt"
    assert train(tmp_path / "parts", whole, "--resume-from", str(checkpoint)) == 0
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    states = [load_checkpoint(tmp_path / d / "checkpoint_epoch_2.pt") for d in ("whole", "parts")]
    for name, value in states[0]["ema"].items():
        assert torch.equal(value, states[1]["ema"][name]), name


def _weights_of(work_dir: Path) -> Path:
    return work_dir / "checkpoint_epoch_1.safetensors"


def test_a_lora_run_leaves_merged_weights_and_the_adapter(
    tmp_path: Path, tiny_options: list[str], tiny_run: Path
) -> None:
    work_dir = tmp_path / "lora"
    options = [*tiny_options, *LORA, "runner.ema_decay=0"]
    options.append(f"model.pretrained_name_or_path={tiny_run / 'checkpoint_epoch_1.safetensors'}")
    assert train(work_dir, options) == 0
    merged = load_file(work_dir / "checkpoint_epoch_1.safetensors")
    config, _ = read_train_config(Path(SMALL), options)
    plain = config.model.build()
    plain.load_state_dict(merged)
    start = load_file(tiny_run / "checkpoint_epoch_1.safetensors")
    changed = {name.split(".")[0] for name, value in merged.items() if not value.equal(start[name])}
    assert changed == {"llm_backbone", "llm_expert", "action_in_proj", "action_out_proj"}
    model = config.model.build()
    load_pretrained(model, tiny_run / "checkpoint_epoch_1.safetensors")
    apply_lora(model)
    load_adapter(model, work_dir / "checkpoint_epoch_1_adapter")
    for name, value in merged_weights(model.state_dict(), config.model).items():
        assert torch.equal(value, merged[name]), name


def test_dry_run_tells_everything_and_writes_nothing(
    tmp_path: Path, tiny_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "dry", tiny_options, "--dry-run") == 0
    assert not (tmp_path / "dry").exists()
    told = capsys.readouterr().err
    for part in ("Data", "aloha-sim", "Parameters", "llm_expert", "GiB a process", "dry run: loss"):
        assert part in told, told


def test_training_starts_from_another_projects_checkpoint(
    tiny_run: Path, tmp_path: Path, tiny_options: list[str]
) -> None:
    source = tiny_run / "checkpoint_epoch_1.safetensors"
    weights = load_file(source)
    torch.save({"model": weights}, tmp_path / "fluxvla.pt")
    options = [*tiny_options, f"model.pretrained_name_or_path={tmp_path / 'fluxvla.pt'}"]
    config, _ = read_train_config(Path(SMALL), options)
    trainer = Trainer(config, tmp_path / "x")
    trainer.start()
    assert trainer.average is not None
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    for name, value in trainer.average.weights.items():
        assert torch.equal(value, weights[name]), name


def test_a_resumed_run_does_not_need_what_it_started_from(
    tiny_run: Path, tmp_path: Path, tiny_options: list[str]
) -> None:
    options = [*tiny_options, "runner.max_steps=5"]
    weights = tmp_path / "start.safetensors"
    weights.write_bytes((tiny_run / "checkpoint_epoch_1.safetensors").read_bytes())
    begun = [*options, f"model.pretrained_name_or_path={weights}"]
    assert train(tmp_path / "run", begun) == 0
    weights.unlink()
    checkpoint = str(tmp_path / "run" / "checkpoint_epoch_1.pt")
    more = [*begun, "runner.max_steps=6"]
    assert train(tmp_path / "run", more, "--resume-from", checkpoint) == 0


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("runner.max_step=5", "Did you mean 'max_steps'"),
        ("model.n_action_steps=16", "model.n_action_steps: expected 32"),
        ("model.max_action_dim=7", "max_action_dim: expected 14"),
        ("inference.execute_horizon=40", "inference.execute_horizon: expected 1 to 32"),
        ("model.llm_backbone.vocab_size=3860", "vocab_size: expected at least 3864"),
        ("model.pretrained_name_or_path=/nowhere/model.safetensors", "not found"),
        ("runner.learning_rate=fast", "runner.learning_rate: expected float"),
        (
            "train_dataloader.dataset.datasets.transforms.0.video_keys=['observation.images.cam_low']",
            "no camera 'observation.images.cam_low'",
        ),
        ("train_dataloader.dataset.datasets.data_root_path=/nowhere", "Is '/nowhere' a LeRobot"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(
    option: str,
    message: str,
    tmp_path: Path,
    tiny_options: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(tmp_path / "x", [*tiny_options, option]) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in error if "error:" in line]) == 1
    assert message in error[-1]


def test_a_checkpoint_of_another_config_is_refused(
    tiny_run: Path, tmp_path: Path, tiny_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*tiny_options, "model.vision_backbone.num_keypoints=4"]
    checkpoint = str(tiny_run / "checkpoint_epoch_1.pt")
    assert train(tmp_path / "x", options, "--resume-from", checkpoint) == 1
    assert "trained with another config; model.vision_backbone" in capsys.readouterr().err


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_epoch_1.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path)
    torch.save({"model": {}}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint written by flux-train"):
        load_checkpoint(path)


def test_times_follow_the_shifted_beta_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    times = sample_time(20000, generator=generator, device=torch.device("cpu")).numpy()
    expected = stats.beta(1.5, 1.0, loc=0.001, scale=0.999)
    assert stats.kstest(times, expected.cdf).pvalue > 1e-3
    assert abs((times > 0.9).mean() - 0.146) < 0.01


def test_the_learning_rate_warms_up_and_ends_at_its_floor_as_in_openpi() -> None:
    from flux_data.collate import DictCollator

    runner = SingleTrainRunner(
        collator=DictCollator(keys=("images",)),
        max_steps=1000,
        learning_rate=1.0,
        warmup_ratio=0.1,
        min_lr_ratio=0.1,
    )
    assert learning_rate_at(0, 1000, runner) == pytest.approx(1.0 / 101)
    assert learning_rate_at(100, 1000, runner) == pytest.approx(1.0)
    assert learning_rate_at(1000, 1000, runner) == pytest.approx(0.1)
