"""The training loop of one process, alone or one of many."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flux_core.config import unbind
from flux_core.errors import CheckpointError, DataError, FluxError

from .checkpoints.files import remove_partial
from .checkpoints.keeper import CheckpointKeeper
from .config.data_checks import range_warnings
from .config.tree import TrainConfig
from .distributed.parallel import check_kind, clip_gradients, is_sharded, whole
from .distributed.ranks import Ranks
from .failed_writes import FailedWrites
from .gradients import Gradients, autocast
from .loading.batches import LostDataError, shared_reason
from .loading.train_data import TrainData
from .metrics.log import peak_memory_bytes, plot_loss, read_metrics
from .metrics.outputs import Outputs
from .metrics.throughput import peak_flops
from .metrics.trackers import check_trackers
from .metrics.train_progress import TrainProgress
from .metrics.window import LogWindow
from .optimization import learning_rate_at
from .out_of_memory import memory_errors
from .policy_loss import seed_of
from .provenance import write_run_files
from .state import initial_state
from .stop_signals import StopSignals
from .validation.validator import Validator

logger = logging.getLogger("flux.train")


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """One optimiser step, over all processes; skipped if the gradient was not finite."""

    loss: float
    grad_norm: float
    is_skipped: bool
    wants_stop: bool


class Trainer:
    """A training run, ready for its next step; `run` trains to the end.

    Attributes:
        config: what is trained, on what and how.
        work_dir: where the run's files go; nothing is written before `run`.
        ranks: the processes of the run.
        device: where this process trains.
        data: the training set, and where in it the next step begins.
        state: the network, its optimiser and how far they are.
        gradients: computes the gradient of the next step.
        window: the errors since the last line of the metrics.
        validator: the held-out data, if the config has any.
        keeper: writes the checkpoints.
        failed: what could not be written so far.
        signals: whether someone has asked the run to stop.
    """

    def __init__(
        self,
        config: TrainConfig,
        work_dir: Path,
        ranks: Ranks | None = None,
        *,
        checkpoint: Path | None = None,
    ) -> None:
        """Opens the data and builds the network; called by all processes.

        Args:
            config: the run.
            work_dir: its directory, which need not exist.
            ranks: the processes; by default this one alone.
            checkpoint: where to resume; by default the run begins with the config's weights.

        Raises:
            CheckpointError: the checkpoint or the pretrained weights do not fit.
            ConfigError: the config does not fit the data, the processes or itself.
            DataError: the data cannot be read.
        """
        runner = config.runner
        check_trackers(runner.metric)
        if runner.num_threads is not None:
            torch.set_num_threads(runner.num_threads)
        torch.manual_seed(runner.seed)
        default = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.ranks = ranks or Ranks(device=default)
        check_kind(runner, self.ranks)
        self.config, self.work_dir, self.device = config, work_dir, self.ranks.device
        self.failed, self.signals = FailedWrites(), StopSignals()
        self.data = TrainData(config, self.ranks)
        num_groups = len(self.data.dataset.group_names)
        self.window = LogWindow(num_groups, config.model.action_dim, self.device)
        self.validator = self._validator()
        self.keeper = CheckpointKeeper(config, work_dir, self.ranks, self.failed)
        if checkpoint is None:
            self.state = initial_state(config, self.ranks, num_groups)
        else:
            self.state = self.keeper.resume(checkpoint, self.data, self.window)
        self.gradients = Gradients(config, self.data, self.state, self.ranks)
        self._outputs: Outputs | None = None

    def _validator(self) -> Validator | None:
        if self.config.validation is None:
            return None
        validator = Validator(
            self.config.validation,
            self.data.dataset.stats,
            self.config.runner.collator,
            self.device,
            batch_size=self.data.batches.batch_size,
            work_dir=self.work_dir,
            failed=self.failed,
        )
        min_range = self.config.train_dataloader.dataset.min_range
        for group in validator.groups if self.ranks.is_main else ():
            for line in range_warnings(group.ranges(), min_range, is_held_out=True):
                logger.warning("%s", line)
        return validator

    @property
    def step(self) -> int:
        """Optimiser steps so far."""
        return self.state.step

    @property
    def epoch(self) -> int:
        """The epoch of the latest step, counted from 1."""
        return math.ceil(self.step / self.data.steps_per_epoch)

    @property
    def total_steps(self) -> int:
        """Optimiser steps in the whole run."""
        return self.data.total_steps

    def run(self, progress: TrainProgress) -> Path | None:
        """Trains to the last step.

        Returns:
            The last checkpoint, or None if a signal stopped the run, which is then saved.

        Raises:
            CheckpointError: nothing is left to train, or something could not be written.
            DataError: a sample could not be made; the steps trained so far are saved.
            FluxError: too many steps in a row had no finite gradient, or memory ran out.
        """
        if self.step >= self.total_steps:
            raise CheckpointError(
                f"{self.work_dir}: expected steps left to train, got a run that finished step "
                f"{self.step} of {self.total_steps}. Raise runner.max_epochs or runner.max_steps"
            )
        self._prepare_work_dir()
        path: Path | None = None
        with self._open_outputs(progress), self.signals, memory_errors(self), self._saved_data():
            while self.step < self.total_steps:
                wants_stop = self._train_epoch()
                if wants_stop and self.step < self.total_steps:
                    self.save(f"checkpoint_step_{self.step}", must=True)
                    return None
                is_last = self.step >= self.total_steps
                if is_last or self.epoch % self.config.runner.save_epoch_interval == 0:
                    path = self.save(f"checkpoint_epoch_{self.epoch}", must=is_last)
        if self.ranks.is_main:
            with self.failed.tolerated(self.work_dir / "loss.png"):
                plot_loss(read_metrics(self.work_dir / "metrics.jsonl"), self.work_dir / "loss.png")
        if problems := self.ranks.from_main(self.failed.summary()):
            raise CheckpointError(str(problems))
        return path

    def _prepare_work_dir(self) -> None:
        """Writes what makes the work dir self-contained, and clears away unfinished saves."""
        if self.ranks.is_main:
            self.work_dir.mkdir(parents=True, exist_ok=True)
            remove_partial(self.work_dir)
            facts = {
                "total_steps": self.total_steps,
                "num_parameters": sum(p.numel() for p in self.state.model.parameters()),
                "processes": self.ranks.world_size,
            }
            write_run_files(self.work_dir, self.config, self.data.dataset.stats, facts, self.step)
        self.ranks.barrier()

    @contextlib.contextmanager
    def _open_outputs(self, progress: TrainProgress) -> Iterator[None]:
        """Opens the outputs for the metrics, in the main process only."""
        if not self.ranks.is_main:
            yield
            return
        tree, metric = unbind(self.config), self.config.runner.metric
        self._outputs = Outputs(metric, self.work_dir, tree, self.step, progress, self.failed)
        try:
            yield
        finally:
            self._outputs.close()

    @contextlib.contextmanager
    def _saved_data(self) -> Iterator[None]:
        """Saves the run if a process has no data for the next step.

        That process takes part in the first sum of the step with NaN. The others, which wait for
        it there, then know and save too.
        """
        try:
            yield
        except LostDataError as error:
            reason = shared_reason(error, self.ranks, self.device)
            saved = self.save(f"checkpoint_step_{self.step}") if self.step else None
            raise DataError(f"{reason}; saved {saved}" if saved else reason) from error

    def _train_epoch(self) -> bool:
        """Trains the rest of the epoch or of the run; returns whether to stop early."""
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
            # The validation's line comes first, so that a run's last line is one of training.
            if self._validate(is_last) or values is not None:
                waited_s, window_start, first_step = 0.0, time.perf_counter(), self.step
            if self._outputs is not None and values is not None:
                self._outputs.write(values)
            if self.state.skipped_in_a_row > runner.max_skipped_steps:
                self._give_up(result)
            if is_last or result.wants_stop:
                return result.wants_stop
            interval = runner.save_iter_interval
            if interval and self.step % interval == 0 and self.step % self.data.steps_per_epoch:
                self.save(f"checkpoint_step_{self.step}")
        return False

    def steps(self) -> Iterator[tuple[list[dict[str, object]], float]]:
        """Yields each remaining step of the epoch: its micro-batches and the seconds waited.

        Raises:
            DataError: a sample cannot be made.
        """
        try:
            yield from self.data.steps()
        except FluxError as error:
            where = f"after step {self.step} of epoch {self.data.batches.epoch + 1}"
            raise LostDataError(f"{where}: {error}") from error

    def _metrics(self, result: StepResult, step_s: float, wait_share: float) -> dict[str, Any]:
        """A line of metrics.jsonl; called by all processes. Begins a new window."""
        flops, peak = self.gradients.flops_per_step, peak_flops(self.device)
        values = {
            "step": self.step,
            "epoch": self.epoch,
            **self.window.means(self.data.dataset.group_names, self.ranks),
            "learning_rate": learning_rate_at(self.step - 1, self.total_steps, self.config.runner),
            "grad_norm": result.grad_norm,
            "samples_per_s": self.data.samples_per_step / step_s,
            "data_wait_share": wait_share,
            "mfu": flops / step_s / peak if flops and peak else None,
            "peak_memory_bytes": peak_memory_bytes(),
            "skipped_steps": self.state.skipped_steps,
        }
        self.window.clear()
        return values

    def _validate(self, is_last: bool) -> bool:
        """Validates the weights to deploy if it is time to; called by all processes.

        Returns whether it did.
        """
        settings = self.config.validation
        if self.validator is None or settings is None:
            return False
        if self.step % settings.interval_steps and not is_last:
            return False
        if self.ranks.is_main or is_sharded(self.config.runner, self.ranks):
            precision = autocast(self.config.runner, self.device)
            with self.state.deployed(), whole(self.state.loss), precision:
                found = self.validator.run(self.state.model, self.step, write=self.ranks.is_main)
            if self._outputs is not None:
                found = {"weights": self.state.deployed_kind, **found}
                self._outputs.write({"step": self.step, "epoch": self.epoch, "validation": found})
        self.ranks.barrier()
        return True

    def train_step(self, micro_batches: list[dict[str, object]]) -> StepResult:
        """Trains one optimiser step on this process's batches.

        Raises:
            DataError: no action of the step lies inside its episode, or another process has no
                data.
        """
        runner, state = self.config.runner, self.state
        state.set_learning_rate(learning_rate_at(state.step, self.total_steps, runner))
        # A function of the step alone, so that a resumed run draws the same numbers.
        torch.manual_seed(seed_of(runner.seed, state.step, self.ranks.rank, 1))
        parts = self.gradients.compute(micro_batches)
        norm = clip_gradients(list(state.trained.values()), runner.max_grad_norm)
        wish = torch.tensor(float(self.signals.received is not None), device=self.device)
        shared = self.ranks.sum(torch.stack((parts.loss, wish)))
        loss, grad_norm = float(shared[0]) / self.ranks.world_size, float(norm)
        is_skipped = not (math.isfinite(loss) and math.isfinite(grad_norm))
        self.data.consumed += len(micro_batches)
        if is_skipped:
            state.skip()
            logger.warning(
                "step %d: loss %s and gradient norm %s are not finite; the step is skipped",
                *(state.step, loss, grad_norm),
            )
        else:
            state.update()
            self.window.add(loss, parts.sums, parts.counts)
        return StepResult(
            loss=loss, grad_norm=grad_norm, is_skipped=is_skipped, wants_stop=bool(shared[1] > 0)
        )

    def save(self, name: str, *, must: bool = False) -> Path | None:
        """Writes a checkpoint; see `CheckpointKeeper.save`."""
        return self.keeper.save(name, self.state, self.data, self.window, must=must)

    def _give_up(self, result: StepResult) -> None:
        path = self.save(f"checkpoint_step_{self.step}")
        raise FluxError(
            f"step {self.step}: {self.state.skipped_in_a_row} steps in a row without a finite "
            f"gradient (loss {result.loss}, gradient norm {result.grad_norm}); saved {path}. Lower "
            "runner.learning_rate or check the data"
        )
