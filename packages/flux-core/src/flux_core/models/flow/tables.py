"""Tables for what depends only on times or positions, from which bundles read it.

They are as exact as PyTorch, whereas an engine may compute sines and angles in float32 or less.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class StepIndex(nn.Module):
    """Converts times to step indices: k / N to k."""

    def __init__(self, num_inference_steps: int) -> None:
        super().__init__()
        self.num_inference_steps = num_inference_steps

    def forward(self, t: Tensor) -> Tensor:
        """(B, H) float32 -> (B, H) int64."""
        return (t * self.num_inference_steps).round().long()


class StepTable(nn.Module):
    """Looks up values that depend only on the time, with one row per step."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        """`table` is (N + 1, width)."""
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, index: Tensor) -> Tensor:
        """(B, H) int64 -> (B, H, width)."""
        return functional.embedding(index, self.table)


class AngleTable(nn.Module):
    """Looks up the rotary embedding's cos and sin, with one row per position."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        """`table` is (positions, D), cos beside sin."""
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) int64 -> cos and sin, each (B, 1, T, D/2)."""
        # Padding before the first token has position -1; no token attends to it.
        rows = functional.embedding(positions.clamp(min=0), self.table)
        cos, sin = rows[:, None].chunk(2, dim=-1)
        return cos, sin
