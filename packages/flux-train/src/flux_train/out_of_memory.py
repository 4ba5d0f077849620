"""Explains a GPU that is out of memory."""

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
    """Turns an out-of-memory error into one line that says what to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        batch = run.config.train_dataloader.per_device_batch_size
        total = torch.cuda.get_device_properties(run.device).total_memory
        raise FluxError(
            f"step {run.step + 1}: expected a step that fits the GPU's {total / 2**30:.0f} GiB, "
            "got one that needs more. Lower train_dataloader.per_device_batch_size "
            f"(now {batch}) and raise "
            "runner.gradient_accumulation_steps, set runner.enable_gradient_checkpointing=True, "
            "or shard with runner.type=FSDPTrainRunner"
        ) from error
