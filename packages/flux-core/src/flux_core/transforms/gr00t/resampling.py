"""Antialiased resizing as PyTorch does it, in numpy: the sums of GR00T's training pictures.

PIL's filters are the same, but its rounding is not: it has changed between versions, and pictures
of bytes would differ by one level in up to a fifth of their values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

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
_BAND = 16
"""Rows of a result that are summed at once: with more, most weights are 0; with fewer, a call costs
more than its sums."""
_WHOLE = 2e-4
"""How far sums of equal bytes may be from whole numbers by rounding."""
_MIDDLE = 128.0
"""Subtracted from bytes, so that sums are smaller."""


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
    values = image.astype(np.float32)
    values *= np.float32(1.0 / 255.0)
    values = _banded(values, _bands(len(values), height, kernel))
    values = _banded(_turned(values), _bands(image.shape[1], width, kernel))
    return _turned(values)


def resample_cut(
    image: NDArray[np.uint8], height: int, width: int, kernel: Kernel
) -> NDArray[np.uint8]:
    """Resizes an image as floats, and cuts them to bytes.

    Where all bytes are the same, as in an overexposed part, the sums are whole but for PyTorch's
    rounding, which decides whether the cut gives a level less. So it is repeated there.

    Args:
        image: (h, w, C) uint8.
        height: of the result.
        width: of the result.
        kernel: as for `resample`.
    """
    levels = resample(image, height, width, kernel)
    levels *= np.float32(255.0)
    nearest = np.rint(levels)
    cut = levels.astype(np.uint8)
    rows, columns, channels = np.nonzero((np.abs(levels - nearest) < _WHOLE) & (nearest > 0.0))
    whole = nearest[rows, columns, channels].astype(np.uint8)
    value = _even_rows(image.shape[1], width, kernel)[columns, whole]
    weights, _ = _float_weights(image.shape[0], height, kernel)
    value = _chained(value, weights[rows], 1)
    cut[rows, columns, channels] = (value * np.float32(255.0)).astype(np.uint8)
    return cut


@lru_cache(maxsize=32)
def _even_rows(size: int, wanted: int, kernel: Kernel) -> NDArray[np.float32]:
    """(wanted, 256): what PyTorch makes of rows that all have one byte."""
    weights, counts = _float_weights(size, wanted, kernel)
    values = np.arange(256, dtype=np.float32) / np.float32(255.0)
    grid = np.broadcast_to(values, (wanted, 256)).ravel()
    # Of the taps after the first one, compilers multiply four at once; only the rest is fused.
    fused_from = 1 + (counts - 1) // 4 * 4
    each = _chained(grid, np.repeat(weights, 256, axis=0), np.repeat(fused_from, 256))
    return each.reshape(wanted, 256)


def _chained(
    values: NDArray[np.float32], weights: NDArray[np.float32], fused_from: NDArray[np.int64] | int
) -> NDArray[np.float32]:
    """(N), (N, taps) -> (N): each value times its weights, added one by one. From tap `fused_from`
    on, product and sum are rounded together."""
    total = values * weights[:, 0]
    exact = values.astype(np.float64)
    for tap in range(1, weights.shape[1]):
        fused = (total + exact * weights[:, tap]).astype(np.float32)
        is_fused = np.asarray(tap >= fused_from)
        apart = fused if is_fused.all() else total + values * weights[:, tap]
        total = np.where(is_fused, fused, apart)
    return total


@lru_cache(maxsize=32)
def _float_weights(
    size: int, wanted: int, kernel: Kernel
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(wanted, taps): the weights of `_taps` as PyTorch rounds them, and how many each row has."""
    scale = np.float32(size / wanted)
    stretch = max(scale, np.float32(1.0))
    reach = np.float32(HALF_WIDTHS[kernel]) * stretch
    centers = (scale * (np.arange(wanted) + 0.5)).astype(np.float32)
    first = np.maximum(((centers - reach).astype(np.float64) + 0.5).astype(np.int64), 0)
    last = np.minimum(((centers + reach).astype(np.float64) + 0.5).astype(np.int64), size)
    places = first[:, None] + np.arange((last - first).max())
    away = (places.astype(np.float32) - centers[:, None]).astype(np.float64) + 0.5
    near = (away * (np.float32(1.0) / stretch)).astype(np.float32)
    weights = np.where(places < last[:, None], kernel(near.astype(np.float64)), 0.0)
    weights = weights.astype(np.float32)
    total = np.zeros(wanted, np.float32)
    for tap in weights.T:
        total += tap
    return weights / total[:, None], last - first


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


