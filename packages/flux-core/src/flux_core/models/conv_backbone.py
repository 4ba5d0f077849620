"""A small convolutional image tokenizer for policies trained from scratch in minutes.

A bare vision transformer of this size does not learn to find a three-pixel cube in a few thousand
steps; a convolutional stem with one token of soft-argmax keypoints does (the "spatial softmax" of
Levine et al. 2016, section 5.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import ConfigError

STEM_STRIDE, GRID_STRIDE = 4, 4
SHARPNESS = 4.0


class ConvBackbone(nn.Module):
    """Images to a coarse grid of tokens plus one token of keypoint coordinates."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        image_height: int = 96
        image_width: int = 128
        stem_channels: int = 32
        hidden_size: int = 64
        num_keypoints: int = 32

        def __post_init__(self) -> None:
            stride = STEM_STRIDE * GRID_STRIDE
            for name in ("image_height", "image_width"):
                if getattr(self, name) % stride:
                    raise ConfigError(
                        f"{name}: expected a multiple of {stride}, got {getattr(self, name)}"
                    )

        def build(self) -> ConvBackbone:
            return ConvBackbone(self)

        @property
        def image_size(self) -> tuple[int, int]:
            """(height, width) it eats."""
            return self.image_height, self.image_width

        @property
        def num_tokens(self) -> int:
            """Tokens an image becomes."""
            stride = STEM_STRIDE * GRID_STRIDE
            return (self.image_height // stride) * (self.image_width // stride) + 1

        @property
        def out_dim(self) -> int:
            """Width of a token."""
            return self.hidden_size

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, config.stem_channels, 7, stride=STEM_STRIDE, padding=3)
        self.body = nn.Conv2d(config.stem_channels, config.hidden_size, 3, padding=1)
        self.keypoint_norm = nn.LayerNorm(config.hidden_size)
        self.keypoint_maps = nn.Conv2d(config.hidden_size, config.num_keypoints, 1)
        self.keypoint_token = nn.Linear(2 * config.num_keypoints, config.hidden_size)
        self.grid = nn.Conv2d(config.hidden_size, config.hidden_size, GRID_STRIDE, GRID_STRIDE)
        self.position_embedding = nn.Embedding(config.num_tokens, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, height, width) in [-1, 1] -> (B, num_tokens, out_dim)."""
        features = functional.gelu(self.stem(images), approximate="tanh")
        features = functional.gelu(self.body(features), approximate="tanh")
        grid = self.grid(features).flatten(2).transpose(1, 2)
        # Normalised per pixel and sharpened: otherwise the softmax over hundreds of pixels starts
        # flat, and a small object moves no keypoint (and so gives no gradient) for a long time.
        salient = self.keypoint_norm(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        scores = SHARPNESS * self.keypoint_maps(salient)
        keypoints = self.keypoint_token(soft_argmax(scores))
        tokens = torch.cat((grid, keypoints[:, None].to(grid.dtype)), dim=1)
        return self.norm(tokens + self.position_embedding.weight)


def soft_argmax(maps: Tensor) -> Tensor:
    """Expected coordinates of each map's softmax.

    Args:
        maps: (B, num_maps, height, width) scores.

    Returns:
        (B, 2 * num_maps) float32 in [-1, 1]: all x, then all y.
    """
    height, width = maps.shape[-2:]
    weights = maps.float().flatten(2).softmax(dim=-1).unflatten(-1, (height, width))
    columns = torch.linspace(-1.0, 1.0, width, device=maps.device)
    rows = torch.linspace(-1.0, 1.0, height, device=maps.device)
    x = (weights.sum(dim=2) * columns).sum(dim=-1)
    y = (weights.sum(dim=3) * rows).sum(dim=-1)
    return torch.cat((x, y), dim=-1)
