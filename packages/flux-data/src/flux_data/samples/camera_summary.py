"""What the cameras of a training set look like, from a few frames spread over its episodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .windows import ParquetDataset

NUM_FRAMES = 32
THUMBNAIL_SIZE = (24, 32)
"""The largest height and width of a thumbnail, in pixels."""

LUMINANCE = np.array([0.299, 0.587, 0.114])
"""The weights of red, green and blue (ITU-R BT.601)."""

CAMERA_PREFIX = "observation.images."


def camera_names(group: Sequence[ParquetDataset]) -> tuple[str, ...]:
    """Returns the names of the group's cameras, in the network's order."""
    cameras = group[0].parts[0].frames.cameras
    return tuple(key.removeprefix(CAMERA_PREFIX) for key in cameras)


def summarize_cameras(group: Sequence[ParquetDataset]) -> dict[str, object]:
    """Returns each camera's summary as plain data, in the network's order.

    `mean` is the mean red, green and blue and `contrast` the standard deviation of the luminance
    within a frame, both 0 to 255 and averaged over `frames` frames; `thumbnail` is the first frame,
    (height, width, 3) with at most 24 x 32 pixels.

    Raises:
        DataError: a frame is missing or cannot be decoded.
    """
    pictures = [list[NDArray[np.uint8]]() for _ in camera_names(group)]
    means = [list[NDArray[np.float64]]() for _ in pictures]
    contrasts = [list[float]() for _ in pictures]
    for frames in _frames(group):
        for camera, frame in enumerate(frames):
            if not pictures[camera]:
                pictures[camera].append(frame)
            means[camera].append(frame.reshape(-1, 3).mean(axis=0))
            contrasts[camera].append(float((frame @ LUMINANCE).std()))
    return {
        name: {
            "frames": len(means[camera]),
            "mean": np.mean(means[camera], axis=0).round(3).tolist(),
            "contrast": round(float(np.mean(contrasts[camera])), 3),
            "thumbnail": _thumbnail(pictures[camera][0]).tolist(),
        }
        for camera, name in enumerate(camera_names(group))
        if means[camera]
    }


def _frames(group: Sequence[ParquetDataset]) -> Iterator[list[NDArray[np.uint8]]]:
    """Yields the frames of all cameras of evenly spread samples, as recorded."""
    ends = np.cumsum([len(dataset) for dataset in group])
    total = int(ends[-1])
    for index in np.unique(np.linspace(0, total - 1, min(NUM_FRAMES, total)).astype(int)):
        number = int(np.searchsorted(ends, index, side="right"))
        yield group[number].pictures(int(index) - (int(ends[number - 1]) if number else 0))


def _thumbnail(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = frame.shape[:2]
    scale = min(THUMBNAIL_SIZE[0] / height, THUMBNAIL_SIZE[1] / width, 1.0)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))
