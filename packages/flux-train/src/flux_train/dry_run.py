"""One step that is not kept: whether a run would work, and the memory that it would take."""

from __future__ import annotations

from typing import Any

from .byte_sizes import readable_bytes
from .metrics.log import peak_memory_bytes
from .out_of_memory import memory_errors
from .trainer import Trainer


def dry_run(trainer: Trainer) -> str:
    """Trains one step and writes nothing; returns what is to be told.

    Raises:
        FluxError: a sample cannot be made, or a GPU's memory is full.
    """
    with memory_errors(trainer):
        result = trainer.train_step(_next_step(trainer))
    return (
        f"dry run: loss {result.loss:.4f}, gradient norm {result.grad_norm:.4f}; at most "
        f"{readable_bytes(peak_memory_bytes())} of memory in use by this process"
    )


def _next_step(trainer: Trainer) -> list[dict[str, Any]]:
    """The micro-batches of the next step, which is in the next epoch if this one is at its end."""
    while True:
        for micro_batches, _ in trainer.steps():
            return micro_batches
