"""The first training transform: from dataset columns and videos to the names the model knows."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flux_core.errors import DataError
from flux_core.transforms import Sample

from .frame_cache import CachedFrame
from .video_reader import VideoReader

_reader = VideoReader()
"""Open decoders of this process, shared by all its datasets."""


KEPT = ("stats", "task_description", "action_masks", "rng")
"""What later transforms may need, whatever the config asks for."""


@dataclass(frozen=True, kw_only=True)
class ProcessParquetInputs:
    """Copies `parquet_keys` (renamed by `name_mappings`) and decodes the frame of each video key.

    `images` is (C, height, width, 3) uint8 in the order of `video_keys`, `img_masks` is True for
    each; `num_padding_imgs` adds black images with mask False.
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
        frames = [self._image(sample, key) for key in self.video_keys]
        padding = [np.zeros_like(frames[0])] * self.num_padding_imgs
        out["images"] = np.stack(frames + padding)
        out["img_masks"] = np.arange(len(frames) + len(padding)) < len(frames)
        return out

    def _image(self, sample: Sample, key: str) -> NDArray[np.uint8]:
        segment = sample["videos"].get(key)
        if segment is None:
            return decode_image(sample[key], key)
        if isinstance(segment, CachedFrame):
            return segment.read()
        # A frame may be off by half a period at most: anything else is another frame.
        tolerance_s = 0.5 / sample["fps"]
        time_s = segment.start_s + float(sample["timestamp"])
        return _reader.frame(segment.path, time_s, tolerance_s)


def decode_image(data: bytes, where: str) -> NDArray[np.uint8]:
    """A PNG or JPEG from a parquet column, (height, width, 3) uint8 RGB."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, TypeError) as error:
        raise DataError(f"{where}: the image cannot be decoded ({error})") from error
