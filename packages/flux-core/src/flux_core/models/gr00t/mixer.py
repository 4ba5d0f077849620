"""GR00T's mixer: full attention over what the language model says about images and task.

The language model is causal and images come first, so no image token has seen the task before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from ...config import check_at_least
from .blocks import FeedForward, StreamAttention
from .dropout_share import check_dropout

NORM_EPS = 1e-5


class VLSelfAttention(nn.Module):
    """A stack of pre-norm blocks without positions."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes; the defaults are GR00T-N1.5-3B's. The width is heads * head_dim."""

        num_layers: int = 4
        num_attention_heads: int = 32
        attention_head_dim: int = 64
        dropout: float = 0.2

        def __post_init__(self) -> None:
            check_at_least(1, self, "num_layers", "num_attention_heads", "attention_head_dim")
            check_dropout(self.dropout)

        @property
        def width(self) -> int:
            """Width of the stream."""
            return self.num_attention_heads * self.attention_head_dim

        def build(self) -> VLSelfAttention:
            return VLSelfAttention(self)

    def __init__(self, config: Config) -> None:
        super().__init__()
        blocks = (MixerBlock(config) for _ in range(config.num_layers))
        self.transformer_blocks = nn.ModuleList(blocks)

    @property
    def blocks(self) -> list[MixerBlock]:
        """The blocks, typed."""
        return cast("list[MixerBlock]", list(self.transformer_blocks))

    def forward(self, x_BPW: Tensor, mask: Tensor) -> Tensor:
        """(B, P, W) -> the same; `mask` is added to the scores of every block."""
        for block in self.blocks:
            x_BPW = block(x_BPW, mask)
        return x_BPW


class MixerBlock(nn.Module):
    """Self attention and feed-forward, each with its own norm in front."""

    def __init__(self, config: VLSelfAttention.Config) -> None:
        super().__init__()
        width = config.width
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn1 = StreamAttention(
            width,
            num_heads=config.num_attention_heads,
            head_dim=config.attention_head_dim,
            dropout=config.dropout,
        )
        self.norm3 = nn.LayerNorm(width, eps=NORM_EPS)
        self.ff = FeedForward(width, config.dropout)

    def forward(self, x_BPW: Tensor, mask: Tensor) -> Tensor:
        """(B, P, W) -> the same."""
        x_BPW = x_BPW + self.attn1.of(self.norm1(x_BPW), mask)
        return x_BPW + self.ff(self.norm3(x_BPW))
