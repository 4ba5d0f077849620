"""Reads camera frames of a dataset from its videos, its stored images or a frame cache."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flux_core.config import did_you_mean
from flux_core.errors import DataError
from flux_core.transforms import ImageResize

from ..lerobot.dataset import LeRobotDataset
from ..lerobot.metadata import image_size
from ..parquet.arrow import footer_of
from ..parquet.image_rows import LARGE_GROUP_BYTES, MAX_CACHED_BYTES
from ..pictures.row_pictures import RowPictures
from ..pictures.stored_image import StoredImage
from ..repairable import naming_repair
from ..video.pairing import TOLERANCE
from ..video.reader import VideoReader
from .frame_cache import find_cache
from .raw_sample import RawSample
from .resize import resize_frame

logger = logging.getLogger("flux.data")

_shared_reader = VideoReader()
"""The open decoders of this process, shared by all its datasets."""

_thread = threading.local()


def use_own_decoders() -> None:
    """Gives this thread its own decoders: two threads would wait for each other at one file."""
    _thread.reader = VideoReader()


class FrameSource:
    """Reads the frames of some cameras, resized while they are decoded."""

    def __init__(
        self,
        source: LeRobotDataset,
        cameras: Sequence[str],
        resize: ImageResize | None = None,
        *,
        cache_folder: Path | None = None,
    ) -> None:
        """Finds the cameras and their cache.

        Args:
            source: the dataset.
            cameras: the columns of the cameras, in the network's order.
            resize: brings every frame to one size; None leaves frames as recorded.
            cache_folder: where to look for a frame cache; default: beside the dataset.

        Raises:
            DataError: the dataset lacks a camera.
        """
        check_cameras(source, cameras)
        self.source, self.cameras, self.resize = source, tuple(cameras), resize
        features = source.info["features"]
        self._sizes = {key: image_size(features[key]) for key in cameras}
        self._stored = {key for key in cameras if key in source.image_keys}
        self._cache = find_cache(source, cameras, resize, cache_folder)
        self._cached = set() if self._cache is None else set(self._cache.cameras)
        if self._stored - self._cached and (hint := hint_at_slow_images(source)):
            logger.warning("%s: %s", source.root, hint)
        self._row_pictures = RowPictures(source)

    def read(self, sample: RawSample) -> list[NDArray[np.uint8]]:
        """Returns a frame of every camera, (height, width, 3) uint8 each, resized.

        Raises:
            DataError: a frame is missing, cannot be decoded, or differs in size from `info.json`.
        """
        with naming_repair(self.source.root):
            frames = [self.picture(sample, key) for key in self.cameras]
        if self.resize is None:
            return frames
        return [resize_frame(frame, self.resize) for frame in frames]

    def picture(self, sample: RawSample, camera: str) -> NDArray[np.uint8]:
        """Returns a camera's frame, (height, width, 3) uint8, as recorded or as cached.

        Raises:
            DataError: as `read`.
        """
        if self._cache is not None and camera in self._cached:
            return self._cache.frame(camera, sample.episode_index, sample.frame)
        if camera in self._stored:
            stored = self._stored_image(sample, camera)
            image, where = stored.read(), stored.where
        else:
            image, where = self._video_frame(sample, camera)
        height, width = self._sizes[camera]
        if image.shape[:2] != (height, width):
            raise DataError(
                f"{where}: expected {height}x{width} (info.json), "
                f"got {image.shape[0]}x{image.shape[1]}"
            )
        return image

    def _stored_image(self, sample: RawSample, camera: str) -> StoredImage:
        data = self.source.encoded_image(sample.position, camera, sample.frame)
        where = f"{self.source.where(sample.position)}, {camera}, frame {sample.frame}"
        return StoredImage(data=data, root=self.source.root, where=where)

    def _video_frame(self, sample: RawSample, camera: str) -> tuple[NDArray[np.uint8], str]:
        reader = getattr(_thread, "reader", _shared_reader)
        segment = self._row_pictures.check(camera, sample.position, sample.times_s, reader)
        # A frame may be off by at most half a period; beyond that it is a different frame.
        tolerance_s = TOLERANCE / self.source.fps
        time_s = segment.start_s + sample.time_s
        return reader.frame(segment.path, time_s, tolerance_s), f"{segment.path}: {camera}"

    @property
    def kinds(self) -> str:
        """The sources of the frames: 'videos', 'images', or 'cache' and its size."""
        videos = "videos"
        if self._cache is not None and self.resize is not None:
            videos = f"cache {self.resize.height}x{self.resize.width}"
        found = ["images" if key in self._stored - self._cached else videos for key in self.cameras]
        return " and ".join(dict.fromkeys(found)) or "none"


def hint_at_slow_images(source: LeRobotDataset) -> str:
    """Returns a hint to pack the dataset if its images are slow to read at random; '' otherwise.

    That is so if row groups are large and the images of the dataset do not fit in memory. Looks at
    the first data file only.
    """
    if not source.image_keys:
        return ""
    path = source.stated_file(0)
    try:
        size = int(footer_of(path).group_bytes(source.image_keys).max(initial=0))
        if size <= LARGE_GROUP_BYTES or source.image_bytes() <= MAX_CACHED_BYTES:
            return ""
    except DataError:  # told where the images are read
        return ""
    return (
        f"{path.name} has row groups with {size / 1e6:.0f} MB of images, which are slow to read at "
        f"random. Run `flux-data pack {source.root}` before training"
    )


def check_cameras(source: LeRobotDataset, cameras: Sequence[str]) -> None:
    """Refuses the first camera that the dataset lacks, or that is a depth map.

    Raises:
        DataError: it names the nearest camera, and lists them all.
    """
    available = source.camera_keys
    for key in cameras:
        if key in source.depth_keys:
            raise DataError(
                f"{source.root}: {key}: expected a camera with colours, got a depth map "
                f"(info.json). Use {' or '.join(available) or 'a dataset with cameras'} instead"
            )
        if key not in available:
            raise DataError(
                f"{source.root}: expected a camera of the dataset "
                f"({', '.join(available) or 'it has none'}), got {key!r}."
                f"{did_you_mean(key, available)}"
            )
