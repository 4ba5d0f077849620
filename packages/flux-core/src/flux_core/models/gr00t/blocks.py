"""What the mixer and the DiT share: attention, feed-forward and their dropout.

Modules are named as in diffusers, so that checkpoints and LoRA targets (`to_q`) have their usual
names. Shape legend: B batch, T queries, S keys, N heads, D head dimension, W width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Multi-head attention with biases to keys and values that are given."""

    def __init__(self, width: int, *, num_heads: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.head_dim = head_dim
        inner = num_heads * head_dim
        self.to_q = nn.Linear(width, inner)
        self.to_out = nn.ModuleList([nn.Linear(inner, width), nn.Dropout(dropout)])
        # Dropped out twice, as NVIDIA does: by the attention and by the block.
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x_BTW: Tensor, keys_BNSD: Tensor, values_BNSD: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """(B, T, W) -> the same; `mask` is added to the scores (see `basic.additive_mask`)."""
        queries = split_heads(self.to_q(x_BTW), self.head_dim)
        mixed = functional.scaled_dot_product_attention(queries, keys_BNSD, values_BNSD, mask)
        out = self.to_out[0](mixed.transpose(1, 2).flatten(2))
        return self.dropout(self.to_out[1](out))


class StreamAttention(Attention):
    """Attention of a stream to itself."""

    def __init__(self, width: int, *, num_heads: int, head_dim: int, dropout: float) -> None:
        super().__init__(width, num_heads=num_heads, head_dim=head_dim, dropout=dropout)
        self.to_k = nn.Linear(width, num_heads * head_dim)
        self.to_v = nn.Linear(width, num_heads * head_dim)

    def of(self, x_BTW: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, W) -> the same."""
        keys = split_heads(self.to_k(x_BTW), self.head_dim)
        values = split_heads(self.to_v(x_BTW), self.head_dim)
        return self(x_BTW, keys, values, mask)


class KeysAndValues(nn.Module):
    """Projects the observation to the keys and values of one layer."""

    def __init__(self, context_width: int, *, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.to_k = nn.Linear(context_width, num_heads * head_dim)
        self.to_v = nn.Linear(context_width, num_heads * head_dim)

    def forward(self, context_BPW: Tensor) -> tuple[Tensor, Tensor]:
        """(B, P, context_width) -> keys and values, each (B, N, P, D)."""
        keys, values = self.to_k(context_BPW), self.to_v(context_BPW)
        return split_heads(keys, self.head_dim), split_heads(values, self.head_dim)


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """(B, T, N * D) -> (B, N, T, D)."""
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)


class FeedForward(nn.Module):
    """Linear, tanh-GELU, linear, with dropout after the last two."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [
                nn.ModuleDict({"proj": nn.Linear(width, 4 * width)}),
                nn.Dropout(dropout),
                nn.Linear(4 * width, width),
                nn.Dropout(dropout),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, W) -> the same."""
        first, drop, second, drop_again = self.net
        assert isinstance(first, nn.ModuleDict)
        hidden = functional.gelu(first["proj"](x), approximate="tanh")
        return drop_again(second(drop(hidden)))
