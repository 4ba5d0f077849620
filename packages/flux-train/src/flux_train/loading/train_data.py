"""The training set, cut into optimiser steps."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Generator, Iterator, Mapping
from itertools import islice

import torch
from torch import Tensor

from flux_core.errors import ConfigError
from flux_data.samples import EpochBatches, training_ranges

from ..config.data_checks import check_data, check_vocabulary, range_warnings
from ..config.tree import TrainConfig
from ..distributed.ranks import Ranks
from .batches import batches_left

logger = logging.getLogger("flux.train")


class TrainData:
    """The samples of a run, and where in them the next step begins.

    Attributes:
        dataset: the samples of all processes.
        batches: this process's batches of the current epoch.
        accumulation: batches per optimiser step in this process.
        consumed: batches of the current epoch that were trained on.
        ranges: how far normalised states and actions reach; empty except in the main process.
    """

    def __init__(self, config: TrainConfig, ranks: Ranks) -> None:
        """Opens the datasets and computes their statistics.

        Raises:
            ConfigError: the network does not fit the data, or an epoch holds no optimiser step.
            DataError: the data cannot be read, or a prompt does not fit.
        """
        check_vocabulary(config)
        self._config, self._ranks = config, ranks
        self.dataset = config.train_dataloader.dataset.build()
        check_data(config, self.dataset)
        self.ranges = training_ranges(self.dataset) if ranks.is_main else []
        for line in range_warnings(self.ranges, config.train_dataloader.dataset.min_range):
            logger.warning("%s", line)
        self.batches = EpochBatches(
            self.dataset,
            config.train_dataloader.per_device_batch_size,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )
        self.accumulation = config.runner.gradient_accumulation_steps
        if self.steps_per_epoch == 0:
            raise ConfigError(
                f"runner.gradient_accumulation_steps: expected at most "
                f"{self.batches.batches_per_epoch} (the batches per epoch), got "
                f"{self.accumulation}. Lower it, or add episodes"
            )
        self.consumed = self.batches.first_batch

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in a whole epoch."""
        return self.batches.batches_per_epoch // self.accumulation

    @property
    def samples_per_step(self) -> int:
        """Samples in an optimiser step, over all processes."""
        return self.batches.global_batch_size * self.accumulation

    @property
    def total_steps(self) -> int:
        """Optimiser steps in the whole run."""
        runner = self._config.runner
        if runner.max_steps is not None:
            return runner.max_steps
        assert runner.max_epochs is not None
        return runner.max_epochs * self.steps_per_epoch

    def steps(self) -> Iterator[tuple[list[dict[str, object]], float]]:
        """Yields each remaining step of this epoch: its micro-batches and the seconds waited.

        Raises:
            DataError: a sample cannot be made.
        """
        steps = len(self.batches) // self.accumulation
        with contextlib.closing(self._epoch_batches()) as iterator:
            for _ in range(steps):
                started = time.perf_counter()
                micro_batches = list(islice(iterator, self.accumulation))
                yield micro_batches, time.perf_counter() - started
        self.batches.epoch, self.batches.first_batch = self.batches.epoch + 1, 0
        self.consumed = 0

    def _epoch_batches(self) -> Generator[dict[str, object]]:
        settings, collate = self._config.train_dataloader, self._config.runner.collator
        yield from batches_left(settings, self.dataset, self.batches, collate)

    def samples_of(self, micro_batch: int) -> Tensor:
        """Which samples of a step, counted over all processes, a micro-batch of this one holds."""
        own = torch.arange(self.batches.batch_size) * self._ranks.world_size + self._ranks.rank
        return own + micro_batch * self.batches.global_batch_size

    def state_dict(self) -> dict[str, int]:
        """Where the next step begins; the same in every process."""
        per_epoch = self.batches.batches_per_epoch
        is_epoch_over = self.consumed + self.accumulation > per_epoch
        return self.batches.state_dict(per_epoch if is_epoch_over else self.consumed)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Moves to where `state_dict` was."""
        self.batches.load_state_dict(state)
        self.consumed = self.batches.first_batch
