"""The two graphs of a bundle, as modules that the ONNX exporter can trace."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flux_core.models import PI0FlowMatching, PrefixCache, padding_to_zero


class TimeEmbeddingTable(nn.Module):
    """The time embedding of every step k / N, looked up instead of computed.

    Exact where a float32 sine would not be, and cheaper than a float64 one.
    """

    table: Tensor

    def __init__(self, embedding: nn.Module, num_steps: int) -> None:
        super().__init__()
        times = torch.arange(num_steps + 1, dtype=torch.float32) / num_steps
        self.num_steps = num_steps
        self.register_buffer("table", embedding(times[None])[0])

    def forward(self, t: Tensor) -> Tensor:
        """(B, H) -> (B, H, width)."""
        return self.table[(t * self.num_steps).round().long()]


class PrefixGraph(nn.Module):
    """uint8 images, masks and tokens to the prefix's keys and values."""

    image_scale: Tensor
    image_offset: Tensor

    def __init__(self, model: PI0FlowMatching, scale: Tensor, offset: Tensor) -> None:
        """`scale` and `offset` (C, 3) are the image normalisation."""
        super().__init__()
        self.model = model
        self.register_buffer("image_scale", scale[None, :, None, None, :])
        self.register_buffer("image_offset", offset[None, :, None, None, :])

    def forward(
        self, images: Tensor, image_masks: Tensor, lang_tokens: Tensor, lang_masks: Tensor
    ) -> tuple[Tensor, ...]:
        """Returns `prefix_pad_masks`, then key and value of each layer."""
        normalised = images.float() * self.image_scale + self.image_offset
        cache = self.model.prefix(
            normalised.permute(0, 1, 4, 2, 3), image_masks, lang_tokens, lang_masks
        )
        pairs = zip(cache.keys, cache.values, strict=True)
        return cache.pad_masks, *(tensor for pair in pairs for tensor in pair)


class DenoiseGraph(nn.Module):
    """One Euler step: velocity and update in one graph, time per position.

    `t_next` is rounded to a multiple of 1 / N, so that no error gathers over the steps; a position
    already at t = 0 stays where it is. Dimensions from `action_dims` on are padding (see
    `padding_to_zero`).
    """

    def __init__(self, model: PI0FlowMatching, num_steps: int, action_dims: int) -> None:
        super().__init__()
        self.model = model
        self.num_steps, self.action_dims = num_steps, action_dims

    def forward(
        self, state: Tensor | None, x_t: Tensor, t: Tensor, pad_masks: Tensor, *cache: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns `x_next` (1, H, A) and `t_next` (1, H)."""
        velocity = self.model.denoise(
            state, x_t, t, PrefixCache(cache[0::2], cache[1::2], pad_masks)
        )
        velocity = padding_to_zero(velocity, x_t, t, self.action_dims)
        t_next = ((t * self.num_steps - 1.0).round() / self.num_steps).clamp(min=0.0)
        return x_t + (t_next - t)[..., None] * velocity, t_next


def cache_names(num_layers: int) -> list[str]:
    """Names of the tensors that go from the prefix graph to the denoise graph."""
    names = [f"past_{kind}_{layer}" for layer in range(num_layers) for kind in ("key", "value")]
    return ["prefix_pad_masks", *names]
