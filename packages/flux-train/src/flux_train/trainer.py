"""The training loop, of one process or of one among many."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from flux_core.config import unbind
from flux_core.errors import CheckpointError, ConfigError, DataError, FluxError
from flux_core.models import flow_mask, without_effect
from flux_core.models.weights import (
    apply_lora,
    load_checkpoint,
    load_pretrained,
    load_weights,
    save_adapter,
)
from flux_core.norm_stats import save_stats, stats_to_json
from flux_core.tokenizers import save_tokenizer
from flux_core.transforms import ProcessPrompts
from flux_data.samples import EpochBatches

from .checkpoints.checks import Setup, check_resumable, warn_of_changes
from .checkpoints.files import Place, remove_old, remove_partial, rewinds_after, save_checkpoint
from .checkpoints.sharded import (
    SUFFIX,
    consolidate,
    fill_from_shards,
    holds_average,
    load_plain,
    save_shards,
)
from .config.data_checks import check_data, check_vocabulary
from .config.runner import FSDPTrainRunner
from .config.tree import TrainConfig
from .distributed.parallel import (
    check_kind,
    clip_gradients,
    full_state,
    full_tensors,
    gradients_kept_local,
    is_sharded,
    load_full_state,
    load_sharded_state,
    sharded_state,
    whole,
    wrap,
)
from .distributed.ranks import Ranks
from .failed_writes import FailedWrites
from .loading.batches import LostDataError, PeerLostDataError, batches_left, told_to_all
from .metrics.log import peak_memory_bytes, plot_loss, read_metrics
from .metrics.outputs import Outputs
from .metrics.throughput import counted_flops, peak_flops
from .metrics.trackers import check_trackers
from .metrics.train_progress import TrainProgress
from .metrics.window import LogWindow
from .micro_batch import Batch, to_device, trim_prompts
from .optimization import WeightAverage, build_optimizer, learning_rate_at, trained
from .out_of_memory import memory_errors
from .policy_loss import PolicyLoss, rows_of, seed_of, step_draws
from .provenance import write_provenance
from .stop_signals import StopSignals
from .validation.validator import Validator

logger = logging.getLogger("flux.train")


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """One optimiser step, over all processes; skipped where the gradient was not finite."""

    loss: float
    grad_norm: float
    is_skipped: bool
    wants_stop: bool


class Trainer:
    """Holds everything a run needs; `run` trains to the end."""

    def __init__(self, config: TrainConfig, work_dir: Path, ranks: Ranks | None = None) -> None:
        """Builds data and network; `start` or `resume` gives the network its weights."""
        runner = config.runner
        check_trackers(runner.metric)
        if runner.num_threads is not None:
            torch.set_num_threads(runner.num_threads)
        torch.manual_seed(runner.seed)
        default = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.ranks = ranks or Ranks(device=default)
        check_kind(runner, self.ranks)
        self.config, self.work_dir, self.device = config, work_dir, self.ranks.device
        check_vocabulary(config)
        self.dataset = config.train_dataloader.dataset.build()
        check_data(config, self.dataset)
        self.batches = EpochBatches(
            self.dataset,
            config.train_dataloader.per_device_batch_size,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )
        if self.steps_an_epoch == 0:
            raise ConfigError(
                f"runner.gradient_accumulation_steps: expected at most "
                f"{self.batches.batches_an_epoch} (the batches of an epoch), got "
                f"{runner.gradient_accumulation_steps}"
            )
        self.model = config.model.build().to(self.device)
        groups = len(self.dataset.group_names)
        self.window = LogWindow(groups, config.model.action_dim, self.device)
        self.failed = FailedWrites()
        self.validator: Validator | None = None
        if config.validation is not None:
            self.validator = Validator(
                config.validation,
                self.dataset.stats,
                runner.collator,
                self.device,
                batch_size=self.batches.batch_size,
                work_dir=work_dir,
                failed=self.failed,
            )
        self.step = self.skipped_steps = self.skipped_in_a_row = self.rewinds = 0
        self.outputs: Outputs | None = None
        self.signals = StopSignals()
        self.flops_a_step: int | None = None

    @property
    def accumulation(self) -> int:
        """Batches of this process in an optimiser step."""
        return self.config.runner.gradient_accumulation_steps

    @property
    def steps_an_epoch(self) -> int:
        """Optimiser steps of a whole epoch."""
        return self.batches.batches_an_epoch // self.accumulation

    @property
    def samples_a_step(self) -> int:
        """Samples of an optimiser step, over all processes."""
        return self.batches.global_batch_size * self.accumulation

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        runner = self.config.runner
        if runner.max_steps is not None:
            return runner.max_steps
        assert runner.max_epochs is not None
        return runner.max_epochs * self.steps_an_epoch

    def prepare_work_dir(self) -> None:
        """Writes all that makes the work dir self-contained, before the first step."""
        if self.ranks.is_main:
            self.work_dir.mkdir(parents=True, exist_ok=True)
            remove_partial(self.work_dir)
            tree = unbind(self.config)
            (self.work_dir / "config.json").write_text(json.dumps(tree, indent=1) + "\n")
            facts = {
                "total_steps": self.total_steps,
                "num_parameters": sum(p.numel() for p in self.model.parameters()),
                "processes": self.ranks.world_size,
            }
            write_provenance(self.work_dir / "environment.json", facts, self.step)
            save_stats(self.work_dir / "norm_stats.json", self.dataset.stats)
            for prompts in self._prompt_transforms():
                save_tokenizer(prompts.tokenizer, self.work_dir / "tokenizer")
        self.ranks.barrier()

    def run(self, progress: TrainProgress) -> Path | None:
        """Trains to the last step; returns the last checkpoint, or None if a signal stopped it.

        Raises:
            CheckpointError: nothing is left to train, or something could not be written.
            DataError: a sample could not be made; what was trained until then is saved.
            FluxError: too many steps in a row had no finite gradient, or memory ran out.
        """
        if self.step >= self.total_steps:
            raise CheckpointError(
                f"{self.work_dir}: step {self.step} of {self.total_steps} is already trained; "
                "raise runner.max_epochs or runner.max_steps to go on"
            )
        path: Path | None = None
        with self._open_outputs(progress), self.signals, memory_errors(self), self._saved_data():
            while self.step < self.total_steps:
                wants_stop = self._train_epoch()
                if wants_stop and self.step < self.total_steps:
                    self.save(f"checkpoint_step_{self.step}", must=True)
                    return None
                is_last = self.step >= self.total_steps
                epochs = math.ceil(self.step / self.steps_an_epoch)
                if is_last or epochs % self.config.runner.save_epoch_interval == 0:
                    path = self.save(f"checkpoint_epoch_{epochs}", must=is_last)
        if self.ranks.is_main:
            with self.failed.tolerated(self.work_dir / "loss.png"):
                plot_loss(read_metrics(self.work_dir / "metrics.jsonl"), self.work_dir / "loss.png")
        if problems := self.ranks.from_main(self.failed.summary()):
            raise CheckpointError(str(problems))
        return path

    @contextlib.contextmanager
    def _open_outputs(self, progress: TrainProgress) -> Iterator[None]:
        """Where metrics go, for as long as the run lasts; the main process's alone."""
        if not self.ranks.is_main:
            yield
            return
        tree = unbind(self.config)
        metric = self.config.runner.metric
        self.outputs = Outputs(metric, self.work_dir, tree, self.step, progress, self.failed)
        try:
            yield
        finally:
            self.outputs.close()

    def _train_epoch(self) -> bool:
        """What is left of an epoch, or of the steps; returns whether to stop."""
        runner = self.config.runner
        waited_s, window_start, first_step = 0.0, time.perf_counter(), self.step
        for micro_batches, wait_s in self.steps():
            waited_s += wait_s
            result = self.train_step(micro_batches)
            is_last = self.step >= self.total_steps
            values: dict[str, Any] | None = None
            if self.step % runner.log_interval == 0 or is_last:
                elapsed, steps = time.perf_counter() - window_start, self.step - first_step
                values = self._metrics(result, elapsed / steps, waited_s / elapsed)
            # Its line comes first, so that the last one of a run is of training.
            if self._validate(is_last) or values is not None:
                waited_s, window_start, first_step = 0.0, time.perf_counter(), self.step
            if self.outputs is not None and values is not None:
                self.outputs.write(values)
            if self.skipped_in_a_row > runner.max_skipped_steps:
                self._give_up(result)
            if is_last or result.wants_stop:
                return result.wants_stop
            interval = runner.save_iter_interval
            if interval and self.step % interval == 0 and self.step % self.steps_an_epoch:
                self.save(f"checkpoint_step_{self.step}")
        return False

    def _metrics(self, result: StepResult, step_s: float, wait_share: float) -> dict[str, Any]:
        """A line of metrics.jsonl; called by all processes."""
        peak = peak_flops(self.device)
        mfu = self.flops_a_step / step_s / peak if self.flops_a_step and peak else None
        values = {
            "step": self.step,
            "epoch": math.ceil(self.step / self.steps_an_epoch),
            **self.window.means(self.dataset.group_names, self.ranks),
            "learning_rate": learning_rate_at(self.step - 1, self.total_steps, self.config.runner),
            "grad_norm": result.grad_norm,
            "samples_per_s": self.samples_a_step / step_s,
            "data_wait_share": wait_share,
            "mfu": mfu,
            "peak_memory_bytes": peak_memory_bytes(),
            "skipped_steps": self.skipped_steps,
        }
        self.window.clear()
        return values

    def _validate(self, is_last: bool) -> bool:
        """Looks at the held-out data when it is time to; called by all processes."""
        settings = self.config.validation
        if self.validator is None or settings is None:
            return False
        if self.step % settings.interval_steps and not is_last:
            return False
        if self.ranks.is_main or is_sharded(self.config.runner, self.ranks):
            with whole(self.wrapped), self._autocast():
                found = self.validator.run(self.model, self.step, write=self.ranks.is_main)
            if self.outputs is not None:
                epoch = math.ceil(self.step / self.steps_an_epoch)
                self.outputs.write({"step": self.step, "epoch": epoch, "validation": found})
        self.ranks.barrier()
        return True

    def _autocast(self) -> torch.autocast:
        enabled = self.config.runner.enable_mixed_precision_training
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def train_step(self, micro_batches: list[dict[str, object]]) -> StepResult:
        """One optimiser step on the batches of this process."""
        runner, config = self.config.runner, self.config.model
        rate = learning_rate_at(self.step, self.total_steps, runner)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # What is random depends on the step alone, so that a resumed run draws the same.
        torch.manual_seed(seed_of(runner.seed, self.step, self.ranks.rank, 1))
        draws = step_draws(
            config,
            seed=runner.seed,
            step=self.step,
            samples=self.samples_a_step,
            draws_a_sample=runner.num_noise_samples,
        )
        batches = [self._on_device(batch) for batch in micro_batches]
        rows = [
            draws.rows(rows_of(self._samples_of(number), runner.num_noise_samples)).to(self.device)
            for number in range(len(batches))
        ]
        counted = [
            flow_mask(self.model, batch, part).sum()
            for batch, part in zip(batches, rows, strict=True)
        ]
        total = self.ranks.sum(torch.stack(counted).sum())
        if torch.isnan(total):  # see `_saved_data`
            raise PeerLostDataError
        if total == 0:
            raise DataError(
                f"step {self.step + 1}: no action of this batch lies inside its episode, so there "
                "is nothing to learn. Lower window_start_idx or raise per_device_batch_size"
            )
        # The processes' gradients are averaged: every one counts for its share of the errors.
        denominator = total / self.ranks.world_size
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        sums, counts = (torch.zeros_like(self.window.sums) for _ in range(2))
        for number, (batch, part) in enumerate(zip(batches, rows, strict=True)):
            with gradients_kept_local(self.wrapped, number + 1 == len(batches)):
                answer = self._forward_and_backward(batch, part, denominator)
            loss += answer.loss.detach()
            sums += answer.sums
            counts += answer.counts
        norm = clip_gradients(list(self.trained.values()), runner.max_grad_norm)
        wish = torch.tensor(float(self.signals.received is not None), device=self.device)
        shared = self.ranks.sum(torch.stack((loss, wish)))
        mean_loss = float(shared[0]) / self.ranks.world_size
        is_skipped = not (math.isfinite(mean_loss) and bool(torch.isfinite(norm)))
        self.step += 1
        self.consumed += len(batches)
        if is_skipped:
            self.skipped_steps += 1
            self.skipped_in_a_row += 1
            logger.warning(
                "step %d: loss %s and gradient norm %s are not finite; the step is skipped",
                self.step,
                mean_loss,
                float(norm),
            )
        else:
            self.skipped_in_a_row = 0
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.model, self.step)
            self.window.add(mean_loss, sums, counts)
        return StepResult(
            loss=mean_loss,
            grad_norm=float(norm),
            is_skipped=is_skipped,
            wants_stop=bool(shared[1] > 0),
        )

    def _forward_and_backward(self, batch: Batch, draws: Any, denominator: Tensor) -> Any:
        runner = self.config.runner

        def work() -> Any:
            with self._autocast():
                answer = self.wrapped(batch, draws, denominator)
            answer.loss.backward()
            return answer

        if self.flops_a_step is None and not runner.compile and peak_flops(self.device):
            answer, flops = counted_flops(work)
            self.flops_a_step = flops * self.accumulation
            return answer
        return work()

    def _samples_of(self, micro_batch: int) -> Tensor:
        """Which samples of the step, over all processes, a micro-batch of this one holds."""
        own = torch.arange(self.batches.batch_size) * self.ranks.world_size + self.ranks.rank
        return own + micro_batch * self.batches.global_batch_size

    def _on_device(self, batch: dict[str, object]) -> Batch:
        # A compiled network would be compiled again for every width.
        return to_device(batch if self.config.runner.compile else trim_prompts(batch), self.device)

    def save(self, name: str, *, must: bool = False) -> Path | None:
        """Writes a checkpoint; called by all processes.

        A disk that is full does not stop training, unless the checkpoint is one that `must` be.
        """
        plain = self._plain_state()
        if self._has_sharded_checkpoints:
            problem = self._save_shards(name, plain, is_last=must)
        else:
            problem = self._save_whole(name, plain)
        problem = self.ranks.from_main(problem)
        if problem is None:
            is_folder = self._has_sharded_checkpoints and not must
            return self.work_dir / f"{name}{SUFFIX if is_folder else '.pt'}"
        if must:
            earlier = len(self.failed.checkpoints)
            more = f"; {earlier} checkpoints before it could not be written either"
            raise CheckpointError(f"{problem}{more if earlier else ''}")
        self.failed.add_checkpoint(problem)
        return None

    @property
    def _has_sharded_checkpoints(self) -> bool:
        runner = self.config.runner
        wanted = isinstance(runner, FSDPTrainRunner) and runner.sharded_checkpoints
        return wanted and is_sharded(runner, self.ranks)

    def _plain_state(self) -> dict[str, Any]:
        """What a checkpoint holds besides weights, their average and the optimiser."""
        return {
            "global_step": self.step,
            "rewinds": self.rewinds,
            "setup": self._setup().as_data(),
            "epoch": self.step // self.steps_an_epoch,
            "position": self._position(),
            "window": self.window.state_dict(self.ranks),
            "skipped_steps": self.skipped_steps,
            "config": unbind(self.config),
            "norm_stats": stats_to_json(self.dataset.stats),
        }

    def _save_whole(self, name: str, plain: dict[str, Any]) -> str | None:
        """One file, by the main process; returns what went wrong there."""
        weights, optimizer = full_state(self.model, self.optimizer)
        average = full_tensors(self.average.weights) if self.average is not None else None
        if not self.ranks.is_main:
            return None
        return self._write(name, {"model": weights, "ema": average, "optimizer": optimizer} | plain)

    def _save_shards(self, name: str, plain: dict[str, Any], *, is_last: bool) -> str | None:
        """A folder, by all processes, and of the last one a file; returns what went wrong."""
        folder = self.work_dir / f"{name}{SUFFIX}"
        tensors = sharded_state(self.model, self.optimizer)
        if self.average is not None:
            tensors["ema"] = dict(self.average.weights)
        try:
            save_shards(folder, tensors, plain, self.ranks)
            if not self.ranks.is_main:
                return None
            remove_old(self.work_dir, self.config.runner.max_checkpoints)
            return self._write(name, consolidate(folder)) if is_last else None
        except CheckpointError as error:
            return str(error)

    def _write(self, name: str, state: dict[str, Any]) -> str | None:
        adapter = self.work_dir / f"{name}_adapter"
        try:
            save_checkpoint(self.work_dir, name, state, self.config.runner.max_checkpoints)
            if self.config.model.use_lora:
                save_adapter(self.model, adapter, state["model"])
        except CheckpointError as error:
            return str(error)
        except (OSError, SafetensorError) as error:
            return f"{adapter}: cannot be written ({str(error).splitlines()[0]})"
        return None

    def start(self) -> None:
        """Takes the weights that the config starts from."""
        config = self.config.model
        if config.pretrained_name_or_path is not None:
            load_pretrained(
                self.model,
                Path(config.pretrained_name_or_path),
                adapt=config.pretrained_adapt,
                from_pi0=config.pretrained_from_pi0,
            )
        self._prepare_training()

    def resume(self, path: Path) -> None:
        """Continues a run from its checkpoint; one of another network is refused.

        The weights that the run once started from are not needed again.
        """
        is_folder = path.is_dir()
        state = load_plain(path) if is_folder else load_checkpoint(path)
        check_resumable(path, state, self.config, self.dataset.stats)
        has_average = holds_average(path) if is_folder else state["ema"] is not None
        if self.ranks.is_main:
            warn_of_changes(path, state, self.config, self._setup(), has_average=has_average)
            place = Place(state.get("rewinds", 0), state["global_step"])
            self.rewinds = rewinds_after(self.work_dir, place)
        if self.config.model.use_lora:
            apply_lora(self.model)
        if is_folder:
            self._prepare_training(has_adapters=True)
            self._fill_from_shards(path, has_average=has_average)
        else:
            # Before anything is sharded: what does not fit is named, and the average needs its
            # place.
            load_weights(self.model, state["model"], str(path))
            if has_average:
                self.model.load_state_dict(state["ema"], strict=False)
            self._prepare_training(has_adapters=True)
            weights, optimizer = state["model"], state["optimizer"]
            load_full_state(self.model, self.optimizer, weights, optimizer, self.ranks)
        self.step, self.skipped_steps = state["global_step"], state["skipped_steps"]
        if tuple(state["norm_stats"]) == self.dataset.group_names:
            self.window.load_state_dict(state["window"], self.ranks)
        self.batches.load_state_dict(state["position"])
        self.consumed = self.batches.first_batch

    def _fill_from_shards(self, folder: Path, *, has_average: bool) -> None:
        tensors = sharded_state(self.model, self.optimizer)
        if self.average is not None and has_average:
            tensors["ema"] = self.average.weights
        fill_from_shards(folder, tensors, self.ranks)
        load_sharded_state(self.model, self.optimizer, tensors)
        if self.average is not None and not has_average:
            self.average = WeightAverage(self.model, self.average.decay)

    def _setup(self) -> Setup:
        return Setup(
            runner=type(self.config.runner).__name__,
            world_size=self.ranks.world_size,
            accumulation=self.accumulation,
            samples_a_step=self.samples_a_step,
            total_steps=self.total_steps,
        )

    def _prepare_training(self, *, has_adapters: bool = False) -> None:
        """Adapters, sharding, then the optimiser and the average of what is left to train."""
        runner = self.config.runner
        if self.config.model.use_lora and not has_adapters:
            apply_lora(self.model)
        idle = set(without_effect(self.model))
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name not in idle)
        if not trained(self.model):
            raise ConfigError("model: every parameter is frozen, so there is nothing to train")
        loss = PolicyLoss(self.model, len(self.dataset.group_names))
        self.wrapped = wrap(loss, runner, self.ranks)
        self.trained = trained(self.model)
        self.optimizer = build_optimizer(self.model, runner)
        self.average = WeightAverage(self.model, runner.ema_decay) if runner.ema_decay else None
        self.consumed = self.batches.first_batch

    def steps(self) -> Iterator[tuple[list[dict[str, object]], float]]:
        """The micro-batches of each step left of this epoch, and the seconds waited for them."""
        steps = len(self.batches) // self.accumulation
        with contextlib.closing(self._epoch_batches()) as iterator:
            for _ in range(steps):
                started = time.perf_counter()
                micro_batches = list(islice(iterator, self.accumulation))
                yield micro_batches, time.perf_counter() - started
        self.batches.epoch, self.batches.first_batch = self.batches.epoch + 1, 0
        self.consumed = 0

    def _epoch_batches(self) -> Generator[dict[str, object]]:
        try:
            settings, collate = self.config.train_dataloader, self.config.runner.collator
            yield from batches_left(settings, self.dataset, self.batches, collate)
        except FluxError as error:
            where = f"after step {self.step} of epoch {self.batches.epoch + 1}"
            raise LostDataError(f"{where}: {error}") from error

    @contextlib.contextmanager
    def _saved_data(self) -> Iterator[None]:
        """Saves what was trained until a step's data was lost, in this process or another.

        A process without data takes part in the first sum of the step with NaN: so the others,
        which wait for it there, know and come to save too.
        """
        try:
            yield
        except LostDataError as error:
            reason = told_to_all(error, self.ranks, self.device)
            saved = self.save(f"checkpoint_step_{self.step}") if self.step else None
            more = f"; saved {saved}" if saved else ""
            raise DataError(f"{reason}{more}") from error

    def _position(self) -> dict[str, int]:
        """Where in the data the next step begins."""
        whole = self.consumed + self.accumulation > self.batches.batches_an_epoch
        return self.batches.state_dict(self.batches.batches_an_epoch if whole else self.consumed)

    def _prompt_transforms(self) -> list[ProcessPrompts]:
        groups = self.config.train_dataloader.dataset.groups().values()
        transforms = [t for group in groups for dataset in group for t in dataset.transforms]
        return [t for t in transforms if isinstance(t, ProcessPrompts)][:1]

    def _give_up(self, result: StepResult) -> None:
        path = self.save(f"checkpoint_step_{self.step}")
        raise FluxError(
            f"step {self.step}: {self.skipped_in_a_row} steps in a row without a finite gradient "
            f"(loss {result.loss}, gradient norm {result.grad_norm}); saved {path}. Lower "
            "runner.learning_rate or look at the data"
        )
