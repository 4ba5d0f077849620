"""Writes frames as H.264 with exact timestamps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from flux_core.errors import DataError

CODEC, CODEC_NAME, PIXEL_FORMAT = "libx264", "h264", "yuv420p"
FAST_PRESET = "ultrafast"
"""Takes 40 % of the time for the same quality and at most twice the space."""
# A keyframe every second frame and no B-frames: any frame is at most two decodes away.
OPTIONS = {
    "crf": "18",
    "preset": "veryfast",
    "g": "2",
    "sc_threshold": "0",
    "bf": "0",
    "threads": "1",
}


class VideoWriter:
    """Writes one video file in which frame i is shown at exactly i / fps."""

    def __init__(
        self, path: Path, fps: float, height: int, width: int, preset: str = OPTIONS["preset"]
    ) -> None:
        """Opens `path` and makes its folder; refuses odd sizes, because 4:2:0 needs even ones."""
        if height % 2 or width % 2:
            raise DataError(f"video size: expected even height and width, got {height}x{width}")
        self._path, self._error = path, FFmpegError
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(path), "w")
        rate = Fraction(fps).limit_denominator(1001)
        self._stream = self._container.add_stream(CODEC, rate=rate)
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = PIXEL_FORMAT
        self._stream.codec_context.time_base = 1 / rate
        self._stream.options = {**OPTIONS, "preset": preset}
        self._count = 0
        self._last: av.VideoFrame | None = None

    def add(self, image: NDArray[np.generic]) -> None:
        """Appends one (height, width, 3) uint8 RGB frame."""
        expected = (self._stream.height, self._stream.width, 3)
        if image.shape != expected or image.dtype != np.uint8:
            got = f"{image.shape} {image.dtype}"
            raise DataError(f"video frame: expected {expected} uint8, got {got}")
        frame = av.VideoFrame.from_ndarray(np.asarray(image, np.uint8), format="rgb24")
        self._last = frame.reformat(format=PIXEL_FORMAT)
        self._encode(self._last)

    def repeat(self) -> None:
        """Appends the last frame again."""
        if self._last is None:
            raise DataError(f"{self._path}: expected a frame to repeat, got none yet")
        self._encode(self._last)

    def _encode(self, frame: av.VideoFrame) -> None:
        frame.pts = self._count
        self._count += 1
        with self._told():
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Writes the remaining frames and closes the file."""
        with self._told():
            self._container.mux(self._stream.encode())
            self._container.close()

    def abandon(self) -> None:
        """Closes the file in whatever state it is; does nothing if it is already closed."""
        with contextlib.suppress(self._error, OSError):
            self._container.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (self._error, OSError) as error:
            raise DataError(f"{self._path}: cannot be written ({error})") from error
