"""The first training transform: from dataset columns and videos to the names the model knows."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flux_core.errors import DataError
from flux_core.transforms import Sample

from .frame_cache import CachedFrame
from .resize import resize_frame
from .video_reader import VideoReader

_shared_reader = VideoReader()
"""Open decoders of this process, shared by all its datasets."""

_thread = threading.local()


def use_own_decoders() -> None:
    """Gives this thread decoders of its own: two threads would wait for each other at one file."""
    _thread.reader = VideoReader()


KEPT = ("stats", "task_description", "action_masks", "rng")
"""What later transforms may need, whatever the config asks for."""


@dataclass(frozen=True, kw_only=True)
class ProcessParquetInputs:
    """Copies `parquet_keys` (renamed by `name_mappings`) and decodes the frame of each video key.

    `images` is (C, height, width, 3) uint8 in the order of `video_keys`, `img_masks` is True for
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
        padding = [np.zeros_like(frames[0])] * self.num_padding_imgs
        out["camera_names"] = self.video_keys
        out["images"] = np.stack(frames + padding)
        out["img_masks"] = np.arange(len(frames) + len(padding)) < len(frames)
        return out

    def _decode(self, sample: Sample) -> list[NDArray[np.uint8]]:
        resize = sample.get("resize")
        frames = [self._image(sample, key) for key in self.video_keys]
        return frames if resize is None else [resize_frame(frame, resize) for frame in frames]

    def _image(self, sample: Sample, key: str) -> NDArray[np.uint8]:
        segment = sample["videos"].get(key)
        if segment is None:
            return decode_image(sample[key], key)
        if isinstance(segment, CachedFrame):
            return segment.read()
        # A frame may be off by half a period at most: anything else is another frame.
        tolerance_s = 0.5 / sample["fps"]
        time_s = segment.start_s + float(sample["timestamp"])
        reader = getattr(_thread, "reader", _shared_reader)
        return reader.frame(segment.path, time_s, tolerance_s)


def decode_image(data: bytes, where: str) -> NDArray[np.uint8]:
    """A PNG or JPEG from a parquet column, (height, width, 3) uint8 RGB."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, TypeError) as error:
        raise DataError(f"{where}: the image cannot be decoded ({error})") from error
