"""The small parts of every network here: linear projector, norms, rotary angles, attention.

Shape legend: B batch, T queries, S keys, N attention heads, K key/value heads, D head dimension,
W width of a stream, H action steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...config import check_at_least


class LinearProjector(nn.Module):
    """One linear layer with bias; its weights are called `projector`, as in FluxVLA."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        in_dim: int
        out_dim: int

        def __post_init__(self) -> None:
            check_at_least(1, self, "in_dim", "out_dim")

        def build(self) -> LinearProjector:
            return LinearProjector(self)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.projector = nn.Linear(config.in_dim, config.out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.projector(x)


class Float32Norm(nn.Module):
    """The base of norms whose own weights stay float32 in every precision, like their variance."""


class RMSNorm(Float32Norm):
    """`x * rsqrt(mean(x^2) + eps) * (1 + weight)`, variance and scale in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x_BTW: Tensor, cond: Tensor | None = None) -> tuple[Tensor, None]:
        """Returns the normalised stream and no gate, so that both norms have one interface."""
        normed = _rms_normalize(x_BTW.float(), self.eps) * (1.0 + self.weight.float())
        return normed.to(x_BTW.dtype), None


class AdaRMSNorm(Float32Norm):
    """RMS norm whose scale, shift and gate come from a condition (pi0.5's time embedding)."""

    def __init__(self, width: int, cond_dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.dense = nn.Linear(cond_dim, 3 * width)

    def forward(self, x_BTW: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns `n * (1 + scale) + shift` and the gate of the residual.

        Args:
            x_BTW: the stream.
            cond: (B, 1, cond_dim) for one time per sample, or (B, T, cond_dim).
        """
        assert cond is not None, "an adaRMS norm needs its condition"
        scale, shift, gate = self.dense(cond).float().chunk(3, dim=-1)
        normed = _rms_normalize(x_BTW.float(), self.eps) * (1.0 + scale) + shift
        return normed.to(x_BTW.dtype), gate.to(x_BTW.dtype)


def _rms_normalize(x: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)


class RotaryAngles(nn.Module):
    """Cos and sin of the rotary embedding; a module, so that an exporter can replace it by a table.

    Angles are computed in float64, once per chunk: at position 800, float32 is off by 5e-5 rad.
    """

    def __init__(self, head_dim: int, theta: float) -> None:
        super().__init__()
        self.head_dim, self.theta = head_dim, theta

    def forward(self, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Returns cos and sin, each (B, 1, T, D/2) float32."""
        exponent = torch.arange(
            0, self.head_dim, 2, device=positions_BT.device, dtype=torch.float64
        )
        inverse_frequency = self.theta ** (-exponent / self.head_dim)
        angles = positions_BT[:, None, :, None].double() * inverse_frequency
        return angles.cos().float(), angles.sin().float()


def rotate(x_BNTD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Applies the rotary embedding, first half of the head against the second."""
    first, second = x_BNTD.float().chunk(2, dim=-1)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return rotated.to(x_BNTD.dtype)


def additive_mask(mask: Tensor, group: int, dtype: torch.dtype) -> Tensor:
    """Returns a mask that `attend` adds to its scores.

    Its values are finite: softmax turns them into exact zeros as it does -inf, but needs no guard
    against rows without any key, which engines would otherwise have to compute in every layer.

    Args:
        mask: bool, (B, 1, S) or (B, T, S); True = may attend. Each query must attend to at least
            one key.
        group: the number of query heads for each key head.
        dtype: the queries'.

    Returns:
        (B, 1, 1 or group * T, S): 0 where a query may attend.
    """
    if mask.shape[1] > 1:
        mask = mask[:, None].expand(-1, group, -1, -1).flatten(1, 2)
    closed = torch.tensor(torch.finfo(dtype).min / 2, dtype=dtype, device=mask.device)
    return torch.where(mask, torch.zeros_like(closed), closed)[:, None]


def attend(q_BNTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask: Tensor) -> Tensor:
    """Grouped-query attention in one fused call.

    Args:
        q_BNTD: queries; `N` a multiple of `K`.
        k_BKSD: keys.
        v_BKSD: values.
        mask: `additive_mask` of the queries.

    Returns:
        (B, T, N * D) in the queries' dtype.
    """
    b, n, t, d = q_BNTD.shape
    group = n // k_BKSD.shape[1]
    # The query heads of one key head become additional queries, so K and V are not copied.
    queries = q_BNTD.reshape(b, -1, group * t, d)
    mixed = functional.scaled_dot_product_attention(queries, k_BKSD, v_BKSD, mask)
    return mixed.reshape(b, n, t, d).transpose(1, 2).reshape(b, t, n * d)


class TimeEmbedding(nn.Module):
    """Sine and cosine features of the flow time (openpi `create_sinusoidal_pos_embedding`).

    Period from 4e-3 to 4, computed in float64: at t = 1 the fastest angle is 1571 rad, where
    float32 is already wrong in the fourth digit.
    """

    min_period, max_period = 4e-3, 4.0

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, t: Tensor) -> Tensor:
        """(B, H) float32 -> (B, H, width) float32."""
        fraction = torch.linspace(0.0, 1.0, self.width // 2, dtype=torch.float64, device=t.device)
        period = self.min_period * (self.max_period / self.min_period) ** fraction
        angle = 2.0 * math.pi * t.double()[..., None] / period
        return torch.cat((angle.sin(), angle.cos()), dim=-1).float()
