"""The sizes of a pi0 or pi0.5, from the names and shapes of a bundle's tensors.

The tensors say almost everything; config.json adds the number of the vision tower's heads and the
epsilons of the norms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

VISION = "vision_backbone.vision.vision_model."
PREFIX = "llm_backbone."
EXPERT = "llm_expert."

Shapes = Mapping[str, tuple[int, ...]]
"""Tensor name -> shape, of the whole of model.safetensors."""


@dataclass(frozen=True, kw_only=True)
class VisionSizes:
    """The vision transformer.

    Attributes:
        width, mlp: of a token, and of the hidden layer.
        layers, heads: their numbers.
        image_size: pixels of a side.
        patch: pixels of a patch's side.
        eps: of its norms.
    """

    width: int
    mlp: int
    layers: int
    heads: int
    image_size: int
    patch: int
    eps: float

    @property
    def tokens(self) -> int:
        """Tokens per picture."""
        return (self.image_size // self.patch) ** 2

    @property
    def padded_patch(self) -> int:
        """Numbers of a patch, padded to whole 16-byte units of bfloat16 rows."""
        return math.ceil(self.patch * self.patch * 3 / 16) * 16


@dataclass(frozen=True, kw_only=True)
class GemmaSizes:
    """A Gemma stack: the prefix or the expert."""

    width: int
    mlp: int
    eps: float


@dataclass(frozen=True, kw_only=True)
class PiDescription:
    """Everything that decides a plan, apart from the number of cameras and tokens.

    Attributes:
        adaptive: whether the expert's norms depend on the time (pi0.5).
        tower, prefix, expert: the three networks.
        layers: of prefix and expert.
        heads, key_heads, head_dim: of their attention.
        positions: rows of the tables of angles.
        vocabulary: number of token ids.
        state_dim: of the state that becomes a token; 0 without.
        action_dim: columns of x_t.
        live_dims: of them, those that are no padding.
        horizon: rows of x_t.
        num_inference_steps: Euler steps.
        image_scale, image_offset: (cameras, 3), from a pixel to what the network takes.
        packed: whether queries, keys and values are one tensor in the bundle.
    """

    adaptive: bool
    tower: VisionSizes
    prefix: GemmaSizes
    expert: GemmaSizes
    layers: int
    heads: int
    key_heads: int
    head_dim: int
    positions: int
    vocabulary: int
    state_dim: int
    action_dim: int
    live_dims: int
    horizon: int
    num_inference_steps: int
    image_scale: tuple[tuple[float, ...], ...]
    image_offset: tuple[tuple[float, ...], ...]
    packed: bool

    @property
    def qkv_rows(self) -> int:
        """Rows of the packed weight of queries, keys and values."""
        return (self.heads + 2 * self.key_heads) * self.head_dim

    @property
    def state_tokens(self) -> int:
        """1 if the state is a token of the expert, else 0."""
        return 1 if self.state_dim else 0

    @property
    def suffix_tokens(self) -> int:
        """Tokens of the expert: the state, if it is one, and the actions."""
        return self.state_tokens + self.horizon


def describe(
    model: Mapping[str, Any],
    shapes: Shapes,
    *,
    horizon: int,
    live_dims: int,
    image_scale: Sequence[Sequence[float]],
    image_offset: Sequence[Sequence[float]],
) -> PiDescription:
    """Returns the description of a network that `refusal` accepts.

    Args:
        model: the section `model` of config.json.
        shapes: of all tensors.
        horizon: steps of a chunk.
        live_dims: dimensions of the actions that are no padding.
        image_scale, image_offset: (cameras, 3).
    """
    adaptive = f"{EXPERT}norm.dense.table" in shapes
    packed = f"{PREFIX}layers.0.self_attn.packed.qkv_proj.weight" in shapes
    positions, head_dim = shapes[f"{PREFIX}angles.table"]
    heads = shapes[f"{PREFIX}layers.0.self_attn.o_proj.weight"][1] // head_dim
    if packed:
        rows = shapes[f"{PREFIX}layers.0.self_attn.packed.qkv_proj.weight"][0]
        key_heads = (rows // head_dim - heads) // 2
    else:
        key_heads = shapes[f"{PREFIX}layers.0.self_attn.k_proj.weight"][0] // head_dim
    times = f"{EXPERT}norm.dense.table" if adaptive else "time_embedding.1.table"
    vocabulary, _ = shapes[f"{PREFIX}embed_tokens.weight"]
    return PiDescription(
        adaptive=adaptive,
        tower=_tower(model, shapes),
        prefix=_stream(model, shapes, PREFIX),
        expert=_stream(model, shapes, EXPERT),
        layers=_num_layers(shapes, f"{PREFIX}layers."),
        heads=heads,
        key_heads=key_heads,
        head_dim=head_dim,
        positions=positions,
        vocabulary=vocabulary,
        state_dim=0 if adaptive else shapes["state_proj.projector.weight"][1],
        action_dim=shapes["action_out_proj.projector.weight"][0],
        live_dims=live_dims,
        horizon=horizon,
        num_inference_steps=shapes[times][0] - 1,
        image_scale=tuple(tuple(map(float, row)) for row in image_scale),
        image_offset=tuple(tuple(map(float, row)) for row in image_offset),
        packed=packed,
    )


def _tower(model: Mapping[str, Any], shapes: Shapes) -> VisionSizes:
    config = model["vision_backbone"].get("vision_config") or {}
    width, _, patch, _ = shapes[f"{VISION}embeddings.patch_embedding.weight"]
    tokens, _ = shapes[f"{VISION}embeddings.position_embedding.weight"]
    return VisionSizes(
        width=width,
        mlp=shapes[f"{VISION}encoder.layers.0.mlp.fc1.weight"][0],
        layers=_num_layers(shapes, f"{VISION}encoder.layers."),
        heads=config.get("num_attention_heads", 16),
        image_size=math.isqrt(tokens) * patch,
        patch=patch,
        eps=config.get("layer_norm_eps", 1e-6),
    )


def _stream(model: Mapping[str, Any], shapes: Shapes, part: str) -> GemmaSizes:
    mlp, width = shapes[f"{part}layers.0.mlp.gate_proj.weight"]
    eps = model[part.rstrip(".")].get("rms_norm_eps", 1e-6)
    return GemmaSizes(width=width, mlp=mlp, eps=eps)


def _num_layers(shapes: Shapes, start: str) -> int:
    return 1 + max(
        int(name[len(start) :].split(".")[0]) for name in shapes if name.startswith(start)
    )
