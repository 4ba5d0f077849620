"""Antialiased resizing as PyTorch does it, in numpy: the sums of GR00T's training pictures.

PIL's filters are the same, but its rounding is not: it has changed between versions, and pictures
of bytes would differ by one level in up to a fifth of their values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Kernel = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """A triangle of half-width 1."""
    return np.maximum(1.0 - np.abs(x), 0.0)


def bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic of half-width 2 with a = -0.5."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


HALF_WIDTHS: dict[Kernel, float] = {bilinear: 1.0, bicubic: 2.0}


def resample(
    image: NDArray[np.uint8], height: int, width: int, kernel: Kernel
) -> NDArray[np.float32]:
    """Resizes an image as floats from 0 to 1 (PyTorch's path for floats).

    Args:
        image: (h, w, C) uint8.
        height: of the result.
        width: of the result.
        kernel: `bilinear` or `bicubic`, widened by the scale where the image becomes smaller.

    Returns:
        (height, width, C) float32.
    """
    values = _turned(image).astype(np.float32) / np.float32(255.0)
    values = _rows(values, width, kernel)
    return _rows(_turned(values), height, kernel)


def resample_bytes(
    image: NDArray[np.uint8], height: int, width: int, kernel: Kernel
) -> NDArray[np.uint8]:
    """Resizes an image of bytes (PyTorch's path for bytes: weights of 16 bits, bytes in between).

    Args:
        image: (h, w, C) uint8.
        height: of the result.
        width: of the result.
        kernel: as for `resample`.
    """
    image = _rows_of_bytes(_turned(image), width, kernel)
    return _rows_of_bytes(_turned(image), height, kernel)


def _rows(values: NDArray[np.float32], size: int, kernel: Kernel) -> NDArray[np.float32]:
    places, weights = _taps(len(values), size, kernel)
    total = np.zeros((size, *values.shape[1:]), np.float32)
    return _add_rows(total, values, places, weights.astype(np.float32))


def _rows_of_bytes(image: NDArray[np.uint8], size: int, kernel: Kernel) -> NDArray[np.uint8]:
    places, weights = _taps(len(image), size, kernel)
    bits = _precision(float(weights.max()))
    scaled = weights * (1 << bits)
    whole = np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int32)
    total = np.full((size, *image.shape[1:]), 1 << (bits - 1), np.int32)
    _add_rows(total, image.astype(np.int32), places, whole)
    total >>= bits
    return np.clip(total, 0, 255, out=total).astype(np.uint8)


def _turned(image: NDArray[Any]) -> NDArray[Any]:
    """Swaps rows and columns; whole pixels are moved, which is faster than single channels."""
    channels = image.shape[2]
    pixel = np.dtype((np.void, image.itemsize * channels))
    pixels = np.ascontiguousarray(image).view(pixel)[..., 0]
    return np.ascontiguousarray(pixels.T).view(image.dtype).reshape(*pixels.T.shape, channels)


def _add_rows(
    total: NDArray[Any], image: NDArray[Any], places: NDArray[np.int64], weights: NDArray[Any]
) -> NDArray[Any]:
    """Adds to row i of `total`, in place, the rows at places[i] times weights[i]."""
    part = np.empty_like(total)
    for tap in range(places.shape[1]):
        np.take(image, places[:, tap], axis=0, out=part, mode="clip")
        part *= weights[:, tap, None, None]
        total += part
    return total


@lru_cache(maxsize=32)
def _taps(size: int, wanted: int, kernel: Kernel) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Returns, for each of `wanted` values, the places that it averages and their weights."""
    scale = size / wanted
    stretch = max(scale, 1.0)
    reach = HALF_WIDTHS[kernel] * stretch
    centers = scale * (np.arange(wanted) + 0.5)
    first = np.maximum((centers - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((centers + reach + 0.5).astype(np.int64), size)
    places = first[:, None] + np.arange((last - first).max())
    weights = kernel((places - centers[:, None] + 0.5) / stretch)
    weights = np.where(places < last[:, None], weights, 0.0)
    return np.minimum(places, size - 1), weights / weights.sum(axis=1, keepdims=True)


def _precision(largest: float) -> int:
    """Returns the bits after the point of weights that still fit into 16 bits."""
    bits = 0
    while bits < 22 and int(0.5 + largest * (1 << (bits + 1))) < 1 << 15:
        bits += 1
    return bits
