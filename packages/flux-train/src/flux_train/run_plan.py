"""What a run is about to do: its data, and the memory that is certain."""

from __future__ import annotations

from rich.table import Table
from torch import nn

from flux_data.samples.mixture import DistributedRepeatingDataset

from .config.runner import TrainRunner
from .distributed.parallel import is_sharded
from .distributed.ranks import Ranks
from .optimization import trained


def data_table(dataset: DistributedRepeatingDataset) -> Table:
    """A row for every directory; `frames from` says whether a frame cache is used."""
    columns = ("robot", "dataset", "episodes", "samples", "hours", "cameras", "frames from")
    table = Table(*columns, title="Data")
    for name, member in zip(dataset.group_of_datasets, dataset.datasets, strict=True):
        for part in member.parts:
            source = part.source
            table.add_row(
                name,
                source.root.name,
                f"{source.num_episodes:,}",
                f"{len(part):,}",
                f"{source.num_frames / source.fps / 3600:.2f}",
                str(len(part.video_keys)),
                part.frames_from,
            )
    return table


def state_bytes(model: nn.Module, runner: TrainRunner, ranks: Ranks) -> int:
    """Weights, gradients, Adam's two moments and the average in one process, float32.

    Activations come on top; they grow with per_device_batch_size.
    """
    everything = sum(p.numel() for p in model.parameters())
    learned = sum(p.numel() for p in trained(model).values())
    numbers = everything + learned * (4 if runner.ema_decay else 3)
    if is_sharded(runner, ranks):
        is_hybrid = getattr(runner, "sharding_strategy", "") != "full-shard"
        numbers //= ranks.per_node if is_hybrid else ranks.world_size
    return numbers * 4
