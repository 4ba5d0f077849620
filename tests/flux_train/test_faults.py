"""What goes wrong in a week of training: signals, crashes, full disks, bad gradients."""

from __future__ import annotations

import gc
import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import time
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import pytest
import torch

from flux_core.errors import CheckpointError, DataError, FluxError
from flux_core.models.weights.checkpoint_file import load_checkpoint
from flux_data.samples.collate import DictCollator
from flux_train.checkpoints import files as checkpoint_files
from flux_train.checkpoints import keeper
from flux_train.cli import dry_run, main
from flux_train.config.runner import FSDPTrainRunner, SingleTrainRunner
from flux_train.config.tree import read_train_config
from flux_train.distributed.ranks import Ranks
from flux_train.loading import batches as loading
from flux_train.metrics.log import MetricsLog, read_metrics
from flux_train.metrics.train_progress import TrainProgress
from flux_train.policy_loss import rows_of, step_draws
from flux_train.run_plan import state_bytes
from flux_train.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
SMALL = str(ROOT / "configs" / "pi05" / "pi05_small_aloha_sim.py")


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


@pytest.mark.parametrize(
    ("num_kills", "steps"), [(5, 90), pytest.param(20, 300, marks=pytest.mark.slow)]
)
def test_a_run_that_is_killed_repeatedly_gives_the_losses_of_an_undisturbed_one(
    options: list[str], tmp_path: Path, num_kills: int, steps: int
) -> None:
    """kill -9 at random moments; at most the steps since the last save are lost."""
    options = [*options, f"runner.max_steps={steps}", "runner.save_iter_interval=2"]
    options += ["runner.log_interval=3", "train_dataloader.per_device_num_workers=2"]
    assert main([SMALL, str(tmp_path / "whole"), "--cfg-options", *options]) == 0
    work_dir, rng = tmp_path / "killed", random.Random(0)
    kills, saved = 0, 0
    deadline = time.monotonic() + 600
    # One interpreter forks all runs: importing torch twenty times would take most of the time.
    while kills < num_kills:
        assert time.monotonic() < deadline
        child = os.fork()
        if child == 0:
            code = main([SMALL, str(work_dir), "--resume-from", "auto", "--cfg-options", *options])
            os._exit(code)
        # Kill it while it starts or after a few steps, but always before it finishes by itself.
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
    newest = [checkpoint_files.newest_intact(tmp_path / name) for name in ("killed", "whole")]
    ours, theirs = (load_checkpoint(path) for path in newest if path)
    assert ours["global_step"] == theirs["global_step"] == steps
    for part in ("model", "ema"):
        for name, value in theirs[part].items():
            assert torch.equal(ours[part][name], value), name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops_the_run_and_auto_resumes_it(
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


def test_auto_skips_a_damaged_checkpoint(
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
        assert "checkpoint_epoch_1.pt: is damaged; using an older checkpoint" in caplog.text
    found.unlink()
    with pytest.raises(CheckpointError, match="none of its 1 checkpoints can be read"):
        checkpoint_files.newest_intact(tmp_path)
    assert checkpoint_files.newest_intact(tmp_path / "no such run") is None


def built(options: list[str], work_dir: Path) -> Trainer:
    config, _ = read_train_config(Path(SMALL), options)
    return Trainer(config, work_dir)


def run(trainer: Trainer) -> Path | None:
    return trainer.run(TrainProgress(trainer.total_steps))


def break_gradient(trainer: Trainer, steps: set[int]) -> None:
    """Makes the gradient infinite in some steps."""
    weight = trainer.state.model.action_out_proj.projector.weight

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


def test_a_full_disk_keeps_the_last_checkpoint_and_training_continues(
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
    trainer.failed.add_checkpoint("an earlier one")
    found = "cannot be read back.*; 1 earlier checkpoints could not be written either"
    with pytest.raises(CheckpointError, match=found):
        run(trainer)
    assert not list(tmp_path.glob("checkpoint_*"))


def test_a_full_disk_is_reported_in_plain_words(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = built(options, tmp_path)
    usage = type("Usage", (), {"free": 400 * 1024})
    monkeypatch.setattr(checkpoint_files.shutil, "disk_usage", lambda _: usage)
    found = (
        r"checkpoint_step_0.pt: the disk is full: expected [\d.]+ MiB of free space, got 400 KiB"
    )
    with pytest.raises(CheckpointError, match=found):
        trainer.save("checkpoint_step_0", must=True)
    assert not list(tmp_path.glob("checkpoint_*"))


class FullDisk:
    """Refuses writes to a path, as a full disk does, while `is_full`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.is_full, self._name, self._open = False, name, Path.open
        monkeypatch.setattr(Path, "open", lambda path, *a, **k: self.opened(path, *a, **k))

    def opened(self, path: Path, *arguments: Any, **more: Any) -> Any:
        if self.is_full and self._name in path.name:
            raise OSError(28, "No space left on device")
        return self._open(path, *arguments, **more)


def test_metrics_that_did_not_fit_on_the_disk_are_written_later(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    trainer = built([*options, "runner.max_steps=6"], tmp_path)
    disk, step = FullDisk(monkeypatch, "metrics.jsonl"), trainer.train_step

    def train_step(micro_batches: Any) -> Any:
        disk.is_full = trainer.step in (1, 2, 3)
        return step(micro_batches)

    monkeypatch.setattr(trainer, "train_step", train_step)
    run(trainer)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert caplog.text.count("metrics.jsonl: cannot be written (No space left on device)") == 1
    assert "metrics.jsonl: can be written again, and nothing is missing" in caplog.text


def test_metrics_that_are_lost_make_the_finished_run_fail(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = built([*options, "runner.max_steps=2"], tmp_path)
    disk, step = FullDisk(monkeypatch, "metrics.jsonl"), trainer.train_step

    def train_step(micro_batches: Any) -> Any:
        disk.is_full = True
        return step(micro_batches)

    monkeypatch.setattr(trainer, "train_step", train_step)
    with pytest.raises(CheckpointError, match=r"metrics.jsonl: could not be written 3 times"):
        run(trainer)
    assert load_checkpoint(tmp_path / "checkpoint_epoch_1.pt")["global_step"] == 2


def test_a_line_that_a_full_disk_cut_off_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    log.write({"step": 1, "grad_norm": float("nan")})
    real = Path.open

    class Half:
        def __enter__(self) -> Half:
            return self

        def __exit__(self, *_: object) -> None: ...

        def write(self, text: bytes) -> None:
            with real(path, "ab") as file:
                file.write(text[:5])
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr(Path, "open", lambda *_: Half())
        log.write({"step": 2})
    assert path.read_text() == '{"step": 1, "grad_norm": null}\n'
    log.write({"step": 3})
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3]


def test_damaged_lines_of_the_metrics_are_skipped_when_a_run_resumes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"step": 1}\n\x00\x00\xff\n{"loss": 1.0}\n[2]\n{"step": 3}\n{"step": 4}\n{"st'
    )
    MetricsLog(path, 3)
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n'
    assert "metrics.jsonl: skipped 3 damaged lines" in caplog.text
    assert list(tmp_path.iterdir()) == [path]


def test_an_adapter_that_cannot_be_written_is_a_failed_save(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = ["model.use_lora=true", "model.lora_rank=2", "runner.save_iter_interval=2"]
    trainer = built([*options, *lora], tmp_path)
    real = keeper.save_adapter

    def full(*args: Any) -> None:
        if trainer.step == 2:
            raise OSError(28, "No space left on device")
        real(*args)

    monkeypatch.setattr(keeper, "save_adapter", full)
    with pytest.raises(CheckpointError, match=r"1 checkpoints could not .*checkpoint_step_2_adapt"):
        run(trainer)


def test_running_out_of_gpu_memory_is_one_line_that_says_what_to_change(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = built(options, tmp_path)

    def out_of_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    class Properties:
        total_memory = 80 * 2**30

    monkeypatch.setattr(trainer, "train_step", out_of_memory)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    for work in (run, dry_run):
        found = r"fits the GPU's 80 GiB, got .* Lower .*per_device_batch_size \(now 4"
        with pytest.raises(FluxError, match=found):
            work(trainer)


PROCESSES = [
    "train_dataloader.per_device_num_workers=1",
    "train_dataloader.worker_type=process",
]


def fail_in_batch(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, batch: int, fail: Any
) -> tuple[int, ...]:
    """Calls `fail` for each sample of a batch of the first epoch; returns the batch's draws."""
    draws = tuple(list(trainer.data.batches)[batch])
    dataset = type(trainer.data.dataset)
    real = dataset.__getitem__

    def sample(self: Any, draw: int) -> Any:
        return fail() if draw in draws else real(self, draw)

    monkeypatch.setattr(dataset, "__getitem__", sample)
    return draws


def test_a_killed_worker_is_named_and_no_step_is_lost(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = built([*options, *PROCESSES], tmp_path)
    kill = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    batches = list(trainer.data.batches)
    fail_in_batch(trainer, monkeypatch, 2, kill)
    with pytest.raises(DataError) as caught:
        run(trainer)
    found = re.fullmatch(
        r"after step (\d) of epoch 1: DataLoader worker \(pid.*; the batch it was needed for "
        r"begins with sample (\d+) \(episode \d+, frame \d+ of .*; saved (.*)",
        str(caught.value),
    )
    assert found
    # A killed worker takes with it the batches that it had made but not handed over.
    step = int(found[1])
    assert step in (1, 2) and int(found[2]) == batches[step][0]
    assert load_checkpoint(Path(found[3]))["global_step"] == step


def test_a_worker_that_is_killed_in_the_middle_of_a_message_does_not_hang_the_run(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin_a_message_and_die() -> None:
        time.sleep(1)  # The previous batch is on its way.
        for queue in [each for each in gc.get_objects() if isinstance(each, Queue)]:
            # The header of a message of 1000 bytes, and its first two bytes.
            os.write(queue._writer.fileno(), struct.pack("!i", 1000) + b"ab")  # type: ignore[attr-defined]
        os.kill(os.getpid(), signal.SIGKILL)

    trainer = built([*options, *PROCESSES], tmp_path)
    monkeypatch.setattr(loading, "GRACE_S", 2.0)
    fail_in_batch(trainer, monkeypatch, 1, begin_a_message_and_die)
    with pytest.raises(DataError, match=r"DataLoader worker \(pid .*; saved "):
        run(trainer)


@pytest.mark.parametrize("how", [[], ["train_dataloader.per_device_num_workers=2"], PROCESSES])
def test_a_sample_that_fails_during_training_is_named_and_no_step_is_lost(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: list[str]
) -> None:
    trainer = built([*options, *how], tmp_path)

    def broken() -> Any:
        raise DataError("episode.mp4: is damaged")

    draws = fail_in_batch(trainer, monkeypatch, 1, broken)
    with pytest.raises(DataError) as caught:
        run(trainer)
    message = str(caught.value)
    found = re.fullmatch(
        r"after step 1 of epoch 1: sample (\d+) \(episode \d+, frame \d+ of [^)]+\): "
        r"episode.mp4: is damaged; saved (.*)",
        message,
    )
    assert found and int(found[1]) in draws
    assert load_checkpoint(Path(found[2]))["global_step"] == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_video_that_disappears_during_training_is_named(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    trainer = built([*options, f"train_dataloader.per_device_num_workers={workers}"], tmp_path)
    part = trainer.data.dataset.datasets[0].parts[0]
    monkeypatch.setattr(type(part.source), "video", _missing_video)
    with pytest.raises(FluxError, match=r"gone.mp4: the video file is missing"):
        run(trainer)


def _missing_video(*_: Any) -> Any:
    from flux_data.lerobot.dataset import VideoSegment

    return VideoSegment(path=Path("gone.mp4"))


def test_recomputation_runs_the_layers_again(options: list[str], tmp_path: Path) -> None:
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
        for layer in trainer.state.model.layers:
            layer.self_attn.register_forward_hook(lambda *_, c=calls: c.__setitem__(0, c[0] + 1))
        batch, _ = next(iter(trainer.steps()))
        trainer.train_step(batch)
        counts.append(calls[0])
        gradients.append({name: p.grad.clone() for name, p in trainer.state.trained.items()})
    # Three layers run their attention: of the prefix's last layer only the keys are needed.
    assert counts == [3, 6]
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("", marks=pytest.mark.slow)])
def test_a_compiled_run_gives_the_losses_of_a_plain_one(
    options: list[str], tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captured as one graph and differentiated ahead of time; the C++ that torch makes is slow."""
    if backend:
        compile_module = torch.nn.Module.compile
        monkeypatch.setattr(
            torch.nn.Module, "compile", lambda module: compile_module(module, backend=backend)
        )
    plain = [*options, "runner.enable_mixed_precision_training=false"]
    assert main([SMALL, str(tmp_path / "plain"), "--cfg-options", *plain]) == 0
    compiled = [*plain, "runner.compile=true"]
    assert main([SMALL, str(tmp_path / "compiled"), "--cfg-options", *compiled]) == 0
    torch.testing.assert_close(
        losses(tmp_path / "compiled"), losses(tmp_path / "plain"), atol=1e-5, rtol=0
    )


def test_a_samples_noise_does_not_depend_on_the_process_that_draws_it() -> None:
    config, _ = read_train_config(Path(SMALL), [])
    whole = step_draws(config.model, seed=1, step=5, samples=12, draws_per_sample=2)
    again = step_draws(config.model, seed=1, step=5, samples=12, draws_per_sample=2)
    other = step_draws(config.model, seed=1, step=6, samples=12, draws_per_sample=2)
    assert torch.equal(whole.noise, again.noise) and not torch.equal(whole.noise, other.noise)
    part = whole.rows(rows_of(torch.tensor([3, 7]), 2))
    assert torch.equal(part.noise, whole.noise[[6, 7, 14, 15]])


@pytest.mark.parametrize(
    ("average", "strategy", "expected"),
    [(0.0, None, 4.0), (0.9, None, 5.0), (0.0, "full-shard", 1.0), (0.0, "hybrid-shard", 2.0)],
)
def test_the_memory_of_weights_and_optimiser_is_counted(
    average: float, strategy: str | None, expected: float
) -> None:
    """Weights, gradients, two moments and average: four bytes each, divided by the shards."""
    kind = FSDPTrainRunner if strategy else SingleTrainRunner
    more = {"sharding_strategy": strategy} if strategy else {}
    collator = DictCollator(keys=("images",))
    runner = kind(collator=collator, max_steps=1, ema_decay=average, **more)
    ranks = Ranks(rank=0, world_size=4 if strategy else 1, per_node=2 if strategy else 1)
    model = torch.nn.Linear(1000, 1000, bias=False)
    assert state_bytes(model, runner, ranks) == expected * 4e6
