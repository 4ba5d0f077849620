"""Frame-accurate random access to videos, with decoders kept open.

Times are the stamps that the file states. The first picture of a video usually has the stamp 0,
but not always, and LeRobot compares stamps too.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError
from flux_core.incomplete_file import why_incomplete

from .pixel_formats import is_deep_grey
from .row_times import REENCODE, VideoExtent

MAX_FRAMES_AHEAD = 2
"""Up to this many frames ahead, decoding is faster than seeking, wherever the keyframes are."""

MAX_REORDERED = 16
"""H.264 and HEVC store a frame at most this many frames before it is shown."""

MAX_TICKS = float(1 << 60)
"""FFmpeg's times are 64-bit integers."""

BT601 = 5
SWS_MATRIX = {1: 1, 4: 4, 5: BT601, 6: BT601, 7: 7, 9: 9, 10: 9}
"""AVColorSpace of a frame -> SWS_CS of libswscale; like FFmpeg, untagged frames are BT.601."""


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """The size of a video, and the stamps of its frames in ascending order."""

    height: int
    width: int
    times_s: NDArray[np.float64]


def video_facts(path: Path) -> VideoFacts:
    """Reads a video's packets without decoding them; remembers those of recent files.

    Raises:
        DataError: it cannot be opened, has no frames, or is truncated.
    """
    state = path.stat() if path.exists() else None
    return _video_facts(path, *((state.st_mtime_ns, state.st_size) if state else (0, 0)))


@functools.lru_cache(maxsize=16)
def _video_facts(path: Path, _changed_ns: int, _size: int) -> VideoFacts:
    import av
    from av.error import FFmpegError

    try:
        with contextlib.closing(av.open(str(path))) as container:
            if not container.streams.video:
                raise DataError(f"{path}: has no video stream")
            stream = container.streams.video[0]
            base = float(stream.time_base or 0)
            shown = (p.pts for p in container.demux(stream) if not p.is_discard)
            ticks = sorted(pts for pts in shown if pts is not None)
            if not ticks:
                raise DataError(f"{path}: has no frames")
            times_s = np.asarray(ticks) * base
            return VideoFacts(height=stream.height, width=stream.width, times_s=times_s)
    except FFmpegError as error:
        reason = why_incomplete(path) or error
        raise DataError(f"{path}: cannot be read as a video ({reason})") from error


class VideoReader:
    """Decodes single frames by timestamp; keeps the last `max_open` decoders open.

    Several threads may use it at once. It is not shared between processes: after a fork the child
    opens its own decoders.
    """

    def __init__(self, max_open: int = 64) -> None:
        self._max_open = max_open
        self._decoders: OrderedDict[Path, _Decoder] = OrderedDict()
        self._pid = os.getpid()
        self._lock = threading.Lock()

    def frame(self, path: Path, timestamp_s: float, tolerance_s: float) -> NDArray[np.uint8]:
        """Returns the frame whose stamp is nearest to `timestamp_s`, (height, width, 3) uint8 RGB.

        Raises:
            DataError: there is no frame within `tolerance_s`, the file cannot be read, or it is a
                depth map.
        """
        return _to_rgb(self._decoder(path).frame(timestamp_s, tolerance_s), path)

    def check(self, path: Path, timestamp_s: float, tolerance_s: float) -> None:
        """Decodes a frame, whether it holds colours or depth.

        Raises:
            DataError: as `frame`.
        """
        self._decoder(path).frame(timestamp_s, tolerance_s)

    def is_depth(self, path: Path) -> bool:
        """Whether a video holds a depth map, whatever the dataset says of it.

        Raises:
            DataError: the file cannot be read.
        """
        return is_deep_grey(self._decoder(path).pixel_format)

    def extent(self, path: Path) -> VideoExtent:
        """Returns what the header of a video says about its stamps.

        Raises:
            DataError: the file cannot be read.
        """
        return self._decoder(path).extent

    def _decoder(self, path: Path) -> _Decoder:
        if self._pid != os.getpid():
            # A thread that the child does not have may hold the old lock for ever.
            self._decoders, self._lock = OrderedDict(), threading.Lock()
            self._pid = os.getpid()
        with self._lock:
            decoder = self._decoders.pop(path, None) or _Decoder(path)
            self._decoders[path] = decoder
            if len(self._decoders) > self._max_open:
                # It is closed once the last thread that uses it has finished.
                self._decoders.popitem(last=False)
        return decoder

    def __getstate__(self) -> dict[str, Any]:
        return {"_max_open": self._max_open, "_decoders": OrderedDict(), "_pid": -1, "_lock": None}


