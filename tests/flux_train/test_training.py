"""flux-train from the command line to the checkpoint, on real files."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from scipy import stats

from flux_core.config import bind
from flux_core.errors import CheckpointError, ConfigError
from flux_core.models import sample_actions
from flux_core.models.pi import PI0FlowMatching, PI05FlowMatching
from flux_core.models.weights.checkpoint_file import inference_weights, load_checkpoint
from flux_core.models.weights.lora import apply_lora, load_adapter, merged_weights
from flux_core.models.weights.pretrained import load_pretrained
from flux_train.checkpoints.sharded import consolidate
from flux_train.cli import main
from flux_train.config.runner import SingleTrainRunner
from flux_train.config.tree import read_train_config
from flux_train.optimization import learning_rate_at
from flux_train.provenance import provenance
from flux_train.recipes import small_pi05_model
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


def test_the_work_dir_says_where_the_run_comes_from(tiny_run: Path) -> None:
    assert (tiny_run / "original_config.py").read_bytes() == Path(SMALL).read_bytes()
    packages = json.loads((tiny_run / "environment.json").read_text())["packages"]
    assert {"flux-core", "flux-data", "flux-train", "flux-runtime", "torch", "numpy"} <= set(
        packages
    )
    assert {"safetensors", "pyarrow", "av", "transformers", "matplotlib"} <= set(packages)


def test_the_recorded_commit_is_that_of_flux_in_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    head = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    if head.returncode:
        pytest.skip("this is not a git checkout")
    assert provenance()["git"]["commit"] == head.stdout.strip()


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
    # Start from random weights, whose gates let adapters and dropout affect the loss.
    random = {k: torch.randn_like(v) * 0.2 for k, v in load_file(_weights_of(tiny_run)).items()}
    save_file(random, tmp_path / "random.safetensors")
    # Large batches, so that an epoch of 150 samples has three steps.
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


@pytest.mark.parametrize("decay", [0, 0.9])
def test_a_lora_run_leaves_merged_weights_and_the_adapter(
    tmp_path: Path, tiny_options: list[str], tiny_run: Path, decay: float
) -> None:
    work_dir = tmp_path / "lora"
    options = [*tiny_options, *LORA, f"runner.ema_decay={decay}", "runner.learning_rate=0.05"]
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
    # What export reads, and what peft makes of the base and the adapter, are the same network.
    state = load_checkpoint(work_dir / "checkpoint_epoch_1.pt")
    assert (state["ema"] is not None) == bool(decay)
    for name, value in inference_weights(state).items():
        assert torch.equal(value, merged[name]), name
    base, bare = config.model.build(), config.model.build()
    for model in (base, bare):
        load_pretrained(model, tiny_run / "checkpoint_epoch_1.safetensors")
    theirs: Any = PeftModel.from_pretrained(base, str(work_dir / "checkpoint_epoch_1_adapter"))
    chunks = [chunk(model) for model in (theirs.base_model.model, plain, bare)]
    torch.testing.assert_close(chunks[0], chunks[1], atol=1e-5, rtol=1e-5)
    assert (chunks[0] - chunks[2]).abs().max() > 1e-3


@torch.no_grad()
def chunk(model: PI0FlowMatching) -> torch.Tensor:
    """The actions for an image, a prompt and noise that are always the same."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 1, 3, 96, 128, generator=generator)
    tokens = torch.randint(4, 200, (1, 6), generator=generator)
    masks = torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 6, dtype=torch.bool)
    cache = model.eval().prefix(images, masks[0], tokens, masks[1])
    return sample_actions(model, None, cache, torch.randn(1, 32, 14, generator=generator))


def with_validation(tiny_run: Path, one_episode: Path, tmp_path: Path) -> str:
    """The tiny run's config with its own data, under another name, as held-out data."""
    tree = json.loads((tiny_run / "config.json").read_text())
    held_out = tmp_path / "held_out"
    held_out.symlink_to(one_episode)
    dataset = {**tree["train_dataloader"]["dataset"]}
    dataset["datasets"] = {**dataset["datasets"], "data_root_path": str(held_out)}
    tree["validation"] = dict(dataset=dataset, num_batches=2, num_action_samples=2)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(tree))
    return str(config)


