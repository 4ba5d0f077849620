"""Layers with separate weights for each embodiment: from state and actions, and back to actions.

A batch usually has one embodiment, so there is one product per embodiment in it, and no weight is
copied per sample. Everything here is float32, in every precision.

Shape legend: B batch, T tokens, E embodiments, I and O input and output dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import ConfigError
from .times import BucketFeatures


@dataclass(frozen=True)
class Embodiments:
    """Which rows of a batch belong to which embodiment.

    Attributes:
        rows: embodiment -> (n,) indices of its rows; None if all rows are its own.
    """

    rows: tuple[tuple[int, Tensor | None], ...]

    @classmethod
    def of(cls, ids: Tensor | None, count: int) -> Embodiments:
        """Sorts the rows of a batch.

        Args:
            ids: (B,) int64 embodiment of each row; None if the network has only one.
            count: the number of embodiments that the network has.

        Raises:
            ConfigError: an id is missing or unknown.
        """
        if count == 1:
            return cls(((0, None),))
        if ids is None:
            raise ConfigError(
                f"embodiment_ids: expected one of {count} embodiments for each sample, got none. "
                "Set embodiment_id in ProcessParquetInputs"
            )
        found: dict[int, list[int]] = {}
        for row, embodiment in enumerate(ids.tolist()):
            found.setdefault(int(embodiment), []).append(row)
        unknown = [embodiment for embodiment in found if not 0 <= embodiment < count]
        if unknown:
            raise ConfigError(f"embodiment_ids: expected ids below {count}, got {unknown[0]}")
        if len(found) == 1:
            return cls(((next(iter(found)), None),))
        return cls(tuple((e, torch.tensor(rows, device=ids.device)) for e, rows in found.items()))

    def apply(self, layer: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Calls `layer(embodiment, *inputs)` with the rows of each embodiment.

        Args:
            layer: returns one output row for each input row.
            inputs: (B, ...) each.

        Returns:
            The output rows in the batch's order.
        """
        parts: list[Tensor] = []
        for embodiment, rows in self.rows:
            if rows is None:
                return layer(embodiment, *inputs)
            parts.append(layer(embodiment, *(each[rows] for each in inputs)))
        order = torch.cat([rows for _, rows in self.rows if rows is not None]).argsort()
        return torch.cat(parts)[order]


class EmbodimentLinear(nn.Module):
    """A linear layer for each embodiment: `W` is (E, I, O), not transposed, and `b` (E, O)."""

    def __init__(self, count: int, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(count, in_dim, out_dim))
        self.b = nn.Parameter(torch.zeros(count, out_dim))
        nn.init.normal_(self.W, std=in_dim**-0.5)

    def forward(self, embodiment: int, x_BTI: Tensor) -> Tensor:
        """(B, T, I) of one embodiment -> (B, T, O)."""
        return torch.matmul(x_BTI, self.W[embodiment]) + self.b[embodiment]

    def keep(self, embodiment: int) -> None:
        """Drops the weights of all other embodiments, in place."""
        for name, value in self.named_parameters():
            kept = value.detach()[embodiment : embodiment + 1].clone()
            setattr(self, name, nn.Parameter(kept, requires_grad=value.requires_grad))


class EmbodimentMLP(nn.Module):
    """Two layers with a ReLU between them: the state's encoder, and the actions' decoder."""

    def __init__(self, count: int, in_dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.layer1 = EmbodimentLinear(count, in_dim, hidden_dim)
        self.layer2 = EmbodimentLinear(count, hidden_dim, out_dim)

    def forward(self, x_BTI: Tensor, embodiments: Embodiments) -> Tensor:
        """(B, T, I) of any type -> (B, T, O) float32."""
        with torch.autocast(x_BTI.device.type, enabled=False):
            return embodiments.apply(self._of, x_BTI.float())

    def _of(self, embodiment: int, x: Tensor) -> Tensor:
        return self.layer2(embodiment, functional.relu(self.layer1(embodiment, x)))


class ActionEncoder(nn.Module):
    """Noisy actions and the time of each step to tokens."""

    def __init__(self, count: int, action_dim: int, width: int) -> None:
        super().__init__()
        self.W1 = EmbodimentLinear(count, action_dim, width)
        self.W2 = EmbodimentLinear(count, 2 * width, width)
        self.W3 = EmbodimentLinear(count, width, width)
        self.time_embedding: nn.Module = BucketFeatures(
            width, cosine_first=False, frequency_shift=0
        )

    def forward(self, x_t: Tensor, t: Tensor, embodiments: Embodiments) -> Tensor:
        """Encodes noisy actions.

        Args:
            x_t: (B, H, A) float32.
            t: (B, H) or (B, 1) float32, the time of each step (1 is noise).
            embodiments: the rows of each embodiment.

        Returns:
            (B, H, W) float32.
        """
        with torch.autocast(x_t.device.type, enabled=False):
            time = self.time_embedding(t).expand(x_t.shape[0], x_t.shape[1], -1)
            return embodiments.apply(self._of, x_t.float(), time)

    def _of(self, embodiment: int, x_t: Tensor, time: Tensor) -> Tensor:
        both = torch.cat((self.W1(embodiment, x_t), time), dim=-1)
        return self.W3(embodiment, functional.silu(self.W2(embodiment, both)))
