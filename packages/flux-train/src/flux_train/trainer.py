"""The training loop of one process."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from flux_core.config import bind, unbind
from flux_core.errors import CheckpointError, ConfigError, DataError, FluxError
from flux_core.models import PI0FlowMatching, flow_matching_loss
from flux_core.models.checkpoint_file import load_checkpoint, load_weights
from flux_core.models.lora import apply_lora, save_adapter
from flux_core.models.pretrained import load_pretrained
from flux_core.norm_stats import save_stats, stats_to_json
from flux_core.tokenizers import save_tokenizer
from flux_core.transforms import ProcessPrompts
from flux_data.read_ahead import read_ahead
from flux_data.repeating_dataset import EpochBatches

from .checkpoints import save_checkpoint
from .config import TrainConfig
from .data_checks import check_data, check_vocabulary
from .metrics import MetricsLog, peak_memory_bytes, plot_loss, read_metrics
from .optimization import WeightAverage, build_optimizer, learning_rate_at
from .progress import TrainProgress
from .runner_config import TrainRunner

MODEL_KEYS = (
    "images",
    "img_masks",
    "lang_tokens",
    "lang_masks",
    "states",
    "actions",
    "action_masks",
    "action_dim_masks",
)


class Trainer:
    """Holds everything a run needs; `run` trains to the end."""

    def __init__(self, config: TrainConfig, work_dir: Path) -> None:
        """Builds data and network; `start` or `resume` gives the network its weights."""
        runner = config.runner
        check_available(runner)
        if runner.num_threads is not None:
            torch.set_num_threads(runner.num_threads)
        torch.manual_seed(runner.seed)
        self.config, self.work_dir = config, work_dir
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        check_vocabulary(config)
        self.dataset = config.train_dataloader.dataset.build()
        check_data(config, self.dataset)
        self.batches = EpochBatches(self.dataset, config.train_dataloader.per_device_batch_size)
        self.model = config.model.build().to(self.device)
        self.generator = torch.Generator(self.device).manual_seed(runner.seed)
        self.step, self.epoch = 0, 0

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        runner = self.config.runner
        if runner.max_steps is not None:
            return runner.max_steps
        assert runner.max_epochs is not None
        return runner.max_epochs * self.batches.batches_an_epoch

    def prepare_work_dir(self) -> None:
        """Writes all that makes the work dir self-contained, before the first step."""
        self.work_dir.mkdir(parents=True, exist_ok=True)
        tree = unbind(self.config)
        (self.work_dir / "config.json").write_text(json.dumps(tree, indent=1) + "\n")
        save_stats(self.work_dir / "norm_stats.json", self.dataset.stats)
        for prompts in self._prompt_transforms():
            save_tokenizer(prompts.tokenizer, self.work_dir / "tokenizer")

    def run(self, progress: TrainProgress) -> Path:
        """Trains to the last step and returns the last checkpoint."""
        log = MetricsLog(self.work_dir / "metrics.jsonl", self.step)
        path = None
        while self.step < self.total_steps:
            self.train_epoch(log, progress)
            self.epoch += 1
            is_last = self.step >= self.total_steps
            if is_last or self.epoch % self.config.runner.save_epoch_interval == 0:
                path = self.save()
        if path is None:
            raise CheckpointError(
                f"{self.work_dir}: step {self.step} of {self.total_steps} is already trained; "
                "raise runner.max_epochs or runner.max_steps to go on"
            )
        plot_loss(read_metrics(log.path), self.work_dir / "loss.png")
        return path

    def train_epoch(self, log: MetricsLog, progress: TrainProgress) -> None:
        """One pass over the data, or what is left of the steps."""
        runner, batch_size = self.config.runner, self.batches.batch_size
        waited_s, losses, started = 0.0, [], time.perf_counter()
        window_start = started
        for batch, wait_s in self._timed_batches():
            waited_s += wait_s
            loss, grad_norm = self.train_step(batch)
            losses.append(loss)
            if self.step % runner.log_interval == 0 or self.step == self.total_steps:
                now = time.perf_counter()
                elapsed = now - window_start
                values = {
                    "step": self.step,
                    "epoch": self.epoch + 1,
                    "loss": sum(losses) / len(losses),
                    "learning_rate": self.learning_rate,
                    "grad_norm": grad_norm,
                    "samples_per_s": len(losses) * batch_size / elapsed,
                    "data_wait_share": waited_s / elapsed,
                    "peak_memory_bytes": peak_memory_bytes(),
                }
                log.write(values)
                progress.update(values)
                waited_s, losses, window_start = 0.0, [], now
            if self.step >= self.total_steps:
                return

    def train_step(self, batch: dict[str, Any]) -> tuple[float, float]:
        """One optimiser step; returns the loss and the gradient norm before clipping."""
        runner = self.config.runner
        self.learning_rate = learning_rate_at(self.step, self.total_steps, runner)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        if not np.any(batch["action_masks"]):
            raise DataError(
                f"step {self.step + 1}: no action of this batch lies inside its episode, so there "
                "is nothing to learn. Lower window_start_idx or raise per_device_batch_size"
            )
        tensors = {k: torch.as_tensor(batch[k]).to(self.device) for k in MODEL_KEYS if k in batch}
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=runner.enable_mixed_precision_training
        ):
            loss = flow_matching_loss(
                self.model,
                tensors,
                num_noise_samples=runner.num_noise_samples,
                generator=self.generator,
            ).loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), runner.max_grad_norm)
        if not torch.isfinite(grad_norm) or not torch.isfinite(loss):
            raise FluxError(
                f"step {self.step + 1}: loss {loss.item()} and gradient norm {grad_norm.item()} "
                "are not finite. Lower runner.learning_rate or look at the data of this step"
            )
        self.optimizer.step()
        self.step += 1
        if self.average is not None:
            self.average.update(self.model, self.step)
        return loss.item(), grad_norm.item()

    def save(self) -> Path:
        """Writes the checkpoint of the epochs completed."""
        state = {
            "model": self.model.state_dict(),
            "ema": self.average.weights if self.average is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            # Dropout draws from torch's own generators.
            "dropout_rng": _dropout_rng(),
            "global_step": self.step,
            "epoch": self.epoch,
            "config": unbind(self.config),
            "norm_stats": stats_to_json(self.dataset.stats),
        }
        path = save_checkpoint(self.work_dir, self.epoch, state, self.config.runner.max_checkpoints)
        if self.config.model.use_lora:
            save_adapter(self.model, path.with_name(f"{path.stem}_adapter"))
        return path

    def start(self) -> None:
        """Takes the weights that the config starts from."""
        config = self.config.model
        if config.pretrained_name_or_path is not None:
            path = Path(config.pretrained_name_or_path)
            load_pretrained(
                self.model,
                path,
                adapt=config.pretrained_adapt,
                from_pi0=config.pretrained_from_pi0,
            )
        self._prepare_training()

    def resume(self, path: Path) -> None:
        """Continues a run from its checkpoint; one of another network is refused.

        The weights that the run once started from are not needed again.
        """
        state = load_checkpoint(path)
        # Bound, so that fields newer than the checkpoint take their defaults.
        trained = unbind(bind(PI0FlowMatching.Config, state["config"]["model"], "model"))
        wanted = unbind(self.config.model)
        differing = sorted(key for key, value in wanted.items() if trained.get(key) != value)
        if differing:
            raise CheckpointError(
                f"{path}: was trained with another config; model.{', model.'.join(differing)} "
                "differ"
            )
        self._prepare_training()
        load_weights(self.model, state["model"], str(path))
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        _set_dropout_rng(state.get("dropout_rng"))
        if self.average is not None and state["ema"] is not None:
            self.average.weights = {k: v.to(self.device) for k, v in state["ema"].items()}
        self.step, self.epoch = state["global_step"], state["epoch"]

    def _prepare_training(self) -> None:
        """Adapters, then the optimiser and the average of what they leave to train."""
        runner = self.config.runner
        if self.config.model.use_lora:
            apply_lora(self.model)
        if not any(p.requires_grad for p in self.model.parameters()):
            raise ConfigError("model: every parameter is frozen, so there is nothing to train")
        self.optimizer = build_optimizer(self.model, runner)
        self.average = WeightAverage(self.model, runner.ema_decay) if runner.ema_decay else None

    def _timed_batches(self) -> Iterator[tuple[dict[str, Any], float]]:
        """Batches of this epoch, each with the seconds it was waited for."""
        self.batches.epoch = self.epoch
        iterator = iter(self._loader())
        while True:
            started = time.perf_counter()
            batch = next(iterator, None)
            if batch is None:
                return
            yield batch, time.perf_counter() - started

    def _loader(self) -> Iterable[dict[str, Any]]:
        settings, collate = self.config.train_dataloader, self.config.runner.collator
        workers = settings.per_device_num_workers
        if workers and settings.worker_type == "thread":
            return read_ahead(self.dataset, self.batches, collate, workers)
        return DataLoader(
            self.dataset,  # type: ignore[arg-type]  # has __len__ and __getitem__
            batch_sampler=self.batches,
            collate_fn=collate,
            num_workers=workers,
            worker_init_fn=_one_thread if workers else None,
            prefetch_factor=4 if workers else None,
        )

    def _prompt_transforms(self) -> list[ProcessPrompts]:
        groups = self.config.train_dataloader.dataset.groups().values()
        transforms = [t for group in groups for dataset in group for t in dataset.transforms]
        return [t for t in transforms if isinstance(t, ProcessPrompts)][:1]


def _dropout_rng() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_dropout_rng(states: dict[str, torch.Tensor] | None) -> None:
    if states is None:  # a checkpoint from before dropout was possible
        return
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def check_available(runner: TrainRunner) -> None:
    """Refuses what a runner's config can ask for and this version cannot do."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise ConfigError(f"runner: trains in one process, got WORLD_SIZE={processes}")
    if runner.enable_gradient_checkpointing:
        raise ConfigError("runner.enable_gradient_checkpointing: is not available; set it to False")
    others = sorted(set(runner.metric.active_trackers) - {"jsonl"})
    if others:
        raise ConfigError(
            f"runner.metric.active_trackers: {others[0]!r} is not available; use ('jsonl',)"
        )


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
    np.random.seed(worker)
