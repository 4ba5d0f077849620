"""The first training transform: from dataset columns and videos to the names the model knows."""

from __future__ import annotations

import functools
import io
import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
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
    each; `num_padding_imgs` adds black images with mask False. Cameras are decoded by
    `decode_threads` threads (default: one a camera, but one in all in a loader's worker process).
    Where a resize follows, each thread does it too, and the transform finds nothing left to do.
    """

    parquet_keys: tuple[str, ...]
    video_keys: tuple[str, ...]
    name_mappings: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {"observation.state": ("states",)}
    )
    num_padding_imgs: int = 0
    decode_threads: int | None = None

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
        threads = self.decode_threads
        if threads is None:
            is_worker = multiprocessing.parent_process() is not None
            threads = 1 if is_worker else min(len(self.video_keys), os.cpu_count() or 1)
        resize = sample.get("resize")

        def image(key: str) -> NDArray[np.uint8]:
            frame = self._image(sample, key)
            return frame if resize is None else resize.resize(frame)

        if threads <= 1:
            return [image(key) for key in self.video_keys]
        return list(_pool(threads, os.getpid()).map(image, self.video_keys))

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


@functools.lru_cache(maxsize=1)
def _pool(threads: int, pid: int) -> ThreadPoolExecutor:
    """One pool a process: `pid` makes a forked child start its own."""
    del pid
    return ThreadPoolExecutor(threads, thread_name_prefix="decode")


def decode_image(data: bytes, where: str) -> NDArray[np.uint8]:
    """A PNG or JPEG from a parquet column, (height, width, 3) uint8 RGB."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, TypeError) as error:
        raise DataError(f"{where}: the image cannot be decoded ({error})") from error
