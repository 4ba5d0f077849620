"""GR00T's time: an integer bucket of 1000, and its sine features.

GR00T's own time is 0 at noise and 1 at the actions; ours is 1 at noise, everywhere outside this
file. A bucket is `trunc(1000 * its time)`, from -1 to 1000.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

NUM_BUCKETS = 1000
S_MAX = 0.999
"""The network's time is (S_MAX - s) / S_MAX with s from Beta(1.5, 1) (NVIDIA `noise_s`)."""

_ROUNDING = 1e-3
"""Added before truncation: `(1 - t) * 1000` in float32 is just below the integer for some of the
steps t = 1 - k / N (N = 5, 10, 20, ...). It is more than that error, and less than the distance of
any other step with N <= 200 to the next integer."""


def time_bucket(t: Tensor) -> Tensor:
    """Turns our times into buckets, int64; exactly `k * 1000 // N` for t = 1 - k / N, N <= 200."""
    return ((1.0 - t) * NUM_BUCKETS + _ROUNDING).trunc().long()


def sample_time(batch: int, *, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Draws (batch,) float32 times: s / 0.999 with s from Beta(1.5, 1), so up to 1.001.

    Beta(a, 1) has the distribution function s^a, so the inverse is exact: U^(1/a).
    """
    uniform = torch.rand(batch, generator=generator, device=device)
    return uniform ** (1.0 / 1.5) / S_MAX


_TIE = 2e-9
"""Lowers a frequency that is almost midway between two float32 numbers to the smaller one. `exp` in
float32 rounds the fifth of the DiT's up or down, depending on the processor; at bucket 1000, that
is 6e-5 rad. The reference outputs have it rounded down."""


class BucketFeatures(nn.Module):
    """Cosines and sines of a time's bucket; a module, which an exporter can replace by a table.

    Angles are float32 products of float32 frequencies, as in NVIDIA's code and in diffusers: they
    reach 1000 rad, where that is wrong in the fifth digit, but it is what the weights have learned
    to read. The frequencies are rounded from float64, so that they are the same everywhere.
    """

    def __init__(self, width: int, *, cosine_first: bool, frequency_shift: int) -> None:
        """The i-th of `width / 2` frequencies is 10000^(-i / (width / 2 - frequency_shift))."""
        super().__init__()
        self.width, self.cosine_first, self.frequency_shift = width, cosine_first, frequency_shift

    def forward(self, t: Tensor) -> Tensor:
        """Our times (B, T) float32 -> (B, T, width) float32."""
        half = self.width // 2
        index = torch.arange(half, dtype=torch.float32, device=t.device)
        exponent = -math.log(10000.0) * index / (half - self.frequency_shift)
        frequency = (exponent.double().exp() * (1.0 - _TIE)).float()
        angle = time_bucket(t)[..., None].float() * frequency
        parts = (angle.cos(), angle.sin()) if self.cosine_first else (angle.sin(), angle.cos())
        return torch.cat(parts, dim=-1)
