"""The two graphs of a bundle, as modules that the ONNX exporter can trace."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from flux_core.models import (
    PI0FlowMatching,
    PrefixCache,
    padding_to_zero,
    smoothed_velocity,
    smoother,
)
from flux_core.models.layers import AdaRMSNorm
from flux_core.models.pi import PI05FlowMatching


class StepIndex(nn.Module):
    """Converts times to step indices: k / N to k."""

    def __init__(self, num_inference_steps: int) -> None:
        super().__init__()
        self.num_inference_steps = num_inference_steps

    def forward(self, t: Tensor) -> Tensor:
        """(B, H) float32 -> (B, H) int64."""
        return (t * self.num_inference_steps).round().long()


class StepTable(nn.Module):
    """Looks up values that depend only on the time, with one row per step."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        """`table` is (N + 1, width)."""
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, index: Tensor) -> Tensor:
        """(B, H) int64 -> (B, H, width)."""
        return functional.embedding(index, self.table)


class AngleTable(nn.Module):
    """Looks up the rotary embedding's cos and sin, with one row per position."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        """`table` is (positions, D), cos beside sin."""
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) int64 -> cos and sin, each (B, 1, T, D/2)."""
        # Padding before the first token has position -1; no token attends to it.
        rows = functional.embedding(positions.clamp(min=0), self.table)
        cos, sin = rows[:, None].chunk(2, dim=-1)
        return cos, sin


@torch.no_grad()
def precompute_angles(model: PI0FlowMatching, num_positions: int) -> None:
    """Replaces the rotary angles of all positions by tables.

    The tables are as exact as PyTorch, whereas TensorRT computes angles in float32 only. An engine
    that computes in bfloat16 then rounds cos and sin, and not the positions they are computed from.
    """
    positions = torch.arange(num_positions)[None]
    for stream in (model.llm_backbone, model.llm_expert):
        cos, sin = stream.angles(positions)
        stream.angles = AngleTable(torch.cat((cos, sin), dim=-1)[0, 0])


@torch.no_grad()
def precompute_times(model: PI0FlowMatching, num_inference_steps: int) -> None:
    """Replaces all parts of the expert that depend only on the time by tables of the times k / N.

    The tables are exact, unlike a float32 sine, and save pi0.5 a quarter of its expert's weights:
    the projections of the time in every norm. A known prefix (real-time chunking) still works,
    because its steps have time 0, which is one of the k / N.
    """
    times = torch.arange(num_inference_steps + 1, dtype=torch.float32)[None] / num_inference_steps
    if not isinstance(model, PI05FlowMatching):
        table = StepTable(model.time_embedding(times)[0])
        model.time_embedding = nn.Sequential(StepIndex(num_inference_steps), table)
        return
    condition = model.condition(times, torch.float32)[0]
    for module in model.llm_expert.modules():
        if isinstance(module, AdaRMSNorm):
            module.add_module("dense", StepTable(module.dense(condition)))
    model.step_index = StepIndex(num_inference_steps)


class PrefixGraph(nn.Module):
    """Computes the prefix's keys and values from uint8 images, masks and tokens."""

    image_scale: Tensor
    image_offset: Tensor

    def __init__(
        self, model: PI0FlowMatching, scale: Tensor, offset: Tensor, dtype: torch.dtype
    ) -> None:
        """`scale` and `offset` (C, 3) normalise images; `dtype` is the vision backbone's."""
        super().__init__()
        self.model = model
        self.dtype = dtype
        self.register_buffer("image_scale", scale[None, :, None, None, :])
        self.register_buffer("image_offset", offset[None, :, None, None, :])

    def forward(
        self, images: Tensor, image_masks: Tensor, lang_tokens: Tensor, lang_masks: Tensor
    ) -> tuple[Tensor, ...]:
        """Returns `prefix_pad_masks`, then key and value of each layer."""
        normalised = images.float() * self.image_scale + self.image_offset
        normalised = normalised.permute(0, 1, 4, 2, 3).to(self.dtype)
        cache = self.model.prefix(normalised, image_masks, lang_tokens, lang_masks)
        pairs = zip(cache.keys, cache.values, strict=True)
        return cache.pad_masks, *(tensor for pair in pairs for tensor in pair)


class DenoiseGraph(nn.Module):
    """One Euler step: velocity and update in one graph, with one time per position.

    `t_next` is rounded to a multiple of 1 / N, so that errors do not accumulate over the steps; a
    position that is already at t = 0 does not change. Dimensions from `action_dims` on are padding
    (see `padding_to_zero`); with `action_smoothing`, the clean actions are smoothed (see
    `smoothed_velocity`). Actions and times are float32 in every precision.
    """

    def __init__(self, model: PI0FlowMatching, num_inference_steps: int, action_dims: int) -> None:
        super().__init__()
        self.model = model
        self.num_inference_steps, self.action_dims = num_inference_steps, action_dims
        self.smoother: Tensor | None
        weights = smoother(model.config.n_action_steps, model.config.action_smoothing)
        self.register_buffer("smoother", weights, persistent=False)

    def forward(
        self, state: Tensor | None, x_t: Tensor, t: Tensor, pad_masks: Tensor, *cache: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns `x_next` (1, H, A) and `t_next` (1, H)."""
        velocity = self.model.denoise(
            state, x_t, t, PrefixCache(cache[0::2], cache[1::2], pad_masks)
        )
        velocity = padding_to_zero(velocity, x_t, t, self.action_dims)
        velocity = smoothed_velocity(velocity, x_t, t, self.smoother)
        t_next = ((t * self.num_inference_steps - 1.0).round() / self.num_inference_steps).clamp(
            min=0.0
        )
        return x_t + (t_next - t)[..., None] * velocity, t_next


def cache_names(num_layers: int) -> list[str]:
    """Returns the names of the tensors that the prefix graph passes to the denoise graph."""
    names = [f"past_{kind}_{layer}" for layer in range(num_layers) for kind in ("key", "value")]
    return ["prefix_pad_masks", *names]
