"""Weights before training from scratch, as openpi's JAX model draws them."""

from __future__ import annotations

import torch
from torch import nn

from .layers import AdaRMSNorm


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