class _Band(NamedTuple):
    """Some neighbouring rows of a result, and the rows of which they are sums."""

    target: slice
    source: slice
    weights: NDArray[np.floating]


def _rows_of_bytes(image: NDArray[np.uint8], size: int, kernel: Kernel) -> NDArray[np.uint8]:
    bands, middle, bits = _byte_bands(len(image), size, kernel)
    # All sums are whole numbers that a float holds exactly, in whatever order they are added.
    values = image.astype(bands[0].weights.dtype)
    values -= _MIDDLE
    total = _banded(values, bands)
    total += middle[:, None, None]
    total *= 0.5**bits
    np.floor(total, out=total)
    return np.clip(total, 0.0, 255.0, out=total).astype(np.uint8)


def _banded(values: NDArray[Any], bands: tuple[_Band, ...]) -> NDArray[Any]:
    """(rows, columns, C) -> (rows of the result, columns, C)."""
    flat = values.reshape(len(values), -1)
    total = np.empty((bands[-1].target.stop, flat.shape[1]), flat.dtype)
    for band in bands:
        np.matmul(band.weights, flat[band.source], out=total[band.target])
    return total.reshape(len(total), *values.shape[1:])


@lru_cache(maxsize=32)
def _bands(size: int, wanted: int, kernel: Kernel) -> tuple[_Band, ...]:
    places, weights = _taps(size, wanted, kernel)
    return _cut(size, places, weights.astype(np.float32))


@lru_cache(maxsize=32)
def _byte_bands(
    size: int, wanted: int, kernel: Kernel
) -> tuple[tuple[_Band, ...], NDArray[np.floating], int]:
    """Returns bands with whole weights, what to add to each row, and the bits after the point."""
    places, weights = _taps(size, wanted, kernel)
    bits = _precision(float(weights.max()))
    scaled = weights * (1 << bits)
    whole = np.trunc(scaled + np.copysign(0.5, scaled))
    is_small = _MIDDLE * np.abs(whole).sum(axis=1).max() < 1 << 24
    dtype = np.float32 if is_small else np.float64
    middle = _MIDDLE * whole.sum(axis=1) + (1 << (bits - 1))
    return _cut(size, places, whole.astype(dtype)), middle.astype(dtype), bits


def _cut(size: int, places: NDArray[np.int64], weights: NDArray[np.floating]) -> tuple[_Band, ...]:
    """Cuts the matrix of all weights, in which nearly all are 0, into dense bands."""
    matrix = np.zeros((len(places), size), weights.dtype)
    np.add.at(matrix, (np.arange(len(places))[:, None], places), weights)
    bands: list[_Band] = []
    for first in range(0, len(places), _BAND):
        target = slice(first, min(first + _BAND, len(places)))
        source = slice(int(places[target].min()), int(places[target].max()) + 1)
        bands.append(_Band(target, source, np.ascontiguousarray(matrix[target, source])))
    return tuple(bands)


def _turned(image: NDArray[Any]) -> NDArray[Any]:
    """Swaps rows and columns; whole pixels are moved, which is faster than single channels."""
    channels = image.shape[2]
    pixel = np.dtype((np.void, image.itemsize * channels))
    pixels = np.ascontiguousarray(image).view(pixel)[..., 0]
    return np.ascontiguousarray(pixels.T).view(image.dtype).reshape(*pixels.T.shape, channels)


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
