"""How GR00T's images are made: NVIDIA's way and LeRobot's. Both give one tile of Eagle.

Eagle itself would cut a larger image into up to 13 tiles, so images are resized before it.
`SimpleNormalizeImages` follows: Eagle's mean and deviation are 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ..images import ResizeImages, check_image
from ..roles import Stretch, pil_stretch
from ..rule import Rule, rules
from .resampling import bicubic, bilinear, resample_bytes, resample_cut


@dataclass(frozen=True, kw_only=True)
class NvidiaResizeImages(ResizeImages):
    """NVIDIA's evaluation: the centre is cropped, stretched as floats, and cut to bytes.

    In training NVIDIA crops at a random place, for which `NvidiaShiftImages` comes before it.
    """

    rules: ClassVar[Mapping[str, Rule]] = rules("equal", "images", "crop")
    height: int = 224
    width: int = 224
    crop: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.crop <= 1.0:
            raise ConfigError(f"crop: expected a share above 0 and up to 1, got {self.crop}")

    def resize(self, image: NDArray[np.uint8], stretch: Stretch = pil_stretch) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 -> (height, width, 3) uint8; `stretch` is not used."""
        check_image(image)
        size = image.shape[:2]
        inner = [max(int(side * self.crop), 1) for side in size]
        top, left = (round((side - kept) / 2) for side, kept in zip(size, inner, strict=True))
        cropped = image[top : top + inner[0], left : left + inner[1]]
        return resample_cut(cropped, self.height, self.width, bilinear)


@dataclass(frozen=True, kw_only=True)
class LeRobotResizeImages(ResizeImages):
    """LeRobot's way, which is Eagle's own for one tile: the whole image, bicubic, as bytes."""

    height: int = 224
    width: int = 224

    def resize(self, image: NDArray[np.uint8], stretch: Stretch = pil_stretch) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 -> (height, width, 3) uint8; `stretch` is not used."""
        check_image(image)
        return resample_bytes(image, self.height, self.width, bicubic)
