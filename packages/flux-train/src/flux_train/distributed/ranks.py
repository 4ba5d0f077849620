"""The processes of a run: one, or as many as torchrun started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from flux_core.errors import ConfigError

PATIENCE = timedelta(hours=2)
"""How long a process waits for another. Torch's default of 10 minutes (NCCL) would end a run while
its main process writes a 50 GB checkpoint to a slow disk, or verifies one before resuming. torchrun
notices a dead process at once, whatever this is."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's place among the processes of the run.

    Attributes:
        rank: its number, counted over all nodes.
        world_size: the number of processes.
        per_node: the number of processes on each node.
        device: where it trains.
    """

    rank: int = 0
    world_size: int = 1
    per_node: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sums `values` over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def barrier(self) -> None:
        """Waits for the other processes."""
        if self.world_size > 1:
            dist.barrier()

    def from_main(self, value: Any) -> Any:
        """Returns the main process's value in every process."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gathered(self, value: object) -> list[object]:
        """Returns the values of all processes, by rank, in every process."""
        if self.world_size == 1:
            return [value]
        values: list[object] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values


@contextlib.contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Joins the run's processes for the duration of the context.

    Raises:
        ConfigError: torchrun started more processes on the node than it has GPUs.
    """
    if not dist.is_torchelastic_launched():
        yield Ranks(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        return
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    rank, world_size, local, per_node = (int(os.environ[name]) for name in names)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        if per_node > torch.cuda.device_count():
            raise ConfigError(
                f"torchrun: expected at most {torch.cuda.device_count()} processes on this node "
                f"(its GPUs), got {per_node}. Lower --nproc-per-node"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if world_size > 1:
        is_cuda = device.type == "cuda"
        dist.init_process_group(
            "nccl" if is_cuda else "gloo",
            timeout=PATIENCE,
            device_id=device if is_cuda else None,
        )
    try:
        yield Ranks(rank=rank, world_size=world_size, per_node=per_node, device=device)
        if world_size > 1:
            dist.barrier()  # no process leaves while another still communicates
    finally:
        if world_size > 1:
            dist.destroy_process_group()
