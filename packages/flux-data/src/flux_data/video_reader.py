"""Frame-accurate random access to videos, with decoders kept open."""

from __future__ import annotations

import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError

MAX_FRAMES_AHEAD = 2
"""Decoding on is quicker than seeking for so few frames, however far apart the keyframes are."""


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """A video's size, and the times of its frames in ascending order."""

    height: int
    width: int
    times_s: NDArray[np.float64]


@functools.lru_cache(maxsize=16)
def video_facts(path: Path) -> VideoFacts:
    """Reads a video's packets; nothing is decoded.

    Raises:
        DataError: it cannot be opened, has no frames, or breaks off.
    """
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path}: has no video stream")
            stream = container.streams.video[0]
            start, base = stream.start_time or 0, float(stream.time_base or 0)
            ticks = sorted(p.pts - start for p in container.demux(stream) if p.pts is not None)
            height, width = stream.height, stream.width
    except av.FFmpegError as error:
        raise DataError(f"{path}: cannot be read as a video ({error})") from error
    if not ticks:
        raise DataError(f"{path}: has no frames")
    return VideoFacts(height=height, width=width, times_s=np.asarray(ticks) * base)


class VideoReader:
    """Decodes single frames by timestamp; holds at most `max_open` decoders, oldest closed first.

    Several threads may ask at once. Not shared between processes: after a fork the child opens its
    own decoders.
    """

    def __init__(self, max_open: int = 64) -> None:
        self._max_open = max_open
        self._decoders: OrderedDict[Path, _Decoder] = OrderedDict()
        self._pid = os.getpid()
        self._lock = threading.Lock()

    def frame(self, path: Path, timestamp_s: float, tolerance_s: float) -> NDArray[np.uint8]:
        """Returns the frame shown at `timestamp_s`, (height, width, 3) uint8 RGB.

        Raises:
            DataError: there is no frame within `tolerance_s`, or the file cannot be read.
        """
        return self._decoder(path).frame(timestamp_s, tolerance_s)

    def _decoder(self, path: Path) -> _Decoder:
        if self._pid != os.getpid():
            self._decoders, self._pid = OrderedDict(), os.getpid()
            self._lock = threading.Lock()
        with self._lock:
            decoder = self._decoders.pop(path, None) or _Decoder(path)
            self._decoders[path] = decoder
            if len(self._decoders) > self._max_open:
                # Freed when the last thread that uses it is done.
                self._decoders.popitem(last=False)
        return decoder

    def __getstate__(self) -> dict[str, Any]:
        return {"_max_open": self._max_open, "_decoders": OrderedDict(), "_pid": -1, "_lock": None}


class _Decoder:
    """One open file, which remembers where it is: the next frame costs no seek."""

    def __init__(self, path: Path) -> None:
        import av

        self._path, self._error = path, av.FFmpegError
        if not path.is_file():
            raise DataError(f"{path}: the video file is missing")
        try:
            self._container = av.open(str(path))
        except av.FFmpegError as error:
            raise DataError(f"{path}: cannot be opened as a video ({error})") from error
        if not self._container.streams.video:
            raise DataError(f"{path}: has no video stream")
        self._stream = self._container.streams.video[0]
        # One thread a decoder: the loader's workers are the parallelism.
        self._stream.codec_context.thread_count = 1
        assert self._stream.time_base is not None
        self._time_base = float(self._stream.time_base)
        self._start = self._stream.start_time or 0
        period = 1.0 / float(self._stream.average_rate or 30) / self._time_base
        self._max_ahead, self._surely_nearest = MAX_FRAMES_AHEAD * period, 0.1 * period
        self._lock = threading.Lock()
        self._frames: Iterator[Any] = iter(())
        self._current: Any = None
        self._pending: Any = None

    def frame(self, timestamp_s: float, tolerance_s: float) -> NDArray[np.uint8]:
        """Decodes up to the nearest frame, from where it is or from the keyframe before."""
        with self._lock:
            return self._frame(timestamp_s, tolerance_s)

    def _frame(self, timestamp_s: float, tolerance_s: float) -> NDArray[np.uint8]:
        target = timestamp_s / self._time_base
        try:
            if not self._is_close_before(target):
                self._seek(target)
            best = self._nearest(target)
        except self._error as error:
            self._current = None
            raise DataError(
                f"{self._path}: cannot be decoded near {timestamp_s:.4f} s ({error})"
            ) from error
        found_s = float("inf") if best is None else self._distance(best, target) * self._time_base
        if best is None or found_s > tolerance_s:
            raise DataError(
                f"{self._path}: no frame within {tolerance_s:.4f} s of {timestamp_s:.4f} s "
                f"(nearest is {found_s:.4f} s away)"
            )
        return best.to_ndarray(format="rgb24")

    def _is_close_before(self, target: float) -> bool:
        if self._current is None:
            return False
        ahead = target - (self._current.pts - self._start)
        return -0.5 < ahead <= self._max_ahead

    def _seek(self, target: float) -> None:
        self._current = self._pending = None
        self._container.seek(
            max(int(target + 0.5), 0) + self._start,
            stream=self._stream,
            backward=True,
            any_frame=False,
        )
        self._frames = self._container.decode(self._stream)

    def _nearest(self, target: float) -> Any:
        """Moves on while the frames come closer; the one after stays pending."""
        while True:
            current = self._current
            # Not a frame more than needed: each costs milliseconds.
            if current is not None and self._distance(current, target) <= self._surely_nearest:
                return current
            if self._pending is None:
                self._pending = next((f for f in self._frames if f.pts is not None), None)
            candidate = self._pending
            if candidate is None or (
                self._current is not None
                and self._distance(candidate, target) >= self._distance(self._current, target)
            ):
                return self._current
            self._current, self._pending = candidate, None

    def _distance(self, frame: Any, target: float) -> float:
        return abs(frame.pts - self._start - target)
