"""The loss as a module that is wrapped, sharded or compiled, and called per micro-batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from flux_core.models import FlowDraws, FlowPolicy, draw_flow, flow_errors, flow_mask


class LossParts(NamedTuple):
    """The result of a micro-batch, or of several added up.

    Attributes:
        loss: its share of the step's loss; carries the gradient.
        sums: (groups, A) sums of the unmasked squared errors; no gradient.
        counts: (groups, A) numbers of unmasked errors.
    """

    loss: Tensor
    sums: Tensor
    counts: Tensor


class PolicyLoss(nn.Module):
    """A policy and its flow-matching loss, counted per robot."""

    def __init__(self, model: FlowPolicy, num_groups: int) -> None:
        super().__init__()
        self.model, self.num_groups = model, num_groups

    def forward(self, batch: dict[str, Tensor], draws: FlowDraws, denominator: Tensor) -> LossParts:
        """Computes the loss of a micro-batch.

        Args:
            batch: as `flow_matching_loss` takes it, and `group` (B,) int64.
            draws: noise and times of its rows.
            denominator: the sum of its errors is divided by this.
        """
        error = flow_errors(self.model, batch, draws)
        mask = flow_mask(self.model, batch, draws)
        counted = error * mask
        with torch.no_grad():
            group = batch["group"].repeat_interleave(len(error) // len(batch["group"]))
            shape = (self.num_groups, error.shape[-1])
            sums = torch.zeros(shape, device=error.device).index_add_(0, group, counted.sum(dim=1))
            counts = torch.zeros(shape, device=error.device).index_add_(0, group, mask.sum(dim=1))
        return LossParts(counted.sum() / denominator, sums, counts)


def step_draws(
    config: FlowPolicy.Config,
    *,
    seed: int,
    step: int,
    samples: int,
    draws_per_sample: int,
) -> FlowDraws:
    """Noise and times for all samples of an optimiser step; a function of (seed, step) alone.

    Drawn on the CPU for the whole step, so that a sample gets the same noise in any process, in any
    micro-batch and after a resume. The rows of a sample are consecutive.
    """
    generator = torch.Generator().manual_seed(seed_of(seed, step))
    return draw_flow(config, samples * draws_per_sample, config.action_dim, generator=generator)


def rows_of(samples: Tensor, draws_per_sample: int) -> Tensor:
    """The rows that belong to `samples` (N,) in the draws of a step."""
    return (samples[:, None] * draws_per_sample + torch.arange(draws_per_sample)).flatten()


def seed_of(*parts: int) -> int:
    """Combines several integers into one seed; collisions are unlikely enough to ignore."""
    value = 0
    for part in parts:
        # Constants of a 64-bit linear congruential generator (Knuth's MMIX).
        value = ((value ^ part) * 6364136223846793005 + 1442695040888963407) % 2**63
    return value
