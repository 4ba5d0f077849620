"""A GPU whose memory is full."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import torch

from flux_core.errors import FluxError

if TYPE_CHECKING:
    from .config.tree import TrainConfig


class RunningStep(Protocol):
    """What the message needs to know about a training run."""

    device: torch.device
    config: TrainConfig

    @property
    def step(self) -> int:
        """Optimiser steps so far."""
        ...


@contextlib.contextmanager
def memory_errors(run: RunningStep) -> Iterator[None]:
    """Says in one line what to change when a GPU's memory is full."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        batch = run.config.train_dataloader.per_device_batch_size
        total = torch.cuda.get_device_properties(run.device).total_memory
        raise FluxError(
            f"step {run.step + 1}: the GPU's {total / 2**30:.0f} GiB are full. Lower "
            f"train_dataloader.per_device_batch_size (now {batch}) and raise "
            "runner.gradient_accumulation_steps, set runner.enable_gradient_checkpointing=True, "
            "or shard with runner.type=FSDPTrainRunner"
        ) from error
