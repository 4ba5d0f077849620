"""A video file that is played as if a camera saw it now."""

from __future__ import annotations

import os
import threading
import time
from typing import Any, Iterator, Tuple

from .settings import CameraSettings
from .source import CameraError, EndOfVideo, Image, expect_size, imported

PACKAGE = "av or opencv-python-headless"
DEFAULT_FPS = 30.0
Frames = Iterator[Tuple[Any, float]]
"""RGB images and their times in seconds since the beginning of the file."""


class VideoSource:
    """A file, played by the stamps of its frames: the capture time of a frame is when it is due.

    Args:
        settings: of the camera.
        end: set when nobody waits for images any more.
    """

    def __init__(self, settings: CameraSettings, end: threading.Event) -> None:
        self._settings = settings
        self._end = end
        self._frames: Frames | None = None
        self._begun_s = 0.0
        self._last_s = 0.0
        self._period_s = 1.0 / (settings.fps or DEFAULT_FPS)

    def open(self) -> None:
        """Opens the file; its first frame is due now."""
        path = str(self._settings.device)
        if not os.path.isfile(path):
            raise CameraError(f"path: expected a video file, got {path}, which does not exist")
        self._frames = _frames(path)
        self._begun_s = time.monotonic()

    def read(self) -> Image:
        """Waits until the next frame is due."""
        if self._frames is None:
            raise CameraError("expected an open file")
        found = next(self._frames, None)
        if found is None:
            found = self._begin_again()
        image, file_s = found
        self._period_s = (file_s - self._last_s) or self._period_s
        self._last_s = file_s
        expect_size(image, *self._settings.capture_size)
        due_s = self._begun_s + file_s
        self._end.wait(max(0.0, due_s - time.monotonic()))
        return image, min(due_s, time.monotonic())

    def close(self) -> None:
        """Closes the file."""
        self._frames = None

    def _begin_again(self) -> tuple[Any, float]:
        """Returns the first frame again, one frame period after the last one."""
        path = str(self._settings.device)
        if not self._settings.loop:
            raise EndOfVideo(f"{path} has ended after {self._last_s:.1f} s")
        self._begun_s += self._last_s + self._period_s
        self._last_s = 0.0
        self._frames = _frames(path)
        found = next(self._frames, None)
        if found is None:
            raise CameraError(f"path: {path} holds no image")
        return found


def _frames(path: str) -> Frames:
    """Decodes a file with the library that this interpreter has."""
    try:
        return _frames_by_av(imported("av", PACKAGE), path)
    except CameraError:
        return _frames_by_opencv(imported("cv2", PACKAGE), path)


def _frames_by_av(av: Any, path: str) -> Frames:
    try:
        with av.open(path) as container:
            first_s = None
            for frame in container.decode(video=0):
                if frame.time is None:
                    raise CameraError(f"path: {path} states no times")
                first_s = frame.time if first_s is None else first_s
                yield frame.to_ndarray(format="rgb24"), float(frame.time - first_s)
    except (OSError, ValueError, IndexError) as error:
        raise CameraError(f"path: {path} cannot be decoded ({error})") from error


def _frames_by_opencv(cv2: Any, path: str) -> Frames:
    capture = cv2.VideoCapture(path)
    try:
        fps = float(capture.get(cv2.CAP_PROP_FPS)) or DEFAULT_FPS
        first_s, last_s = None, -1.0
        while capture.grab():
            file_s = float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1e3
            is_whole, image = capture.retrieve()
            if not is_whole:
                raise CameraError(f"path: {path} cannot be decoded")
            first_s = file_s if first_s is None else first_s
            file_s -= first_s
            last_s = file_s if file_s > last_s else last_s + 1 / fps  # a format without stamps
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB), last_s
    finally:
        capture.release()
