"""Statistics of one episode, as LeRobot stores them in the metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..video.packets import packets_of
from ..video.pairing import frames_of_rows
from ..video.pictures import bits_of, pictures_of, samples_of
from ..video.reader import VideoReader
from .dataset import VideoSegment

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
"""The statistics that LeRobot v3.0 adds."""

MAX_SAMPLED_FRAMES = 100
"""The number of frames that LeRobot samples for the statistics of a video."""

Stats = Mapping[str, list[Any]]


def column_stats(values: NDArray[Any], quantiles: bool = False) -> dict[str, list[Any]]:
    """Returns statistics of a column, (frames,) or (frames, dim), as lists of `dim` numbers."""
    data = values.reshape(len(values), -1)
    stats = {
        "min": data.min(axis=0).tolist(),
        "max": data.max(axis=0).tolist(),
        "mean": data.mean(axis=0, dtype=np.float64).tolist(),
        "std": data.std(axis=0, dtype=np.float64).tolist(),
        "count": [len(data)],
    }
    if quantiles:
        found = np.quantile(data.astype(np.float64), list(QUANTILES.values()), axis=0)
        stats |= dict(zip(QUANTILES, found.tolist(), strict=True))
    return stats


class ImageStats:
    """Computes statistics of a camera frame by frame, without keeping images."""

    def __init__(self) -> None:
        self._frames = self._pixels = 0
        self._sum: Any = 0.0
        self._sum_of_squares: Any = 0.0
        self._min: Any = np.inf
        self._max: Any = -np.inf

    def add(self, image: NDArray[Any]) -> None:
        """Adds one (height, width, channels) frame, uint8 or uint16."""
        pixels = image.reshape(-1, image.shape[-1])
        values = pixels.astype(np.float32)  # sums of integers: rounding stays far below 1e-6
        self._frames += 1
        self._pixels += len(pixels)
        self._sum += values.sum(axis=0, dtype=np.float64)
        self._sum_of_squares += np.einsum("pc,pc->c", values, values, dtype=np.float64)
        self._min = np.minimum(self._min, pixels.min(axis=0))
        self._max = np.maximum(self._max, pixels.max(axis=0))

    def result(self, white: float = 255.0) -> dict[str, Any]:
        """Returns statistics per channel, (channels, 1, 1) with `white` as 1, and the count."""
        mean = self._sum / self._pixels
        variance = np.maximum(self._sum_of_squares / self._pixels - mean**2, 0.0)
        values = {"min": self._min, "max": self._max, "mean": mean, "std": np.sqrt(variance)}
        shaped = {key: (value / white).reshape(-1, 1, 1).tolist() for key, value in values.items()}
        return {**shaped, "count": [self._frames]}


def sampled_image_stats(
    segment: VideoSegment, times_s: NDArray[np.float64], fps: float, channels: int = 3
) -> dict[str, Any]:
    """Returns statistics of evenly spread frames of a video.

    Args:
        segment: where the episode is.
        times_s: its rows' times.
        fps: the rate of the rows.
        channels: 3, or 1 for grey pictures and distances, of as many bits as the video has.
    """
    last = len(times_s) - 1
    chosen = np.unique(np.linspace(0, last, MAX_SAMPLED_FRAMES).round().astype(int))
    stats, reader = ImageStats(), VideoReader(max_open=1)
    if channels == 1 or reader.is_depth(segment.path):
        grey = _grey_stats(segment, times_s[chosen], fps)
        return {k: v if k == "count" else v * channels for k, v in grey.items()}
    for time_s in times_s[chosen]:
        stats.add(reader.frame(segment.path, segment.start_s + time_s, 0.5 / fps))
    return stats.result()


def _grey_stats(segment: VideoSegment, times_s: NDArray[np.float64], fps: float) -> dict[str, Any]:
    stamps_s = packets_of(segment.path).stamps_s
    frames = frames_of_rows(stamps_s, times_s, segment.start_s, fps, str(segment.path))
    stats, white = ImageStats(), 1.0
    for picture in pictures_of(segment.path, frames):
        bits = bits_of(picture.format)
        white = 2.0**bits - 1
        if bits == 8:
            image = picture.to_ndarray(format="gray")
        else:
            size = picture.height * picture.width
            image = samples_of(picture)[:size].reshape(picture.height, picture.width)
        stats.add(image[..., None])
    return stats.result(white)


def is_complete(stats: object, channels: int) -> bool:
    """Whether these are a camera's statistics, with everything that `pooled` needs."""
    if not isinstance(stats, Mapping):
        return False
    try:
        values = [np.asarray(stats[name], np.float64) for name in ("min", "max", "mean", "std")]
        count = np.asarray(stats["count"], np.float64)
    except (KeyError, TypeError, ValueError):
        return False
    are_whole = all(v.shape == (channels, 1, 1) and np.isfinite(v).all() for v in values)
    return are_whole and count.shape == (1,) and bool(count[0] > 0)


def pooled(parts: Sequence[Stats]) -> dict[str, Any]:
    """Combines the statistics of several episodes.

    Quantiles are left out: they cannot be computed from the quantiles of the parts.
    """
    counts = np.asarray([part["count"][0] for part in parts], dtype=np.float64)
    arrays = {k: np.asarray([p[k] for p in parts], float) for k in ("min", "max", "mean", "std")}
    weights = (counts / counts.sum()).reshape(-1, *[1] * (arrays["mean"].ndim - 1))
    mean = (weights * arrays["mean"]).sum(axis=0)
    square = (weights * (arrays["std"] ** 2 + arrays["mean"] ** 2)).sum(axis=0)
    return {
        "min": arrays["min"].min(axis=0).tolist(),
        "max": arrays["max"].max(axis=0).tolist(),
        "mean": mean.tolist(),
        "std": np.sqrt(np.maximum(square - mean**2, 0.0)).tolist(),
        "count": [int(counts.sum())],
    }
