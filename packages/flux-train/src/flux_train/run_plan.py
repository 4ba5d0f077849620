"""Describes a run before it starts: its data, its parameters and the memory they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from torch import Tensor, nn

from flux_data.samples import SENSIBLE, DimensionRange, DistributedRepeatingDataset, percent

from .config.runner import TrainRunner
from .distributed.parallel import is_sharded
from .distributed.ranks import Ranks
from .optimization import trained

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def data_table(dataset: DistributedRepeatingDataset) -> Table:
    """One row per dataset directory; `frames from` says whether a frame cache is used."""
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
                str(len(part.frames.cameras)),
                part.frames.kinds,
            )
    return table


def range_table(ranges: Sequence[DimensionRange]) -> Table:
    """One row per dimension of the states and actions, as the network sees them."""
    share = f"beyond {SENSIBLE:g}"
    table = Table(
        "robot", "of", "dimension", "smallest", "largest", share, title="Normalised ranges"
    )
    for each in ranges:
        table.add_row(
            each.group,
            each.quantity,
            each.name,
            f"{each.low:.3g}",
            f"{each.high:.3g}",
            "" if each.is_sensible else percent(each.share_beyond),
            style=None if each.is_sensible else "bold",
        )
    return table


def state_bytes(model: nn.Module, runner: TrainRunner, ranks: Ranks) -> int:
    """Bytes per process for weights, gradients, Adam's two moments and the average, in float32.

    Activations are not included; they grow with per_device_batch_size.
    """
    everything = sum(p.numel() for p in model.parameters())
    learned = sum(p.numel() for p in trained(model).values())
    numbers = everything + learned * (4 if runner.ema_decay else 3)
    if is_sharded(runner, ranks):
        is_hybrid = getattr(runner, "sharding_strategy", "") != "full-shard"
        numbers //= ranks.per_node if is_hybrid else ranks.world_size
    return numbers * 4


def parameter_table(model: nn.Module) -> Table:
    """Parameters and trainable parameters of each part of the network."""
    table = Table("part", "parameters", "trainable", title="Parameters")
    totals = [0, 0]
    for name, part in model.named_children():
        count = sum(p.numel() for p in part.parameters())
        trained = sum(p.numel() for p in part.parameters() if p.requires_grad)
        if count:
            table.add_row(name, f"{count:,}", f"{trained:,}")
        totals = [totals[0] + count, totals[1] + trained]
    table.add_section()
    table.add_row("all", f"{totals[0]:,}", f"{totals[1]:,}")
    return table


def readable_bytes(count: float) -> str:
    """A number of bytes in a readable unit: '512 B', '1.3 MiB', '40 GiB'."""
    unit = 0
    while count >= 1000 and unit + 1 < len(UNITS):
        count, unit = count / 1024, unit + 1
    return f"{count:.{1 if 0 < count < 10 and unit else 0}f} {UNITS[unit]}"


def tensor_bytes(state: Mapping[str, Any]) -> int:
    """Bytes of all tensors in nested dicts and lists; like `torch.save`, counts storage once."""
    found: dict[int, int] = {}
    waiting: list[Any] = [state]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
    return sum(found.values())
