"""The flow: times to train at, the training loss, and the Euler loop that answers actions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError
from .pi0 import PI0FlowMatching, PrefixCache


class FlowLoss(NamedTuple):
    """A training step's answer.

    Attributes:
        loss: the mean over supervised steps and dimensions, with gradient.
        per_dim: (A,) mean squared error of each action dimension, without gradient.
    """

    loss: Tensor
    per_dim: Tensor


def sample_time(batch: int, *, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Draws (batch,) float32 times from Beta(1.5, 1) * 0.999 + 0.001 (openpi `sample_beta`).

    Beta(a, 1) has the distribution function t^a, so the inverse is exact: U^(1/a).
    """
    uniform = torch.rand(batch, generator=generator, device=device)
    return uniform ** (1.0 / 1.5) * 0.999 + 0.001


def flow_matching_loss(
    model: PI0FlowMatching,
    batch: dict[str, Tensor],
    *,
    num_noise_samples: int = 1,
    generator: torch.Generator | None = None,
) -> FlowLoss:
    """Computes the pi0 loss of a batch.

    Args:
        model: the policy.
        batch: `images` (B, C, 3, h, w) float32, `img_masks` (B, C) bool, `lang_tokens` (B, L)
            int64, `lang_masks` (B, L) bool, `states` (B, S) float32, `actions` (B, H, A) float32
            normalised, `action_masks` (B, H) bool; optionally `action_dim_masks` (B, A) bool.
        num_noise_samples: noise and time draws per encoded observation; more draws make the
            cheap expert learn more from each expensive prefix.
        generator: source of noise and time.
    """
    cache = model.prefix(
        batch["images"], batch["img_masks"], batch["lang_tokens"], batch["lang_masks"]
    ).repeat(num_noise_samples)
    actions = batch["actions"].repeat_interleave(num_noise_samples, dim=0)
    state = batch["states"].repeat_interleave(num_noise_samples, dim=0)
    noise = torch.randn(actions.shape, generator=generator, device=actions.device)
    t = sample_time(len(actions), generator=generator, device=actions.device)[:, None]
    x_t = t[..., None] * noise + (1.0 - t[..., None]) * actions
    error = (model.denoise(state, x_t, t, cache) - (noise - actions)).square()
    mask = supervised(model, batch).repeat_interleave(num_noise_samples, dim=0)
    return masked_mean(error, mask)


def supervised(model: PI0FlowMatching, batch: dict[str, Tensor]) -> Tensor:
    """(B, H, A) float32: 1 where an action is real and counts for the loss."""
    actions = batch["actions"]
    mask = batch["action_masks"][..., None].expand_as(actions).float()
    if "action_dim_masks" in batch:
        mask = mask * batch["action_dim_masks"][:, None, :]
    if model.config.loss_action_dim is not None:
        dims = torch.arange(actions.shape[-1], device=actions.device)
        mask = mask * (dims < model.config.loss_action_dim)
    return mask


def masked_mean(error: Tensor, mask: Tensor) -> FlowLoss:
    """Means of `error` where `mask` is 1, over everything and per dimension."""
    total = mask.sum()
    if not torch.any(mask > 0):
        raise DataError("action_masks: expected at least one supervised action step, got none")
    with torch.no_grad():
        per_dim = (error * mask).sum(dim=(0, 1)) / mask.sum(dim=(0, 1)).clamp(min=1.0)
    return FlowLoss((error * mask).sum() / total, per_dim)


@torch.no_grad()
def sample_actions(
    model: PI0FlowMatching,
    state: Tensor | None,
    cache: PrefixCache,
    noise: Tensor,
    num_steps: int | None = None,
) -> Tensor:
    """Integrates the velocity from noise (t = 1) to actions (t = 0) in `num_steps` Euler steps.

    Args:
        model: the policy.
        state: (B, S) normalised state, None for pi0.5.
        cache: the encoded observation.
        noise: (B, H, A) float32; left as it is.
        num_steps: default: the config's.

    Returns:
        (B, H, A) float32 normalised actions.
    """
    steps = num_steps or model.config.num_steps
    x_t = noise
    for k in range(steps):
        # From an integer, so that no rounding error gathers in t.
        t = torch.full(noise.shape[:2], (steps - k) / steps, device=noise.device)
        x_t = x_t - model.denoise(state, x_t, t, cache) / steps
    return x_t
