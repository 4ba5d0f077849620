"""The table of what is trained and what is frozen."""

from __future__ import annotations

from rich.table import Table
from torch import nn


def parameter_table(model: nn.Module) -> Table:
    """Parameters and trainable parameters of every part of the network."""
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
