"""Image size and value range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ConfigError, DataError
from .base import Sample

Stretch = Callable[[NDArray[np.uint8], int, int], NDArray[np.uint8]]
"""(h, w, 3) uint8, height, width -> (height, width, 3) uint8."""


def pil_stretch(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The resize of openpi, and of the robot: PIL's antialiased bilinear filter."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


@dataclass(frozen=True, kw_only=True)
class ResizeImages:
    """Stretches every image to (height, width), antialiased bilinear as PIL does it."""

    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ConfigError(f"ResizeImages: expected a positive size, got {self}")

    def __call__(self, sample: Sample) -> Sample:
        images = sample["images"]
        return {**sample, "images": np.stack([self.resize(image) for image in images])}

    def resize(self, image: NDArray[np.uint8], stretch: Stretch = pil_stretch) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 -> (height, width, 3) uint8."""
        check_image(image)
        if image.shape[:2] == (self.height, self.width):
            return image
        return stretch(image, self.height, self.width)


@dataclass(frozen=True, kw_only=True)
class ResizeImagesWithPad(ResizeImages):
    """Keeps the aspect: as large as fits, centred, black around (openpi `resize_with_pad`)."""

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


@dataclass(frozen=True, kw_only=True)
class SimpleNormalizeImages:
    """uint8 to [-1, 1], what SigLIP was trained on: `x / 255 * 2 - 1`."""

    def affine(self, num_cameras: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns (scale, offset), each (num_cameras, 3): `x * scale + offset`."""
        shape = (num_cameras, 3)
        return np.full(shape, 2.0 / 255.0, np.float32), np.full(shape, -1.0, np.float32)

    def __call__(self, sample: Sample) -> Sample:
        return normalize_images(self, sample)


@dataclass(frozen=True, kw_only=True)
class NormalizeImages:
    """`(x - mean) / std` per camera and channel, on the 0..255 scale."""

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

    def __call__(self, sample: Sample) -> Sample:
        return normalize_images(self, sample)


def check_image(image: NDArray[np.uint8]) -> None:
    """Refuses anything but (height, width, 3) uint8."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise DataError(
            f"images: expected (height, width, 3) uint8, got {image.shape} {image.dtype}"
        )


def normalize_images(norm: Any, sample: Sample) -> Sample:
    """Applies an image normalisation; (C, h, w, 3) uint8 -> (C, 3, h, w) float32."""
    images = sample["images"]
    scale, offset = norm.affine(len(images))
    # Channels first while a pixel is one byte, not four.
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    values = np.multiply(planes, scale[:, :, None, None], dtype=np.float32)
    values += offset[:, :, None, None]
    return {**sample, "images": values}
