"""What goes wrong in a week of training: signals, crashes, full disks, bad gradients."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from flux_core.errors import CheckpointError, FluxError
from flux_core.models.checkpoint_file import load_checkpoint
from flux_data.collate import DictCollator
from flux_train import checkpoints as checkpoint_files
from flux_train import trainer as training
from flux_train.cli import main
from flux_train.config import read_train_config
from flux_train.parallel import layers_of
from flux_train.progress import TrainProgress
from flux_train.ranks import Ranks
from flux_train.runner_config import FSDPTrainRunner, SingleTrainRunner
from flux_train.summary import state_bytes
from flux_train.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
SMALL = str(ROOT / "configs" / "pi05" / "pi05_small_aloha_sim.py")
KILLS = 20


def losses(work_dir: Path) -> list[float]:
    lines = (work_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def logged(work_dir: Path) -> list[str]:
    """The lines of a log that may not exist yet."""
    log = work_dir / "metrics.jsonl"
    return log.read_text().splitlines() if log.is_file() else []


@pytest.fixture
def options(tiny_options: list[str]) -> list[str]:
    return [*tiny_options, "runner.lr_scheduler_type=constant", "runner.ema_decay=0.9"]


def command(work_dir: Path, options: list[str], *more: str) -> list[str]:
    begin = [sys.executable, "-m", "flux_train", SMALL, str(work_dir)]
    return [*begin, *more, "--cfg-options", *options]


def test_killed_again_and_again_a_run_gives_the_losses_of_an_undisturbed_one(
    options: list[str], tmp_path: Path
) -> None:
    """kill -9 at a random moment, twenty times; at most the steps since the last save are lost."""
    options = [*options, "runner.max_steps=300", "runner.save_iter_interval=2"]
    options += ["runner.log_interval=3", "train_dataloader.per_device_num_workers=2"]
    assert main([SMALL, str(tmp_path / "whole"), "--cfg-options", *options]) == 0
    work_dir, rng = tmp_path / "killed", random.Random(0)
    kills, saved = 0, 0
    deadline = time.monotonic() + 600
    # One long-lived interpreter forks the runs: importing torch twenty times would be the test.
    while kills < KILLS:
        assert time.monotonic() < deadline
        child = os.fork()
        if child == 0:
            code = main([SMALL, str(work_dir), "--resume-from", "auto", "--cfg-options", *options])
            os._exit(code)
        # While it starts, or after some steps of it: never so late that it would be done before.
        lines = len(logged(work_dir)) + rng.randint(1, 3)
        moment = time.monotonic() + rng.choice([rng.uniform(0.0, 0.5), 60.0])
        while time.monotonic() < moment and len(logged(work_dir)) < lines:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.1))
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the run ended by itself"
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
        newest = checkpoint_files.newest_intact(work_dir) if work_dir.is_dir() else None
        step = load_checkpoint(newest)["global_step"] if newest else 0
        assert step >= saved
        saved = step
    final = [SMALL, str(work_dir), "--resume-from", "auto", "--cfg-options", *options]
    assert main(final) == 0
    assert losses(work_dir) == losses(tmp_path / "whole")
    ours, theirs = (
        load_checkpoint(tmp_path / folder / "checkpoint_epoch_9.pt")
        for folder in ("killed", "whole")
    )
    for part in ("model", "ema"):
        for name, value in theirs[part].items():
            assert torch.equal(ours[part][name], value), name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops_and_auto_goes_on(
    options: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    options = [*options, "runner.max_steps=30"]
    assert main([SMALL, str(tmp_path / "whole"), "--cfg-options", *options]) == 0
    work_dir = tmp_path / "stopped"
    child = subprocess.Popen(
        command(work_dir, options, "--resume-from", "auto"), stderr=subprocess.PIPE, text=True
    )
    while not (work_dir / "metrics.jsonl").is_file() or not losses(work_dir):
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(number)
    _, error = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "--resume-from auto" in error and "Traceback" not in error
    (saved,) = work_dir.glob("checkpoint_step_*.pt")
    assert load_checkpoint(saved)["global_step"] == len(losses(work_dir)) < 30
    assert main([SMALL, str(work_dir), "--resume-from", "auto", "--cfg-options", *options]) == 0
    assert losses(work_dir) == losses(tmp_path / "whole")


def test_auto_passes_over_a_truncated_checkpoint(
    options: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = [*options, "runner.save_iter_interval=2", "runner.max_checkpoints=5"]
    assert main([SMALL, str(tmp_path), "--cfg-options", *options]) == 0
    last = tmp_path / "checkpoint_epoch_1.pt"
    whole = last.read_bytes()
    for damaged in (whole[:-1000], whole[:2000], b"", whole[:9000] + b"\x07" + whole[9001:]):
        last.write_bytes(damaged)
        caplog.clear()
        found = checkpoint_files.newest_intact(tmp_path)
        assert found is not None and found.name == "checkpoint_step_2.pt"
        assert "checkpoint_epoch_1.pt: is damaged; an older checkpoint is taken" in caplog.text
    found.unlink()
    with pytest.raises(CheckpointError, match="none of its 1 checkpoints can be read"):
        checkpoint_files.newest_intact(tmp_path)
    assert checkpoint_files.newest_intact(tmp_path / "no such run") is None


def built(options: list[str], work_dir: Path) -> Trainer:
    config, _ = read_train_config(Path(SMALL), options)
    trainer = Trainer(config, work_dir)
    trainer.start()
    trainer.prepare_work_dir()
    return trainer


def run(trainer: Trainer) -> Path | None:
    return trainer.run(TrainProgress(trainer.total_steps))


def break_gradient(trainer: Trainer, steps: set[int]) -> None:
    """Makes the gradient of some steps infinite."""
    weight = trainer.model.action_out_proj.projector.weight

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("inf") if trainer.step in steps else gradient

    weight.register_hook(hook)


def test_a_step_without_a_finite_gradient_is_skipped_and_counted(
    options: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = built([*options, "runner.max_steps=6"], tmp_path)
    break_gradient(trainer, {2, 4})
    run(trainer)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped_steps"] for line in lines] == [0, 0, 1, 1, 2, 2]
    assert ["loss" in line for line in lines] == [True, True, False, True, False, True]
    assert "step 3: loss" in caplog.text and "the step is skipped" in caplog.text
    state = load_checkpoint(tmp_path / "checkpoint_epoch_1.pt")
    assert state["skipped_steps"] == 2
    assert all(bool(value.isfinite().all()) for value in state["model"].values())


def test_too_many_bad_steps_in_a_row_stop_the_run_with_a_saved_state(
    options: list[str], tmp_path: Path
) -> None:
    trainer = built([*options, "runner.max_steps=30", "runner.max_skipped_steps=3"], tmp_path)
    break_gradient(trainer, set(range(5, 30)))
    with pytest.raises(FluxError, match="step 9: 4 steps in a row without a finite gradient"):
        run(trainer)
    state = load_checkpoint(tmp_path / "checkpoint_step_9.pt")
    assert all(bool(value.isfinite().all()) for value in state["model"].values())


def test_a_full_disk_leaves_the_last_checkpoint_and_training_goes_on(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*options, "runner.max_steps=8", "runner.save_iter_interval=2"]
    trainer = built(options, tmp_path)
    real = checkpoint_files.save_file

    def full(*args: Any, **settings: Any) -> None:
        if trainer.step in (4, 6):
            raise OSError(28, "No space left on device")
        real(*args, **settings)

    monkeypatch.setattr(checkpoint_files, "save_file", full)
    with pytest.raises(CheckpointError, match=r"2 checkpoints could not be written.*step_4.pt"):
        run(trainer)
    names = {path.name for path in tmp_path.glob("checkpoint_*")}
    assert names == {
        f"checkpoint_{name}.{kind}"
        for name in ("step_2", "epoch_1")
        for kind in ("pt", "safetensors")
    }
    assert load_checkpoint(tmp_path / "checkpoint_epoch_1.pt")["global_step"] == 8


def test_a_last_checkpoint_that_cannot_be_written_is_an_error(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = built(options, tmp_path)
    monkeypatch.setattr(checkpoint_files, "is_intact", lambda path: False)
    with pytest.raises(CheckpointError, match="cannot be read back"):
        run(trainer)
    assert not list(tmp_path.glob("checkpoint_*"))


def test_a_gpu_that_is_full_is_one_line_that_says_what_to_change(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = built(options, tmp_path)

    def out_of_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    class Properties:
        total_memory = 80 * 2**30

    monkeypatch.setattr(trainer, "train_step", out_of_memory)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    with pytest.raises(FluxError, match=r"80 GiB are full. Lower .*per_device_batch_size \(now 4"):
        run(trainer)


def test_a_worker_that_is_killed_is_named(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = [
        "train_dataloader.per_device_num_workers=1",
        "train_dataloader.worker_type=process",
    ]
    trainer = built([*options, *processes], tmp_path)
    dataset = type(trainer.dataset)
    monkeypatch.setattr(dataset, "__getitem__", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    monkeypatch.setattr(dataset, "__getitems__", None)
    with pytest.raises(FluxError, match=r"after step 0 of epoch 1: DataLoader worker \(pid"):
        run(trainer)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_video_that_breaks_while_training_is_named(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    trainer = built([*options, f"train_dataloader.per_device_num_workers={workers}"], tmp_path)
    part = trainer.dataset.datasets[0].parts[0]
    monkeypatch.setattr(type(part.source), "video", _missing_video)
    with pytest.raises(FluxError, match=r"gone.mp4: the video file is missing"):
        run(trainer)


def _missing_video(*_: Any) -> Any:
    from flux_data.lerobot import VideoSegment

    return VideoSegment(path=Path("gone.mp4"))


def test_recomputation_really_computes_again(options: list[str], tmp_path: Path) -> None:
    counts: list[int] = []
    gradients = []
    for is_on in (False, True):
        more = f"runner.enable_gradient_checkpointing={str(is_on).lower()}"
        trainer = built(
            [
                *options,
                more,
                "model.llm_backbone.num_hidden_layers=2",
                "model.llm_expert.num_hidden_layers=2",
            ],
            tmp_path,
        )
        calls = [0]
        for layer in layers_of(trainer.model):
            layer.self_attn.register_forward_hook(lambda *_, c=calls: c.__setitem__(0, c[0] + 1))
        batch, _ = next(iter(trainer.steps()))
        trainer.train_step(batch)
        counts.append(calls[0])
        gradients.append({name: p.grad.clone() for name, p in trainer.trained.items()})
    # Three layers go through their attention: of the prefix's last one only keys are needed.
    assert counts == [3, 6]
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_a_compiled_run_gives_the_losses_of_a_plain_one(options: list[str], tmp_path: Path) -> None:
    plain = [*options, "runner.enable_mixed_precision_training=false"]
    assert main([SMALL, str(tmp_path / "plain"), "--cfg-options", *plain]) == 0
    compiled = [*plain, "runner.compile=true"]
    assert main([SMALL, str(tmp_path / "compiled"), "--cfg-options", *compiled]) == 0
    torch.testing.assert_close(
        losses(tmp_path / "compiled"), losses(tmp_path / "plain"), atol=1e-5, rtol=0
    )


def test_the_noise_of_a_sample_does_not_depend_on_who_draws_it() -> None:
    config, _ = read_train_config(Path(SMALL), [])
    whole = training.step_draws(config.model, seed=1, step=5, samples=12, draws_a_sample=2)
    again = training.step_draws(config.model, seed=1, step=5, samples=12, draws_a_sample=2)
    other = training.step_draws(config.model, seed=1, step=6, samples=12, draws_a_sample=2)
    assert torch.equal(whole.noise, again.noise) and not torch.equal(whole.noise, other.noise)
    part = whole.rows(training.rows_of(torch.tensor([3, 7]), 2))
    assert torch.equal(part.noise, whole.noise[[6, 7, 14, 15]])


@pytest.mark.parametrize(
    ("average", "strategy", "expected"),
    [(0.0, None, 4.0), (0.9, None, 5.0), (0.0, "full-shard", 1.0), (0.0, "hybrid-shard", 2.0)],
)
def test_the_certain_memory_is_counted(
    average: float, strategy: str | None, expected: float
) -> None:
    """Weights, gradients, two moments, average: four bytes each, divided by the shards."""
    kind = FSDPTrainRunner if strategy else SingleTrainRunner
    more = {"sharding_strategy": strategy} if strategy else {}
    collator = DictCollator(keys=("images",))
    runner = kind(collator=collator, max_steps=1, ema_decay=average, **more)
    ranks = Ranks(rank=0, world_size=4 if strategy else 1, per_node=2 if strategy else 1)
    model = torch.nn.Linear(1000, 1000, bias=False)
    assert state_bytes(model, runner, ranks) == expected * 4e6