class _Decoder:
    """One open file that remembers its position, so that the next frame needs no seek."""

    def __init__(self, path: Path) -> None:
        import av
        from av.error import FFmpegError

        self._path, self._error = path, FFmpegError
        if not path.is_file():
            raise DataError(f"{path}: the video file is missing")
        try:
            self._container = av.open(str(path))
        except FFmpegError as error:
            reason = why_incomplete(path) or error
            raise DataError(f"{path}: cannot be opened as a video ({reason})") from error
        # PyAV's containers are reference cycles: left to the garbage collector, files stay open.
        weakref.finalize(self, self._container.close)
        if not self._container.streams.video:
            raise DataError(f"{path}: has no video stream")
        self._stream = self._container.streams.video[0]
        # One thread per decoder: the loader's workers already run in parallel.
        self._stream.codec_context.thread_count = 1
        assert self._stream.time_base is not None
        self._time_base = float(self._stream.time_base)
        self._start = self._stream.start_time or 0
        # With uneven frames, `base_rate` is the rate of the two closest ones.
        rate = max(self._stream.average_rate or 0, self._stream.base_rate or 0) or 30
        self._period = 1.0 / float(rate) / self._time_base
        self._surely_nearest = 0.1 * self._period
        self._lock = threading.Lock()
        self._frames: Iterator[Any] = iter(())
        self._current: Any = None
        self._pending: Any = None

    @property
    def pixel_format(self) -> str | None:
        """FFmpeg's name of the pixel format, if the header says it."""
        return self._stream.codec_context.pix_fmt

    @property
    def extent(self) -> VideoExtent:
        """What the header says."""
        first_s, count = self._start * self._time_base, self._stream.frames
        last_s = None
        if self._stream.duration and count:
            # The duration includes that of the last frame.
            last_s = first_s + self._stream.duration * (1 - 1 / count) * self._time_base
        return VideoExtent(first_s=first_s, last_s=last_s, num_frames=count)

    def frame(self, timestamp_s: float, tolerance_s: float) -> Any:
        """Decodes up to the nearest frame, from the current position or the previous keyframe."""
        with self._lock:
            return self._frame(timestamp_s, tolerance_s)

    def _frame(self, timestamp_s: float, tolerance_s: float) -> Any:
        target = timestamp_s / self._time_base - self._start
        if not abs(target) < MAX_TICKS:
            raise DataError(f"{self._path}: expected a time within the video, got {timestamp_s} s")
        try:
            if not self._is_close_before(target):
                self._seek(target)
            best = self._nearest(target)
        except self._error as error:
            self._current = None
            raise DataError(
                f"{self._path}: cannot be decoded near {timestamp_s:.4f} s ({error})"
            ) from error
        if best is None:
            raise DataError(f"{self._path}: expected frames that can be decoded, found none")
        found_s = best.pts * self._time_base
        if abs(found_s - timestamp_s) > tolerance_s:
            first_s = self._start * self._time_base
            late = f". Its first frame is at {first_s:.4f} s. {REENCODE}"
            raise DataError(
                f"{self._path}: no frame within {tolerance_s:.4f} s of {timestamp_s:.4f} s "
                f"(the nearest is at {found_s:.4f} s)"
                f"{late if abs(first_s) > tolerance_s else ''}"
            )
        return best

    def _is_close_before(self, target: float) -> bool:
        if self._current is None:
            return False
        ahead = target - self._time(self._current)
        return -self._surely_nearest <= ahead <= MAX_FRAMES_AHEAD * self._period

    def _seek(self, target: float) -> None:
        """Seeks to a keyframe such that the next decoded frame is shown at `target` or earlier.

        Containers seek by decoding time, not by display time. Frames stored after a keyframe may
        be displayed before it and need the previous keyframe, so a first seek may land too late.
        """
        target += self._surely_nearest
        earliest, back = -MAX_REORDERED * self._period, 0.0
        while True:
            goal = max(target - back, earliest)
            self._go_to(goal)
            if goal == earliest or (self._pending and self._time(self._pending) <= target):
                return
            back = 4.0 * back or MAX_REORDERED / 4 * self._period

    def _go_to(self, goal: float) -> None:
        """Seeks, and decodes the first frame from there."""
        self._current = self._pending = None
        offset = math.floor(goal) + self._start
        self._container.seek(offset, stream=self._stream, backward=True, any_frame=False)
        self._frames = self._container.decode(self._stream)
        self._pending = self._next()

    def _next(self) -> Any:
        """Returns the next frame, or None after the last.

        A damaged frame is refused, because all frames up to the next keyframe depend on it.
        """
        frame = next((frame for frame in self._frames if frame.pts is not None), None)
        if frame is not None and frame.is_corrupt:
            self._current = None
            found_s = frame.pts * self._time_base
            raise DataError(f"{self._path}: the frame at {found_s:.4f} s is damaged")
        return frame

    def _nearest(self, target: float) -> Any:
        """Advances while frames get closer to the target; the frame after it stays pending."""
        while True:
            current = self._current
            # Decodes no more frames than needed: each costs milliseconds.
            if current is not None and self._distance(current, target) <= self._surely_nearest:
                return current
            if self._pending is None:
                self._pending = self._next()
            candidate = self._pending
            if candidate is None or (
                current is not None
                and self._distance(candidate, target) >= self._distance(current, target)
            ):
                return current
            self._current, self._pending = candidate, None

    def _time(self, frame: Any) -> int:
        """Ticks since the first frame of the video."""
        return frame.pts - self._start

    def _distance(self, frame: Any, target: float) -> float:
        return abs(self._time(frame) - target)


def _to_rgb(frame: Any, path: Path) -> NDArray[np.uint8]:
    """Converts with the frame's own matrix and range; PyAV alone would assume BT.601."""
    if is_deep_grey(frame.format.name):
        raise DataError(
            f"{path}: expected a video with colours, got a depth map ({frame.format.name})"
        )
    return frame.to_ndarray(
        format="rgb24",
        src_colorspace=SWS_MATRIX.get(frame.colorspace, BT601),
        dst_colorspace=BT601,
        src_color_range=frame.color_range,
    )
