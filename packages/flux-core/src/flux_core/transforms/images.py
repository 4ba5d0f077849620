"""Image size and value range."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..config import check_at_least
from ..errors import ConfigError, DataError
from .base import ModelInputs
from .roles import ImageNormalization, ImageResize, Stretch, pil_stretch
from .rule import rules

logger = logging.getLogger("flux.config")


@dataclass(frozen=True, kw_only=True)
class ResizeImages(ImageResize):
    """Stretches every image to (height, width), antialiased bilinear as PIL does it."""

    rules = rules("equal", "images", "height", "width")
    height: int
    width: int

    def __post_init__(self) -> None:
        check_at_least(1, self, "height", "width")

    def resize(self, image: NDArray[np.uint8], stretch: Stretch = pil_stretch) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 -> (height, width, 3) uint8."""
        check_image(image)
        if image.shape[:2] == (self.height, self.width):
            return image
        return stretch(image, self.height, self.width)


@dataclass(frozen=True, kw_only=True)
class ResizeImagesWithPad(ResizeImages):
    """Keeps the aspect ratio: centred, padded with black (openpi `resize_with_pad`)."""

    def resize(self, image: NDArray[np.uint8], stretch: Stretch = pil_stretch) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 -> (height, width, 3) uint8."""
        check_image(image)
        height, width = image.shape[:2]
        if (height, width) == (self.height, self.width):
            return image
        ratio = max(width / self.width, height / self.height)
        inner_width, inner_height = int(width / ratio), int(height / ratio)
        top, left = (self.height - inner_height) // 2, (self.width - inner_width) // 2
        canvas = np.zeros((self.height, self.width, 3), np.uint8)
        canvas[top : top + inner_height, left : left + inner_width] = stretch(
            image, inner_height, inner_width
        )
        return canvas


def resize_to(height: int, width: int, *, keep_aspect: bool = False) -> ImageResize:
    """Returns the usual resize: stretched or, with `keep_aspect`, padded with black."""
    kind = ResizeImagesWithPad if keep_aspect else ResizeImages
    return kind(height=height, width=width)


@dataclass(frozen=True, kw_only=True)
class SimpleNormalizeImages(ImageNormalization):
    """uint8 to [-1, 1], what SigLIP was trained on: `x / 255 * 2 - 1`."""

    def affine(self, num_cameras: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns (scale, offset), each (num_cameras, 3): `x * scale + offset`."""
        shape = (num_cameras, 3)
        return np.full(shape, 2.0 / 255.0, np.float32), np.full(shape, -1.0, np.float32)


@dataclass(frozen=True, kw_only=True)
class NormalizeImages(ImageNormalization):
    """`(x - mean) / std` per camera and channel, on the 0..255 scale."""

    rules = rules("equal", "images of the robot's cameras", "means", "stds")
    means: tuple[tuple[float, ...], ...]
    stds: tuple[tuple[float, ...], ...]

    def affine(self, num_cameras: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns (scale, offset), each (num_cameras, 3): `x * scale + offset`."""
        means, stds = np.asarray(self.means), np.asarray(self.stds)
        if means.shape != (num_cameras, 3) or stds.shape != means.shape:
            raise ConfigError(
                f"NormalizeImages.means: expected {num_cameras} cameras x 3 channels, "
                f"got {means.shape} and stds {stds.shape}"
            )
        return (1.0 / stds).astype(np.float32), (-means / stds).astype(np.float32)

    def with_cameras(self, kept: Sequence[int]) -> NormalizeImages:
        means, stds = (tuple(x[i] for i in kept if i < len(x)) for x in (self.means, self.stds))
        return replace(self, means=means, stds=stds)

    def check_model(self, model: ModelInputs, where: str) -> None:
        """Warns about pixel values outside the range that the vision backbone was trained on;
        refuses any other range if the network converts from it."""
        if model.pixel_range is None:
            return
        scale, offset = self.affine(len(self.means))
        low, high = model.pixel_range
        ends = np.stack((offset, 255.0 * scale + offset))
        if model.needs_pixel_range and not np.allclose(ends.T, (low, high), rtol=0, atol=1e-3):
            raise ConfigError(
                f"{where}: expected pixels from {low:g} to {high:g}, because the vision backbone "
                f"has its own mean and deviation, got {ends.min():.3g} to {ends.max():.3g}. Use "
                "SimpleNormalizeImages"
            )
        if offset.min() < low - 1e-3 or (255.0 * scale + offset).max() > high + 1e-3:
            logger.warning(
                "%s: NormalizeImages gives pixels outside [%g, %g], the range that SigLIP and "
                "openpi's checkpoints were trained on. Use SimpleNormalizeImages for that range",
                *(where, low, high),
            )


def check_image(image: NDArray[np.uint8]) -> None:
    """Refuses anything but (height, width, 3) uint8."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise DataError(
            f"images: expected (height, width, 3) uint8, got {image.shape} {image.dtype}"
        )
