"""Initial weights for training from scratch, drawn as in openpi's JAX model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...config import check_at_least
from .basic import AdaRMSNorm


@dataclass(frozen=True, kw_only=True)
class NumberTokens:
    """Prompt tokens that represent ordered numbers, such as the bins of pi0.5's state.

    Attributes:
        first: id of the first number.
        tables: number of consecutive runs of numbers, one per state dimension.
        size: numbers in a run, in ascending order.
    """

    first: int
    tables: int
    size: int

    def __post_init__(self) -> None:
        check_at_least(0, self, "first")
        check_at_least(1, self, "tables", "size")


def init_from_scratch(model: nn.Module) -> None:
    """Draws every weight in place: LeCun normal, zero biases, adaRMS conditions at zero.

    A zero condition makes the gates zero, so that each block of a fresh pi0.5 expert is the
    identity (openpi `gemma.py`, `kernel_init=zeros`).
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            fan_in = module.weight[0].numel()
            nn.init.trunc_normal_(module.weight, std=fan_in**-0.5, a=-2.0, b=2.0)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, AdaRMSNorm):
                module.dense.weight.zero_()
                assert module.dense.bias is not None
                module.dense.bias.zero_()


@torch.no_grad()
def init_number_embeddings(embedding: Tensor, numbers: NumberTokens) -> None:
    """Draws smooth curves over each run of numbers, in place.

    If they were drawn independently, neighbouring bins would be unrelated, and each would have to
    occur in training; on a curve, the network can interpolate from the start.

    Args:
        embedding: (vocab_size, W) the token embedding.
        numbers: the rows to draw.
    """
    x = torch.linspace(-1.0, 1.0, numbers.size, device=embedding.device)
    curves = torch.stack(
        [
            x,
            0.5 * torch.ones_like(x),
            0.5 * torch.sin(math.pi * x),
            0.5 * torch.cos(math.pi * x),
            0.25 * torch.sin(2 * math.pi * x),
            0.25 * torch.cos(2 * math.pi * x),
        ],
        dim=1,
    )
    for table in range(numbers.tables):
        directions = torch.randn(curves.shape[1], embedding.shape[1], device=embedding.device)
        first = numbers.first + table * numbers.size
        rows = curves @ directions * embedding.shape[1] ** -0.5
        embedding[first : first + numbers.size] = rows
