"""The flow: sampled training times, the training loss, and the Euler loop that returns actions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ...errors import ConfigError, DataError
from ...rtc import RTCConfig, RTCTrainingConfig, guidance_weight, prefix_weights
from .policy import FlowPolicy, PrefixCache
from .smoothing import smoothed_velocity, smoother


class FlowLoss(NamedTuple):
    """The result of a training step.

    Attributes:
        loss: the mean over supervised steps and dimensions, with gradient.
        per_dim: (A,) mean squared error of each action dimension, without gradient.
    """

    loss: Tensor
    per_dim: Tensor


def sample_delays(
    config: RTCTrainingConfig,
    batch: int,
    *,
    stride: int,
    generator: torch.Generator | None,
    device: torch.device,
) -> Tensor:
    """Draws (batch,) int64 prefix lengths for training-time RTC, multiples of `stride`."""
    probabilities = torch.tensor(config.probabilities(stride), device=device)
    index = torch.multinomial(probabilities, batch, replacement=True, generator=generator)
    return torch.tensor(config.delays(stride), device=device)[index]


class FlowDraws(NamedTuple):
    """The random values in the loss of a batch, by row: (B * draws per observation, ...).

    Attributes:
        noise: (rows, H, A) float32.
        t: (rows,) float32 times.
        delays: (rows,) int64 steps of training-time RTC; None without it.
    """

    noise: Tensor
    t: Tensor
    delays: Tensor | None

    def rows(self, index: Tensor) -> FlowDraws:
        """Returns the rows at `index`."""
        delays = None if self.delays is None else self.delays[index]
        return FlowDraws(self.noise[index], self.t[index], delays)

    def to(self, device: torch.device) -> FlowDraws:
        """Returns a copy on another device."""
        delays = None if self.delays is None else self.delays.to(device)
        return FlowDraws(self.noise.to(device), self.t.to(device), delays)


def draw_flow(
    config: FlowPolicy.Config,
    rows: int,
    action_dim: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
) -> FlowDraws:
    """Draws noise, times and, with training-time RTC, prefix lengths."""
    device = device or torch.device("cpu")
    noise = torch.randn(
        (rows, config.n_action_steps, action_dim), generator=generator, device=device
    )
    t = config.sample_time(rows, generator=generator, device=device)
    rtc = config.rtc_training_config
    if rtc is None or not rtc.enabled:
        return FlowDraws(noise, t, None)
    stride = config.prefix_stride
    delays = sample_delays(rtc, rows, stride=stride, generator=generator, device=device)
    return FlowDraws(noise, t, delays)


def flow_mask(model: FlowPolicy, batch: dict[str, Tensor], draws: FlowDraws) -> Tensor:
    """(rows, H, A) float32: 1 where the error counts for the loss."""
    repeats = len(draws.t) // len(batch["actions"])
    mask = supervised(model, batch).repeat_interleave(repeats, dim=0)
    if draws.delays is None:
        return mask
    return with_clean_prefix(draws.t[:, None], mask, draws.delays)[1]


def flow_errors(model: FlowPolicy, batch: dict[str, Tensor], draws: FlowDraws) -> Tensor:
    """Squared error of the velocity, (rows, H, A) float32.

    Args:
        model: the policy.
        batch: as `flow_matching_loss` takes it; B divides the number of rows.
        draws: the rows of one observation follow each other.
    """
    repeats = len(draws.t) // len(batch["actions"])
    cache = model.prefix(
        batch["images"], batch["image_masks"], batch["lang_tokens"], batch["lang_masks"]
    ).repeat(repeats)
    if batch["actions"].shape[-1] != model.config.action_dim:
        raise DataError(
            f"actions: expected {model.config.action_dim} dimensions (the network's), got "
            f"{batch['actions'].shape[-1]}. Let action_dim of the normalisation pad them"
        )
    actions = batch["actions"].repeat_interleave(repeats, dim=0)
    state = batch["states"].repeat_interleave(repeats, dim=0)
    t = draws.t[:, None]
    if draws.delays is not None:
        t, _ = with_clean_prefix(t, torch.ones_like(actions), draws.delays)
    x_t = t[..., None] * draws.noise + (1.0 - t[..., None]) * actions
    embodiments = batch.get("embodiment_ids")
    if embodiments is not None:
        embodiments = embodiments.repeat_interleave(repeats, dim=0)
    velocity = model.denoise(state, x_t, t, cache, embodiments=embodiments)
    return (velocity - (draws.noise - actions)).square()


def flow_matching_loss(
    model: FlowPolicy,
    batch: dict[str, Tensor],
    *,
    num_noise_samples: int = 1,
    generator: torch.Generator | None = None,
) -> FlowLoss:
    """Computes the loss of a batch, with training-time RTC if the model's config says so.

    Args:
        model: the policy.
        batch: `images` (B, C, 3, h, w) float32, `image_masks` (B, C) bool, `lang_tokens` (B, L)
            int64, `lang_masks` (B, L) bool, `states` (B, S) float32, `actions` (B, H, A) float32
            normalised, `action_masks` (B, H) bool; optionally `action_dim_masks` (B, A) bool and
            `embodiment_ids` (B,) int64.
        num_noise_samples: noise and time draws per encoded observation; with more draws, the cheap
            expert learns more from each expensive prefix.
        generator: source of noise and time.
    """
    draws = draw_flow(
        model.config,
        len(batch["actions"]) * num_noise_samples,
        batch["actions"].shape[-1],
        generator=generator,
        device=batch["actions"].device,
    )
    return masked_mean(flow_errors(model, batch, draws), flow_mask(model, batch, draws))


def with_clean_prefix(t: Tensor, mask: Tensor, delays: Tensor) -> tuple[Tensor, Tensor]:
    """Gives the first `delays` (B,) steps of each sample time 0 and no loss.

    Args:
        t: (B, 1) time of the sample.
        mask: (B, H, A) 1 where an action counts for the loss.
        delays: (B,) int64.

    Returns:
        (B, H) times and the new mask.
    """
    is_prefix = torch.arange(mask.shape[1], device=t.device) < delays[:, None]
    return torch.where(is_prefix, 0.0, t), mask * ~is_prefix[..., None]


def supervised(model: FlowPolicy, batch: dict[str, Tensor]) -> Tensor:
    """(B, H, A) float32: 1 where an action is not padding and counts for the loss."""
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
    with torch.no_grad():
        per_dim = (error * mask).sum(dim=(0, 1)) / mask.sum(dim=(0, 1)).clamp(min=1.0)
    return FlowLoss((error * mask).sum() / mask.sum().clamp(min=1.0), per_dim)


@torch.no_grad()
def sample_actions(
    model: FlowPolicy,
    state: Tensor | None,
    cache: PrefixCache,
    noise: Tensor,
    num_inference_steps: int | None = None,
    *,
    rtc: RTCConfig | None = None,
    previous: Tensor | None = None,
    action_dims: int | None = None,
    embodiments: Tensor | None = None,
    unsmoothed: Tensor | None = None,
) -> Tensor:
    """Integrates the velocity from noise (t = 1) to actions (t = 0) with Euler steps.

    Args:
        model: the policy.
        state: (B, S) normalised state, None for a network that reads none.
        cache: the encoded observation.
        noise: (B, H, A) float32; not modified.
        num_inference_steps: default: the config's.
        rtc: makes the chunk continue `previous`; if either is missing or the prefix has 0 steps,
            the result is bit-identical to sampling without RTC.
        previous: (B, K, A) normalised, K <= H: the previous chunk's actions for this one's first K
            steps.
        action_dims: the dimensions that training supervised (default: the config's
            `loss_action_dim`); later dimensions are padding and become 0.
        embodiments: (B,) as `denoise` takes them.
        unsmoothed: (A,) True where actions are 0 or 1, which `action_smoothing` leaves alone.

    Returns:
        (B, H, A) float32 normalised actions.

    Raises:
        ConfigError: a prefix is longer than `previous` or ends inside a token.
    """
    steps = num_inference_steps or model.config.num_inference_steps
    action_dims = action_dims or model.config.loss_action_dim or noise.shape[2]
    flow = EulerFlow(
        model, state, cache, noise.shape[1], steps, action_dims, embodiments, unsmoothed
    )
    if rtc is None or not rtc.enabled or previous is None or rtc.prefix_len == 0:
        return flow.integrate(noise)
    prefix_len = checked_prefix(rtc, previous, noise.shape, model.config.prefix_stride)
    if rtc.method == "prefix":
        return flow.integrate_behind(noise, previous[:, :prefix_len])
    return flow.integrate_guided(noise, previous, prefix_len, rtc)


class EulerFlow:
    """The Euler loop of one observation, with or without a previous chunk."""

    def __init__(
        self,
        model: FlowPolicy,
        state: Tensor | None,
        cache: PrefixCache,
        horizon: int,
        num_inference_steps: int,
        action_dims: int,
        embodiments: Tensor | None = None,
        unsmoothed: Tensor | None = None,
    ) -> None:
        self.model, self.state, self.cache = model, state, cache
        self.embodiments, self.unsmoothed = embodiments, unsmoothed
        self.num_inference_steps, self.action_dims = num_inference_steps, action_dims
        self.context = model.suffix_context(cache, horizon)
        weights = smoother(horizon, model.config.action_smoothing)
        self.smoother = None if weights is None else weights.to(cache.pad_masks.device)

    def velocity(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Returns the network's velocity at per-position times (B, H)."""
        velocity = self.model.denoise(
            self.state, x_t, t, self.cache, self.context, self.embodiments
        )
        velocity = padding_to_zero(velocity, x_t, t, self.action_dims)
        return smoothed_velocity(velocity, x_t, t, self.smoother, self.unsmoothed)

    def times(self, like: Tensor) -> Iterator[Tensor]:
        """1, 1 - 1/N, ..., 1/N as (B, H): from an integer, so rounding errors do not add up."""
        for k in range(self.num_inference_steps):
            time = (self.num_inference_steps - k) / self.num_inference_steps
            yield torch.full(like.shape[:2], time, device=like.device)

    def integrate(self, noise: Tensor) -> Tensor:
        """Integrates from noise to actions."""
        x_t = noise
        for t in self.times(noise):
            x_t = x_t - self.velocity(x_t, t) / self.num_inference_steps
        return x_t

    def integrate_behind(self, noise: Tensor, prefix: Tensor) -> Tensor:
        """Does so with known first steps: they remain clean, at time 0, throughout."""
        length = prefix.shape[1]
        x_t = torch.cat((prefix, noise[:, length:]), dim=1)
        for t in self.times(noise):
            t[:, :length] = 0.0
            moved = x_t - self.velocity(x_t, t) / self.num_inference_steps
            x_t = torch.cat((prefix, moved[:, length:]), dim=1)
        return x_t

    def integrate_guided(
        self, noise: Tensor, previous: Tensor, prefix_len: int, rtc: RTCConfig
    ) -> Tensor:
        """Does so, guided towards `previous` according to its weights."""
        horizon, known = noise.shape[1], previous.shape[1]
        decay_end = min(2 * prefix_len if rtc.decay_end is None else rtc.decay_end, known)
        weights = prefix_weights(prefix_len, decay_end, horizon, rtc.schedule)
        w_H1 = torch.from_numpy(weights).to(noise.device)[:, None]
        target = functional.pad(previous, (0, 0, 0, horizon - known))
        x_t = noise
        for t in self.times(noise):
            estimated = self._jacobian_pull if rtc.use_vjp else self._plain_pull
            velocity, pull = estimated(x_t, t, target, w_H1)
            strength = guidance_weight(float(t[0, 0]), rtc.max_guidance_weight)
            x_t = x_t - (velocity - strength * pull) / self.num_inference_steps
        return x_t

    def _plain_pull(
        self, x_t: Tensor, t: Tensor, target: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the velocity, and the error of the actions that it predicts."""
        velocity = self.velocity(x_t, t)
        return velocity, (target - (x_t - t[..., None] * velocity)) * weights

    def _jacobian_pull(
        self, x_t: Tensor, t: Tensor, target: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Does so, with the error mapped back to x_t by the actions' vector-Jacobian product."""
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            velocity = self.velocity(x, t)
            actions = x - t[..., None] * velocity
            error = (target - actions.detach()) * weights
            (pull,) = torch.autograd.grad(actions, x, error)
        return velocity.detach(), pull


def padding_to_zero(velocity: Tensor, x_t: Tensor, t: Tensor, action_dims: int) -> Tensor:
    """Replaces the velocity from dimension `action_dims` on by that of actions that are zero.

    In training these dimensions of x_t were t * noise, and the network's velocity there had no
    loss: integrating it would take x_t outside the training distribution. For actions of zero the
    velocity is the noise itself, x_t / t.
    """
    if action_dims >= x_t.shape[-1]:
        return velocity
    # A known prefix has t = 0, and its padding is 0: 0 / tiny stays 0.
    time = t[..., None].clamp(min=torch.finfo(torch.float32).tiny)
    return torch.cat((velocity[..., :action_dims], x_t[..., action_dims:] / time), dim=-1)


def checked_prefix(rtc: RTCConfig, previous: Tensor, shape: torch.Size, stride: int) -> int:
    """Returns the prefix's length after checking it."""
    if rtc.prefix_len is None:
        raise ConfigError("rtc_config.prefix_len: expected a number of steps, got None")
    fits = previous.shape[0] == shape[0] and previous.shape[2] == shape[2]
    if not fits or previous.shape[1] > shape[1]:
        raise ConfigError(
            f"previous: expected at most {tuple(shape)} actions, got {tuple(previous.shape)}"
        )
    if rtc.prefix_len > previous.shape[1]:
        raise ConfigError(
            f"rtc_config.prefix_len: expected at most {previous.shape[1]} (the steps left of the "
            f"previous chunk), got {rtc.prefix_len}"
        )
    if rtc.method == "prefix" and rtc.prefix_len % stride:
        raise ConfigError(
            f"rtc_config.prefix_len: expected a multiple of {stride} (actions_per_token), got "
            f"{rtc.prefix_len}"
        )
    return rtc.prefix_len
