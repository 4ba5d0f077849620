"""GR00T's diffusion transformer: state, future and action tokens that read the observation.

Blocks alternate: an even one attends to the observation, an odd one to its own stream. Keys and
values of the even ones depend on the observation alone, and are all that a step needs of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...config import check_at_least
from ..flow.tables import StepTable
from .blocks import Attention, FeedForward, KeysAndValues, StreamAttention
from .dropout_share import check_dropout
from .times import BucketFeatures

NORM_EPS, OUTPUT_NORM_EPS = 1e-5, 1e-6
TIME_FEATURES = 256


class DiT(nn.Module):
    """The stack, the time embedding and the output projection."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes; the defaults are GR00T-N1.5-3B's. The width is heads * head_dim."""

        num_layers: int = 16
        num_attention_heads: int = 32
        attention_head_dim: int = 48
        output_dim: int = 1024
        cross_attention_dim: int = 2048
        dropout: float = 0.2

        def __post_init__(self) -> None:
            check_at_least(
                1,
                self,
                *("num_layers", "num_attention_heads", "attention_head_dim"),
                *("output_dim", "cross_attention_dim"),
            )
            check_dropout(self.dropout)

        @property
        def width(self) -> int:
            """Width of the stream."""
            return self.num_attention_heads * self.attention_head_dim

        @property
        def num_cross_layers(self) -> int:
            """The number of blocks that read the observation."""
            return (self.num_layers + 1) // 2

        def build(self) -> DiT:
            return DiT(self)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.timestep_encoder = TimeEncoder(config.width)
        blocks = (DiTBlock(config, is_cross=i % 2 == 0) for i in range(config.num_layers))
        self.transformer_blocks = nn.ModuleList(blocks)
        # Not in the blocks, which may be sharded or compiled: only the prefix runs these.
        self.context = nn.ModuleList(
            KeysAndValues(
                config.cross_attention_dim,
                num_heads=config.num_attention_heads,
                head_dim=config.attention_head_dim,
            )
            for _ in range(config.num_cross_layers)
        )
        self.proj_out_1 = nn.Linear(config.width, 2 * config.width)
        self.proj_out_2 = nn.Linear(config.width, config.output_dim)
        # After `tabulate`, the time encoder gives indices into tables.
        self.is_tabulated = False

    @property
    def blocks(self) -> list[DiTBlock]:
        """The blocks, typed."""
        return cast("list[DiTBlock]", list(self.transformer_blocks))

    def keys_and_values(self, context: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """(B, P, cross_attention_dim) -> keys and values, each (B, N, P, D), of each even block."""
        pairs = [project(context) for project in self.context]
        return [keys for keys, _ in pairs], [values for _, values in pairs]

    def condition(self, t: Tensor) -> Tensor:
        """Turns our times (B, T) into what the norms project, (B, T, W) or indices (B, T)."""
        encoded = self.timestep_encoder(t)
        return encoded if self.is_tabulated else functional.silu(encoded)

    def tabulate(self, times: Tensor, step_index: nn.Module) -> None:
        """Replaces what depends only on the time by tables, in place.

        Args:
            times: (1, N + 1) all times that will be asked for.
            step_index: turns times into rows of these tables.
        """
        cond = self.condition(times)[0]
        for block in self.blocks:
            block.norm1.add_module("linear", StepTable(block.norm1.linear(cond)))
        self.add_module("proj_out_1", StepTable(self.proj_out_1(cond)))
        self.add_module("timestep_encoder", step_index)
        self.is_tabulated = True

    def forward(
        self,
        x_BTW: Tensor,
        t: Tensor,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        mask: Tensor,
    ) -> Tensor:
        """One pass.

        Args:
            x_BTW: the tokens.
            t: (B, 1) float32, each sample's time (1 is noise).
            keys: `keys_and_values` of the observation.
            values: the same.
            mask: (B, 1, 1, P), added to the scores of the observation's keys.

        Returns:
            (B, T, output_dim).
        """
        cond = self.condition(t)
        for index, block in enumerate(self.blocks):
            cross = None if index % 2 else (keys[index // 2], values[index // 2])
            x_BTW = block(x_BTW, cond, cross, mask if cross else None)
        shift, scale = self.proj_out_1(cond).float().chunk(2, dim=-1)
        return self.proj_out_2(modulated(x_BTW, scale, shift, OUTPUT_NORM_EPS))


class DiTBlock(nn.Module):
    """Attention behind a norm that the time modulates, then a feed-forward; no gates."""

    def __init__(self, config: DiT.Config, *, is_cross: bool) -> None:
        super().__init__()
        width = config.width
        self.norm1 = AdaLayerNorm(width)
        attention = Attention if is_cross else StreamAttention
        self.attn1 = attention(
            width,
            num_heads=config.num_attention_heads,
            head_dim=config.attention_head_dim,
            dropout=config.dropout,
        )
        self.norm3 = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.ff = FeedForward(width, config.dropout)

    def forward(
        self,
        x_BTW: Tensor,
        cond: Tensor,
        cross: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
    ) -> Tensor:
        """(B, T, W) -> the same; `cross` has the observation's keys and values."""
        normed = self.norm1(x_BTW, cond)
        if isinstance(self.attn1, StreamAttention):
            x_BTW = x_BTW + self.attn1.of(normed)
        else:
            assert cross is not None
            x_BTW = x_BTW + self.attn1(normed, *cross, mask)
        return x_BTW + self.ff(self.norm3(x_BTW))


class AdaLayerNorm(nn.Module):
    """Layer norm whose scale and shift come from the time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)

    def forward(self, x_BTW: Tensor, cond: Tensor) -> Tensor:
        """`cond` is (B, 1, W), or whatever replaces `linear` takes."""
        scale, shift = self.linear(cond).float().chunk(2, dim=-1)
        return modulated(x_BTW, scale, shift, NORM_EPS)


def modulated(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """Layer norm of x, times (1 + scale), plus shift: in float32, returned in x's type."""
    with torch.autocast(x.device.type, enabled=False):
        normed = functional.layer_norm(x.float(), x.shape[-1:], eps=eps)
        return (normed * (1.0 + scale) + shift).to(x.dtype)


class TimeEncoder(nn.Module):
    """Features of the bucket (diffusers' `Timesteps`) through two linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = BucketFeatures(TIME_FEATURES, cosine_first=True, frequency_shift=1)
        self.timestep_embedder = nn.ModuleDict(
            {
                "linear_1": nn.Linear(TIME_FEATURES, width),
                "linear_2": nn.Linear(width, width),
            }
        )

    def forward(self, t: Tensor) -> Tensor:
        """Our times (B, T) float32 -> (B, T, W)."""
        first, second = (self.timestep_embedder[f"linear_{i}"] for i in (1, 2))
        features = self.features(t).to(next(first.parameters()).dtype)
        return second(functional.silu(first(features)))
