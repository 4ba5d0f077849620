"""The two graphs of a bundle, as modules that the ONNX exporter can trace."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flux_core.models import FlowPolicy, PrefixCache, padding_to_zero, smoothed_velocity, smoother


class PrefixGraph(nn.Module):
    """Computes the prefix's keys and values from uint8 images, masks and tokens."""

    image_scale: Tensor
    image_offset: Tensor

    def __init__(
        self, model: FlowPolicy, scale: Tensor, offset: Tensor, dtype: torch.dtype
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
    `smoothed_velocity`), except for the `binary` ones. Actions and times are float32 in every
    precision.
    """

    def __init__(
        self,
        model: FlowPolicy,
        num_inference_steps: int,
        action_dims: int,
        binary: tuple[bool, ...] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.num_inference_steps, self.action_dims = num_inference_steps, action_dims
        self.smoother: Tensor | None
        weights = smoother(model.config.n_action_steps, model.config.action_smoothing)
        self.register_buffer("smoother", weights, persistent=False)
        self.unsmoothed: Tensor | None
        unsmoothed = None
        if weights is not None and any(binary):
            padding = model.config.action_dim - len(binary)
            unsmoothed = torch.tensor((*binary, *(False,) * padding))
        self.register_buffer("unsmoothed", unsmoothed, persistent=False)

    def forward(
        self, state: Tensor | None, x_t: Tensor, t: Tensor, pad_masks: Tensor, *cache: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns `x_next` (1, H, A) and `t_next` (1, H)."""
        velocity = self.model.denoise(
            state, x_t, t, PrefixCache(cache[0::2], cache[1::2], pad_masks)
        )
        velocity = padding_to_zero(velocity, x_t, t, self.action_dims)
        velocity = smoothed_velocity(velocity, x_t, t, self.smoother, self.unsmoothed)
        t_next = ((t * self.num_inference_steps - 1.0).round() / self.num_inference_steps).clamp(
            min=0.0
        )
        return x_t + (t_next - t)[..., None] * velocity, t_next


def cache_names(num_layers: int) -> list[str]:
    """Returns the names of the tensors that the prefix graph passes to the denoise graph."""
    names = [f"past_{kind}_{layer}" for layer in range(num_layers) for kind in ("key", "value")]
    return ["prefix_pad_masks", *names]
