"""What an image encoder is to the networks: images to tokens.

A new one is its own file and one line in `flux_core._components`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn


class VisionBackbone(nn.Module, ABC):
    """The base of all image encoders."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ABC):
        """The settings of an image encoder."""

        @abstractmethod
        def build(self) -> VisionBackbone:
            """Returns the encoder with initial weights."""

        @property
        @abstractmethod
        def image_size(self) -> tuple[int, int]:
            """(height, width) of its input."""

        @property
        @abstractmethod
        def num_tokens(self) -> int:
            """Tokens per image."""

        @property
        @abstractmethod
        def out_dim(self) -> int:
            """Width of a token."""

        @property
        def pixel_range(self) -> tuple[float, float] | None:
            """The range of normalised pixels, if the encoder needs one."""
            return None

        @property
        def needs_pixel_range(self) -> bool:
            """Whether any other range is an error, because the encoder converts from this one."""
            return False

    @property
    def layers(self) -> list[nn.Module]:
        """The layers that are sharded, recomputed and compiled one by one."""
        return []

    def load_own_weights(self) -> None:
        """Fills in the weights that the encoder's own config names, if it names any."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, height, width) -> (B, num_tokens, out_dim)."""
