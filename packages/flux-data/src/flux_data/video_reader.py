"""Frame-accurate random access to videos, with decoders kept open."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError


class VideoReader:
    """Decodes single frames by timestamp; holds at most `max_open` decoders, oldest closed first.

    Not shared between processes: after a fork the child opens its own decoders.
    """

    def __init__(self, max_open: int = 64) -> None:
        self._max_open = max_open
        self._decoders: OrderedDict[Path, _Decoder] = OrderedDict()
        self._pid = os.getpid()

    def frame(self, path: Path, timestamp_s: float, tolerance_s: float) -> NDArray[np.uint8]:
        """Returns the frame shown at `timestamp_s`, (height, width, 3) uint8 RGB.

        Raises:
            DataError: there is no frame within `tolerance_s`, or the file cannot be read.
        """
        return self._decoder(path).frame(timestamp_s, tolerance_s)

    def _decoder(self, path: Path) -> _Decoder:
        if self._pid != os.getpid():
            self._decoders, self._pid = OrderedDict(), os.getpid()
        decoder = self._decoders.pop(path, None) or _Decoder(path)
        self._decoders[path] = decoder
        if len(self._decoders) > self._max_open:
            self._decoders.popitem(last=False)[1].close()
        return decoder

    def __getstate__(self) -> dict[str, Any]:
        return {"_max_open": self._max_open, "_decoders": OrderedDict(), "_pid": -1}


class _Decoder:
    """One open file."""

    def __init__(self, path: Path) -> None:
        import av

        self._path = path
        if not path.is_file():
            raise DataError(f"{path}: the video file is missing")
        try:
            self._container = av.open(str(path))
        except av.FFmpegError as error:
            raise DataError(f"{path}: cannot be opened as a video ({error})") from error
        self._stream = self._container.streams.video[0]
        # One thread a decoder: the loader's workers are the parallelism.
        self._stream.codec_context.thread_count = 1

    def frame(self, timestamp_s: float, tolerance_s: float) -> NDArray[np.uint8]:
        """Seeks to the keyframe before and decodes up to the nearest frame."""
        time_base = self._stream.time_base
        assert time_base is not None
        target = timestamp_s / float(time_base)
        start = self._stream.start_time or 0
        self._container.seek(
            max(int(target + 0.5), 0) + start, stream=self._stream, backward=True, any_frame=False
        )
        best, best_distance = None, float("inf")
        for frame in self._container.decode(self._stream):
            if frame.pts is None:
                continue
            distance = abs(frame.pts - start - target)
            if distance >= best_distance:
                break
            best, best_distance = frame, distance
        found_s = best_distance * float(time_base)
        if best is None or found_s > tolerance_s:
            raise DataError(
                f"{self._path}: no frame within {tolerance_s:.4f} s of {timestamp_s:.4f} s "
                f"(nearest is {found_s:.4f} s away)"
            )
        return best.to_ndarray(format="rgb24")

    def close(self) -> None:
        """Frees the file."""
        self._container.close()