@pytest.mark.parametrize("decay", [0, 0.9])
def test_validation_describes_the_weights_that_are_deployed(
    tmp_path: Path, tiny_run: Path, one_episode: Path, decay: float
) -> None:
    config = with_validation(tiny_run, one_episode, tmp_path)
    options = [*LORA, f"runner.ema_decay={decay}", "runner.learning_rate=0.05"]
    options.append(f"model.pretrained_name_or_path={tiny_run / 'checkpoint_epoch_1.safetensors'}")
    work_dir = tmp_path / "run"
    assert main([config, str(work_dir), "--cfg-options", *options]) == 0
    lines = [json.loads(line) for line in (work_dir / "metrics.jsonl").open()]
    (found,) = [line["validation"] for line in lines if "validation" in line]
    assert found.pop("weights") == ("average" if decay else "current")
    trainer = Trainer(read_train_config(Path(config), options)[0], tmp_path / "again")
    assert trainer.validator is not None
    plain = read_train_config(Path(config), [])[0].model.build()
    plain.load_state_dict(load_file(work_dir / "checkpoint_epoch_1.safetensors"))
    expected = trainer.validator.run(plain, 4, write=False)
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert found["action_error"]["aloha-sim"]["mean_abs"] == pytest.approx(
        expected["action_error"]["aloha-sim"]["mean_abs"], rel=1e-4
    )


def test_validating_the_average_leaves_the_trained_weights_as_they_were(
    tmp_path: Path, tiny_options: list[str]
) -> None:
    state = Trainer(read_train_config(Path(SMALL), tiny_options)[0], tmp_path).state
    assert state.average is not None
    for parameter in state.trained.values():
        parameter.data.add_(1.0)
    before = {k: v.clone() for k, v in state.model.state_dict().items()}
    average = {k: v.clone() for k, v in state.average.weights.items()}
    with state.deployed():
        for name, value in average.items():
            assert torch.equal(state.trained[name], value), name
            assert not torch.equal(value, before[name]), name
    for name, value in state.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    for name, value in state.average.weights.items():
        assert torch.equal(value, average[name]), name


@pytest.mark.parametrize("decay", [0, 0.5])
def test_an_average_is_kept_by_setting_alone(
    tmp_path: Path, tiny_options: list[str], decay: float, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*tiny_options, f"runner.ema_decay={decay}", "runner.max_steps=1"]
    assert train(tmp_path, options) == 0
    state = load_checkpoint(tmp_path / "checkpoint_epoch_1.pt")
    assert (state["ema"] is not None) == bool(decay)
    told = " ".join(capsys.readouterr().err.split())
    said = "moving average of the weights (runner.ema_decay=0.5)"
    assert (f".safetensors files and adapters use the {said}" in told) == bool(decay)


def test_a_dry_run_prints_everything_and_writes_nothing(
    tmp_path: Path, tiny_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "dry", tiny_options, "--dry-run") == 0
    assert not (tmp_path / "dry").exists()
    told = capsys.readouterr().err
    for part in (
        "Data",
        "aloha-sim",
        "Normalised ranges",
        "Parameters",
        "llm_expert",
        "MiB per process",
        "dry run: loss",
    ):
        assert part in told, told
    assert re.search(r"at most [\d.]+ [MG]iB of memory in use", told.replace("\n", " "))


