"""Chooses the episodes that get pictures, and encodes each frame as a small WebP."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flux_core.errors import DataError, UsageError

from ..lerobot.dataset import LeRobotDataset
from ..pictures.row_pictures import RowPictures
from ..pictures.stored_image import StoredImage
from ..video.pairing import TOLERANCE
from ..video.reader import VideoReader

DEFAULT_EPISODES = 8
MAX_DEFAULT_PICTURES = 12_000
"""About 60 MB: a page that a browser opens without delay."""
# WebP takes two thirds of the space of a JPEG of the same quality.
QUALITY, EFFORT = 75, 2


def cameras_of(source: LeRobotDataset) -> tuple[str, ...]:
    """Returns the features that are pictures with colours."""
    return source.camera_keys


def choose_episodes(source: LeRobotDataset, wanted: str | None) -> list[int]:
    """Returns the positions of the episodes that get pictures.

    Args:
        source: the dataset.
        wanted: 'N-M', the first and last episode index; 'N', how many, evenly spread; None for as
            many as make a page of moderate size.

    Raises:
        UsageError: there are no such episodes.
    """
    if wanted is None:
        return _spread(source.num_episodes, _default_count(source))
    first, dash, last = wanted.partition("-")
    indices = source.episode_indices
    if not re.fullmatch(r"\d+(-\d+)?", wanted):
        raise UsageError(f"--episodes: expected N-M or how many, got {wanted!r}")
    if not dash:
        if not 1 <= int(first) <= source.num_episodes:
            raise UsageError(
                f"--episodes: expected 1 to {source.num_episodes} (all of them), got {wanted}. "
                f"To choose episode {first} alone: --episodes {first}-{first}"
            )
        return _spread(source.num_episodes, int(first))
    positions = np.flatnonzero((indices >= int(first)) & (indices <= int(last)))
    if not len(positions) or int(last) > indices.max():
        raise UsageError(
            f"--episodes: expected some of {indices.min()}-{indices.max()}, got {wanted}"
        )
    return positions.tolist()


def _default_count(source: LeRobotDataset) -> int:
    a_picture = source.num_frames / source.num_episodes * max(len(cameras_of(source)), 1)
    affordable = int(MAX_DEFAULT_PICTURES / max(a_picture, 1))
    return min(DEFAULT_EPISODES, source.num_episodes, max(affordable, 1))


def _spread(num_episodes: int, count: int) -> list[int]:
    return np.linspace(0, num_episodes - 1, count).round().astype(int).tolist()


def check_videos(source: LeRobotDataset, positions: Sequence[int]) -> None:
    """Raises an error for the first missing video file, before anything slow."""
    for position in positions:
        for key in (key for key in cameras_of(source) if key in source.video_keys):
            path = source.video(key, position).path
            if not path.is_file():
                index = source.episode_indices[position]
                raise DataError(f"{path}: the video of {key}, episode {index}, is missing")


class PictureReader:
    """Yields the frames of an episode, those of all cameras together."""

    def __init__(self, source: LeRobotDataset, height: int) -> None:
        """`height` is in pixels; smaller pictures keep their size."""
        self._source, self._height = source, height
        self._videos = VideoReader(max_open=max(len(source.video_keys), 1))
        self._row_pictures = RowPictures(source)
        self._threads = ThreadPoolExecutor(max(len(cameras_of(source)), 1), "view")

    def episode(self, position: int) -> Iterator[list[str]]:
        """Yields for each frame the WebP pictures of all cameras, as base64."""
        source = self._source
        keys = cameras_of(source)
        stored = source.read_episode(position, ["timestamp"])

        rows_s = stored["timestamp"].ravel().astype(np.float64)

        def picture(key: str, frame: int) -> str:
            if key in source.image_keys:
                where = f"{source.data_file(position)}: {key}, frame {frame}"
                data = source.encoded_image(position, key, frame)
                image = StoredImage(data=data, root=source.root, where=where)
                return self._encode(image.read())
            segment = self._row_pictures.check(key, position, rows_s, self._videos)
            time_s = segment.start_s + float(rows_s[frame])
            return self._encode(self._videos.frame(segment.path, time_s, TOLERANCE / source.fps))

        for frame in range(int(source.lengths[position])):
            yield list(self._threads.map(picture, keys, [frame] * len(keys)))

    def _encode(self, image: NDArray[np.uint8]) -> str:
        height, width = image.shape[:2]
        scale = min(self._height / height, 1.0)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        small = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        data = io.BytesIO()
        small.save(data, "WEBP", quality=QUALITY, method=EFFORT)
        return base64.b64encode(data.getvalue()).decode("ascii")
