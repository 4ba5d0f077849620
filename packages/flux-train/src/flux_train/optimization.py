"""Optimiser, learning rate and the moving average of the weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from .config.runner import TrainRunner


def build_optimizer(model: nn.Module, config: TrainRunner) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only (FluxVLA's groups)."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def learning_rate_at(step: int, total_steps: int, config: TrainRunner) -> float:
    """The learning rate of optimiser step `step`, counted from 0.

    Warm-up starts at peak / (warm-up steps + 1), and the cosine ends at `min_lr_ratio` in step
    `decay_steps`, counted from the start of the run, as in openpi (`optimizer.py`).
    """
    if config.lr_scheduler_type == "constant":
        return config.learning_rate
    if config.lr_scheduler_type == "step-based":
        passed = [rate for share, rate in config.learning_rate_steps if step >= share * total_steps]
        return passed[-1]
    warmup, end = config.num_warmup_steps(total_steps), config.decay_steps or total_steps
    if step < warmup:
        start = 1.0 / (warmup + 1)
        return config.learning_rate * (start + (1.0 - start) * step / warmup)
    progress = min((step - warmup) / max(end - warmup, 1), 1.0)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.learning_rate * (config.min_lr_ratio + (1.0 - config.min_lr_ratio) * cosine)


class WeightAverage:
    """Exponential moving average of a model's trained weights.

    Early in training the decay is min(decay, (1 + step) / (10 + step)), so that the random initial
    weights are forgotten quickly.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in trained(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Moves the average towards the weights after optimiser step `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        parameters = [p.detach() for p in trained(model).values()]
        # The public API for this (`torch.optim.swa_utils`) uses one decay for all steps.
        torch._foreach_lerp_(  # type: ignore[attr-defined]
            list(self.weights.values()), parameters, 1.0 - decay
        )


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are not frozen, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
