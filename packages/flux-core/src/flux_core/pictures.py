"""Small pictures of a camera, and how alike they are: the same in training and on the robot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.floating] | NDArray[np.uint8]

THUMBNAIL_SIZE = (24, 32)
"""The largest height and width of a thumbnail, in pixels."""

LUMINANCE = np.array([0.299, 0.587, 0.114])
"""The weights of red, green and blue (ITU-R BT.601)."""

COLOURED = 0.15
"""The share of a pixel's brightness by which red and blue differ where it counts as coloured."""

SUMMARY_PICTURES = ("thumbnail", "start")
"""The parts of a camera's summary, in checkpoints and bundles, that show the scene."""

_DARK = 24.0
"""The brightness below which a pixel has no colour: there, noise would look like one."""
_OVEREXPOSED, _PALE = 240.0, 0.35
"""A pixel with a channel so bright, whose channels differ by a smaller share, may be cut off."""
_LOG_OFFSET = 16.0
"""Added to the luminance before its logarithm, in which a brighter light is a constant."""
_LEAST_SPREADS = (0.15, 0.08, 0.05)
"""The least standard deviation of a pixel's log luminance, of the step to its neighbour, and of
its colour: no pixel counts as perfectly steady."""


def without_pictures(cameras: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, object]]:
    """Returns the summaries of cameras without what shows the scene."""
    return {
        name: {key: value for key, value in camera.items() if key not in SUMMARY_PICTURES}
        for name, camera in cameras.items()
    }


def thumbnail_shape(height: int, width: int) -> tuple[int, int]:
    """Returns the height and width of a frame's thumbnail, which keeps its aspect ratio."""
    scale = min(THUMBNAIL_SIZE[0] / height, THUMBNAIL_SIZE[1] / width, 1.0)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def shrink(frame: Picture, height: int, width: int) -> NDArray[np.float32]:
    """Averages a frame over a grid of boxes.

    Args:
        frame: (h, w, 3), 0 to 255.
        height: rows of the result; a frame with fewer rows repeats some.
        width: its columns, likewise.

    Returns:
        (height, width, 3) float32, 0 to 255.
    """
    rows = _averages(frame.shape[0], height)
    columns = _averages(frame.shape[1], width)
    # Not `@`: its library keeps a CPU busy per thread, and several processes starve each other.
    by_rows = np.einsum("yh,hwc->ywc", rows, frame.astype(np.float32))
    return np.einsum("xw,ywc->yxc", columns, by_rows).astype(np.float32)


def thumbnail(frame: Picture) -> NDArray[np.float32]:
    """Returns the frame's thumbnail, (height, width, 3) float32, at most 24 x 32."""
    return shrink(frame, *thumbnail_shape(frame.shape[0], frame.shape[1]))


def red_against_blue(small: Picture) -> NDArray[np.float64]:
    """Returns by how much red exceeds blue, as a share of the brightness, (height, width).

    The median over the pixels that are bright enough is subtracted, so that the colour of the light
    hardly matters. The result is 0 where a pixel is too dark or overexposed. Exchanged channels
    change the sign.
    """
    pixels = np.asarray(small, np.float64)
    brightness, most = pixels.mean(axis=-1), pixels.max(axis=-1)
    difference = (pixels[..., 0] - pixels[..., 2]) / (brightness + 1.0)
    is_pale = most - pixels.min(axis=-1) < _PALE * most
    is_bright = (brightness >= _DARK) & ~((most >= _OVEREXPOSED) & is_pale)
    if not is_bright.any():
        return np.zeros_like(brightness)
    return np.where(is_bright, difference - np.median(difference[is_bright]), 0.0)


def colour_shares(small: Picture) -> tuple[float, float]:
    """Returns the shares of clearly red and of clearly blue pixels, relative to the median."""
    difference = red_against_blue(small)
    return float((difference > COLOURED).mean()), float((difference < -COLOURED).mean())


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """How alike two pictures are; each is a correlation, -1 to 1.

    Attributes:
        shape: what is bright and where edges are, whatever the light.
        colour: what is red and what is blue, whatever the light; exchanged channels negate it.
    """

    shape: float
    colour: float


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a camera usually shows: the average of some pictures, and where they differ.

    Attributes:
        average: (height, width, 3), 0 to 255.
        spread: (height, width), the standard deviation of the luminance.
    """

    average: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def of(cls, pictures: Sequence[Picture]) -> Self:
        """Summarises pictures of one size.

        With few of them, the spread of a pixel is drawn towards that of the whole picture.
        """
        stack = np.asarray(pictures, np.float64)
        luminance = stack @ LUMINANCE
        variance = luminance.var(axis=0)
        count = len(stack)
        variance = (count * variance + 2 * variance.mean()) / (count + 2)
        return cls(average=stack.mean(axis=0), spread=np.sqrt(variance))

    def likeness(self, frame: Picture) -> Likeness:
        """Compares a frame of any size; pixels that always differ count less."""
        height, width = self.spread.shape
        small = shrink(frame, height, width)
        luminance = self.average @ LUMINANCE
        spread = self.spread / (luminance + _LOG_OFFSET)
        ours, theirs = _log(luminance), _log(small @ LUMINANCE)
        bright = _correlation(ours, theirs, _weights(spread, _LEAST_SPREADS[0]))
        steps = _steps(spread**2, sign=1) ** 0.5
        edges = _correlation(_steps(ours), _steps(theirs), _weights(steps, _LEAST_SPREADS[1]))
        colour = _correlation(
            red_against_blue(self.average),
            red_against_blue(small),
            _weights(spread, _LEAST_SPREADS[2]),
        )
        return Likeness(shape=(bright + edges) / 2, colour=colour)

    @property
    def colourfulness(self) -> float:
        """The standard deviation of what is red and what is blue."""
        return float(red_against_blue(self.average).std())


def least_likeness(pictures: Sequence[Picture]) -> float:
    """Returns how alike the most unusual of some pictures is to all the others, in shape."""
    return min(
        Reference.of([*pictures[:index], *pictures[index + 1 :]]).likeness(picture).shape
        for index, picture in enumerate(pictures)
    )


def _log(luminance: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.log(np.asarray(luminance, np.float64) + _LOG_OFFSET)


def _steps(values: NDArray[np.float64], sign: int = -1) -> NDArray[np.float64]:
    """Returns each pixel's step to the one below and to the one on its right, as one row."""
    down = values[1:] + sign * values[:-1]
    right = values[:, 1:] + sign * values[:, :-1]
    return np.concatenate([down.ravel(), right.ravel()])


def _weights(spread: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    return 1.0 / (spread**2 + least**2)


def _correlation(
    a: NDArray[np.float64], b: NDArray[np.float64], weights: NDArray[np.float64]
) -> float:
    """Returns the weighted correlation; 0 if one of the two is constant."""
    share = weights / weights.sum() if weights.size else weights
    a, b = a - (share * a).sum(), b - (share * b).sum()
    scale = float(np.sqrt((share * a * a).sum() * (share * b * b).sum()))
    return float((share * a * b).sum() / scale) if scale > 1e-9 else 0.0


def _averages(size: int, parts: int) -> NDArray[np.float32]:
    """Returns (parts, size): the weights with which each part averages the pixels under it."""
    edges = np.linspace(0.0, size, parts + 1)
    pixels = np.arange(size)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.clip(covered, 0.0, None)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
