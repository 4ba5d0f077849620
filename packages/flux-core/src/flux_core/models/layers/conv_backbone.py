"""A small convolutional image tokenizer for policies trained from scratch in minutes.

A bare vision transformer of this size does not learn to find a three-pixel cube in a few thousand
steps; two convolutions and soft-argmax keypoints (the "spatial softmax" of Levine et al. 2016,
section 5.1) learn it in a few hundred.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...config import check_at_least
from ...errors import ConfigError
from .vision_backbone import VisionBackbone

STRIDE = 4
SHARPNESS = 4.0
# Rows: brightness, red against green, blue against yellow. Most of a scene is grey, so colour is
# the weakest signal in an image and would be learned last; amplified, it is learned early.
OPPONENT_COLOURS = ((1 / 3, 1 / 3, 1 / 3), (3.0, -3.0, 0.0), (-1.5, -1.5, 3.0))


class ConvBackbone(VisionBackbone):
    """Images to a few tokens of keypoint coordinates."""

    @dataclass(frozen=True, kw_only=True)
    class Config(VisionBackbone.Config):
        image_height: int = 96
        image_width: int = 128
        stem_channels: int = 32
        body_channels: int = 32
        num_keypoints: int = 32
        num_tokens: int = 4  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden_size: int = 64

        def __post_init__(self) -> None:
            check_at_least(
                1,
                self,
                *("image_height", "image_width", "stem_channels", "body_channels"),
                *("num_keypoints", "num_tokens", "hidden_size"),
            )
            for name in ("image_height", "image_width"):
                if getattr(self, name) % STRIDE:
                    raise ConfigError(
                        f"{name}: expected a multiple of {STRIDE}, got {getattr(self, name)}"
                    )

        def build(self) -> ConvBackbone:
            return ConvBackbone(self)

        @property
        def image_size(self) -> tuple[int, int]:
            """(height, width) of its input."""
            return self.image_height, self.image_width

        @property
        def out_dim(self) -> int:
            """Width of a token."""
            return self.hidden_size

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, config.stem_channels, 7, stride=STRIDE, padding=3)
        self.body = nn.Conv2d(config.stem_channels, config.body_channels, 3, padding=1)
        self.keypoint_norm = nn.LayerNorm(config.body_channels)
        self.keypoint_maps = nn.Conv2d(config.body_channels, config.num_keypoints, 1)
        self.tokens = nn.Linear(2 * config.num_keypoints, config.num_tokens * config.hidden_size)
        self.position_embedding = nn.Embedding(config.num_tokens, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, height, width) in [-1, 1] -> (B, num_tokens, out_dim)."""
        # Mixing the kernel's colours has the same effect as mixing the image's.
        colours = torch.tensor(OPPONENT_COLOURS, device=images.device, dtype=images.dtype)
        weight = self.stem.weight.to(images.dtype)
        kernel = (weight.permute(0, 2, 3, 1) @ colours).permute(0, 3, 1, 2)
        features = functional.conv2d(images, kernel, self.stem.bias, STRIDE, padding=3)
        features = functional.relu(self.body(functional.relu(features)))
        # Normalised per pixel and sharpened. Otherwise the softmax over hundreds of pixels is flat
        # at first, and for a long time a small object moves no keypoint and so gives no gradient.
        salient = self.keypoint_norm(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        keypoints = soft_argmax(SHARPNESS * self.keypoint_maps(salient)).to(images.dtype)
        positions = self.position_embedding.weight
        tokens = self.tokens(keypoints).unflatten(-1, positions.shape)
        return self.norm(tokens + positions)


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