def test_a_dry_run_at_an_epochs_end_takes_the_next_one(
    tmp_path: Path, tiny_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    # An epoch of 150 samples is one step of them.
    options = [*tiny_options, "train_dataloader.per_device_batch_size=100"]
    assert train(tmp_path, [*options, "runner.max_steps=1"]) == 0
    newest = ["--resume-from", str(tmp_path / "checkpoint_epoch_1.pt"), "--dry-run"]
    assert train(tmp_path, [*options, "runner.max_steps=2"], *newest) == 0
    assert "dry run: loss" in capsys.readouterr().err


def test_resuming_a_finished_run_says_so_and_succeeds(
    tmp_path: Path, tiny_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*tiny_options, "runner.max_steps=2"]
    assert train(tmp_path, options) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    for more in ([], ["--dry-run"]):
        assert train(tmp_path, options, "--resume-from", "auto", *more) == 0
        assert "already trained to step 2 of 2" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_repeated_cfg_options_adds_overrides(
    tmp_path: Path, tiny_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--dry-run", "--cfg-options", "runner.max_steps=7", "runner.learning_rate=1e-3"]
    last = ["--cfg-options", *tiny_options, "runner.max_steps=9"]
    assert main([SMALL, str(tmp_path / "dry"), *more, *last]) == 0
    assert "9 steps in total" in capsys.readouterr().err


def test_training_starts_from_another_projects_checkpoint(
    tiny_run: Path, tmp_path: Path, tiny_options: list[str]
) -> None:
    source = tiny_run / "checkpoint_epoch_1.safetensors"
    weights = load_file(source)
    torch.save({"model": weights}, tmp_path / "fluxvla.pt")
    options = [*tiny_options, f"model.pretrained_name_or_path={tmp_path / 'fluxvla.pt'}"]
    config, _ = read_train_config(Path(SMALL), options)
    state = Trainer(config, tmp_path / "x").state
    assert state.average is not None
    for name, value in state.model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    for name, value in state.average.weights.items():
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
        ("inference.execution_horizon=40", "inference.execution_horizon: expected 1 to 32"),
        ("inference.execute_horizon=40", "inference.execution_horizon: expected 1 to 32"),
        ("model.llm_backbone.vocab_size=3860", "vocab_size: expected at least 3864"),
        ("model.pretrained_name_or_path=/nowhere/model.safetensors", "not found"),
        ("runner.learning_rate=fast", "runner.learning_rate: expected float"),
        ("runner.metrics.wandb_project=x", "has no field 'metrics'. Did you mean 'metric'"),
        ("runner.metric.project=x", "runner.metric.project: VLAMetric has no field"),
        (
            "train_dataloader.dataset.datasets.transforms.0.video_keys=['observation.images.cam_low']",
            "got 'observation.images.cam_low'",
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


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("betas=[0.9,1.0]", "two numbers 0 <= beta < 1, got (0.9, 1.0)"),
        ("betas=[-0.1,0.9]", "two numbers 0 <= beta < 1"),
        ("num_threads=0", "at least 1, got 0"),
        ("max_steps=0", "at least 1, got 0"),
        ("max_grad_norm=0", "a positive number, got 0"),
        ("max_grad_norm=1e999", "a positive number, got inf"),
        ("learning_rate=-1", "a positive number, got -1"),
        ("weight_decay=-0.1", "at least 0, got -0.1"),
        ("warmup_ratio=3", "a number from 0 to 1, got 3"),
        ("min_lr_ratio=-0.5", "a number from 0 to 1, got -0.5"),
    ],
)
def test_an_invalid_number_is_refused_with_its_path(option: str, expected: str) -> None:
    name = option.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"^runner\.{name}: expected {re.escape(expected)}"):
        read_train_config(
            Path(SMALL), ["runner.max_epochs=none", "runner.max_steps=9", f"runner.{option}"]
        )


def test_a_checkpoint_of_another_config_is_refused(
    tiny_run: Path, tmp_path: Path, tiny_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*tiny_options, "model.vision_backbone.num_keypoints=4"]
    checkpoint = str(tiny_run / "checkpoint_epoch_1.pt")
    assert train(tmp_path / "x", options, "--resume-from", checkpoint) == 1
    assert "trained with another config: model.vision_backbone" in capsys.readouterr().err


def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_epoch_1.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path)
    torch.save({"model": {}}, path)
    with pytest.raises(CheckpointError, match="expected a checkpoint of flux-train"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "gone.shards",
            r"expected a folder checkpoint_\*.shards, got a path that does not exist",
        ),
        ("checkpoint_epoch_1.pt", r"got a file. A .pt file is already in one piece"),
        ("", r"got another folder"),
    ],
)
def test_consolidate_says_what_it_got_instead_of_a_folder_of_shards(
    tiny_run: Path, name: str, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        consolidate(tiny_run / name)


def test_a_work_dir_is_refused_as_a_checkpoint_to_resume_from(
    tiny_run: Path, tiny_options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "x", tiny_options, "--resume-from", str(tiny_run)) == 1
    assert "got another folder. If it is a work dir, name one of its checkpoints" in (
        capsys.readouterr().err
    )


def test_times_follow_the_shifted_beta_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    config = bind(PI05FlowMatching.Config, small_pi05_model(action_horizon=8), "model")
    device = torch.device("cpu")
    times = config.sample_time(20000, generator=generator, device=device).numpy()
    expected = stats.beta(1.5, 1.0, loc=0.001, scale=0.999)
    assert stats.kstest(times, expected.cdf).pvalue > 1e-3
    assert abs((times > 0.9).mean() - 0.146) < 0.01


def test_the_learning_rate_warms_up_and_ends_at_its_floor_as_in_openpi() -> None:
    from flux_data.samples.collate import DictCollator

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
