"""The first training transform: from dataset columns and videos to the names the model knows."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from flux_core.errors import ConfigError, DataError
from flux_core.transforms import DatasetInputs, Sample

from ..lerobot.dataset import VideoSegment
from ..lerobot.metadata import image_size
from ..video.reader import VideoReader
from .frame_cache import CachedFrame
from .resize import resize_frame

_shared_reader = VideoReader()
"""Open decoders of this process, shared by all its datasets."""

_thread = threading.local()


def use_own_decoders() -> None:
    """Gives this thread decoders of its own: two threads would wait for each other at one file."""
    _thread.reader = VideoReader()


BROKEN = (OSError, ValueError, TypeError, SyntaxError, EOFError, LookupError, ArithmeticError)
BROKEN += (struct.error, zlib.error)
"""What Pillow raises for damaged files of one kind or another."""

KEPT = ("stats", "task_description", "action_masks", "rng")
"""What later transforms may need, whatever the config asks for."""


@dataclass(frozen=True, kw_only=True)
class ProcessParquetInputs(DatasetInputs):
    """Copies `parquet_keys` (renamed by `name_mappings`) and decodes the frame of each video key.

    `images` is (C, height, width, 3) uint8 in the order of `video_keys`, `image_masks` is True for
    each; `num_padding_imgs` adds black images with mask False. Where a resize follows it is done at
    once, and the transform finds nothing left to do.
    """

    parquet_keys: tuple[str, ...]
    video_keys: tuple[str, ...]
    name_mappings: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {"observation.state": ("states",)}
    )
    num_padding_imgs: int = 0

    def __call__(self, sample: Sample) -> Sample:
        out: Sample = {key: sample[key] for key in KEPT if key in sample}
        for key in self.parquet_keys:
            if key not in sample:
                raise DataError(f"ProcessParquetInputs.parquet_keys: the sample has no {key!r}")
            for name in self.name_mappings.get(key, (key,)):
                out[name] = sample[key]
        frames = self._decode(sample)
        if not frames:
            raise ConfigError("ProcessParquetInputs.video_keys: expected at least one, got none")
        if len({frame.shape for frame in frames}) > 1:
            sizes = [f"{k} {_size(f)}" for k, f in zip(self.video_keys, frames, strict=True)]
            raise DataError(f"images: expected one size, got {', '.join(sizes)}. Resize them")
        padding = [np.zeros_like(frames[0])] * self.num_padding_imgs
        out["camera_names"] = self.video_keys
        out["images"] = np.stack(frames + padding)
        out["image_masks"] = np.arange(len(frames) + len(padding)) < len(frames)
        return out

    def _decode(self, sample: Sample) -> list[NDArray[np.uint8]]:
        resize = sample.get("resize")
        frames = [self.picture(sample, key) for key in self.video_keys]
        return frames if resize is None else [resize_frame(frame, resize) for frame in frames]

    def picture(self, sample: Sample, key: str) -> NDArray[np.uint8]:
        """One camera's frame, (height, width, 3) uint8: as recorded, or as a cache has it."""
        place = sample["videos"][key]
        if isinstance(place, CachedFrame):
            return place.read()
        if isinstance(place, StoredImage):
            image, where = place.read(), place.where
        else:
            image, where = self._video_frame(sample, place), f"{place.path}: {key}"
        height, width = image_size(sample["info"]["features"][key])
        if image.shape[:2] != (height, width):
            expected = f"expected {height}x{width} (info.json)"
            raise DataError(f"{where}: {expected}, got {_size(image)}")
        return image

    @staticmethod
    def _video_frame(sample: Sample, segment: VideoSegment) -> NDArray[np.uint8]:
        # A frame may be off by half a period at most: anything else is another frame.
        tolerance_s = 0.5 / sample["fps"]
        time_s = segment.start_s + float(sample["timestamp"])
        reader = getattr(_thread, "reader", _shared_reader)
        return reader.frame(segment.path, time_s, tolerance_s)


def dataset_inputs(columns: tuple[str, ...], cameras: tuple[str, ...]) -> DatasetInputs:
    """The usual inputs: these columns, and one frame of each camera."""
    return ProcessParquetInputs(parquet_keys=columns, video_keys=cameras)


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """One image of a parquet column: its bytes, or the path of its file below `root`."""

    data: bytes | str | None
    root: Path
    where: str

    def read(self) -> NDArray[np.uint8]:
        """(height, width, 3) uint8 RGB."""
        if not isinstance(self.data, str):
            return decode_image(self.data, self.where)
        path = self.root / self.data
        if not path.is_file():
            raise DataError(f"{self.where}: the image file {path} is missing")
        return decode_image(path.read_bytes(), f"{self.where}, {path}")


def decode_image(data: bytes | None, where: str) -> NDArray[np.uint8]:
    """A PNG or JPEG, (height, width, 3) uint8 RGB; grey ones get three equal channels.

    Raises:
        DataError: it is none, is damaged, has more than 8 bits of grey (a depth map is no camera's
            picture), or is not opaque.
    """
    if not isinstance(data, bytes):
        raise DataError(f"{where}: expected an image, got {type(data).__name__}")
    try:
        with Image.open(io.BytesIO(data)) as image:
            # As `datasets` does: a camera's JPEG may say how it was held.
            ImageOps.exif_transpose(image, in_place=True)
            image.load()
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: the image cannot be decoded ({error})") from error
    if image.mode[0] in "IF":
        raise DataError(f"{where}: expected 8 bits a channel, got mode {image.mode} (a depth map?)")
    if image.has_transparency_data and not _is_opaque(image):
        raise DataError(f"{where}: expected an opaque image, got a transparent one ({image.mode})")
    return np.array(image.convert("RGB"))


def _is_opaque(image: Image.Image) -> bool:
    return image.convert("RGBA").getchannel("A").getextrema() == (255, 255)


def _size(image: NDArray[np.uint8]) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"
