"""V4L2 devices, and everything else that OpenCV can capture from."""

from __future__ import annotations

import glob
import math
import os
import sys
import time
from typing import Any

from ..clocks.device import from_monotonic
from .settings import CameraSettings
from .source import CameraError, Image, expect_size, imported

PACKAGE = "opencv-python-headless"
FPS_TOLERANCE = 0.01
"""29.97 images per second are 30."""

MAX_DAMAGED = 5
MAX_QUEUED = 8
AT_ONCE_S = 0.002
"""A grab that takes no longer has not waited for the camera: the image lay in a queue."""

SELECT_TIMEOUT_S = 2
"""How long OpenCV waits for a V4L2 device that says nothing; by default 10 s."""


class OpenCvSource:
    """A camera that OpenCV opens."""

    def __init__(self, settings: CameraSettings) -> None:
        self._settings = settings
        self._capture: Any = None
        self._cv2: Any = None
        self._is_v4l2 = False

    def open(self) -> None:
        """Opens the device and compares what it promises with the settings."""
        os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(SELECT_TIMEOUT_S))
        self._cv2 = imported("cv2", PACKAGE)
        device, backend = self._located()
        self._capture = self._cv2.VideoCapture(device, backend)
        if not self._capture.isOpened():
            raise CameraError(
                f"index_or_path: OpenCV cannot open {self._settings.device!r}. It does not exist, "
                f"another program uses it, or this user may not (group video)"
            )
        self._configure()

    def read(self) -> Image:
        """Waits for the next image; one that was damaged on its way is passed over."""
        for _ in range(MAX_DAMAGED):
            time_s = self._grab()
            is_whole, image = self._capture.retrieve()
            if is_whole and image is not None:
                return self._checked(image), time_s
        raise CameraError(f"{MAX_DAMAGED} images in a row cannot be decoded")

    def close(self) -> None:
        """Releases the device."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _checked(self, image: Any) -> Any:
        if image.ndim != 3 or image.shape[2] != 3:
            raise CameraError(f"expected an image with 3 channels, got {image.shape}")
        expect_size(image, *self._settings.capture_size)
        return self._cv2.cvtColor(image, self._cv2.COLOR_BGR2RGB)

    def _located(self) -> tuple[Any, int]:
        """Returns what to open, and by which of OpenCV's backends.

        Only V4L2 gives stamps of the monotonic clock, so devices are opened with it.
        """
        device, backend = self._settings.device, self._settings.backend
        if isinstance(device, str) and device.isdigit():
            device = int(device)
        path = f"/dev/video{device}" if isinstance(device, int) else str(device)
        is_on_linux = sys.platform.startswith("linux")
        if is_on_linux and path.startswith("/dev/") and not os.path.exists(path):
            found = ", ".join(sorted(glob.glob("/dev/video*"))) or "none"
            raise CameraError(
                f"index_or_path: {path} does not exist. Plugged in: {found}. The links in "
                f"/dev/v4l/by-id stay the same when a camera is plugged in again"
            )
        if os.path.isfile(path):
            raise CameraError(
                f"index_or_path: {path} is a file, which OpenCV plays as fast as it can. Use "
                f"type: video"
            )
        is_device = isinstance(device, int) or path.startswith("/dev/")
        if isinstance(device, str) and is_device:  # OpenCV does not follow links
            device = os.path.realpath(path)
        if is_on_linux and is_device and not backend:
            backend = int(self._cv2.CAP_V4L2)
        self._is_v4l2 = backend == self._cv2.CAP_V4L2
        return device, backend

    def _configure(self) -> None:
        """Sets what is stated, the pixel format first: sizes and rates depend on it."""
        cv2, settings, capture = self._cv2, self._settings, self._capture
        width, height = settings.capture_size
        if settings.fourcc is not None:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*settings.fourcc))
        for key, value in (
            (cv2.CAP_PROP_FRAME_WIDTH, width),
            (cv2.CAP_PROP_FRAME_HEIGHT, height),
            (cv2.CAP_PROP_FPS, settings.fps),
        ):
            if value is not None:
                capture.set(key, value)
        if settings.fourcc is not None:
            found = _letters(capture.get(cv2.CAP_PROP_FOURCC))
            if found.upper() != settings.fourcc.upper():
                raise CameraError(
                    f"fourcc: expected {settings.fourcc}, the device gives {found!r}. "
                    f"v4l2-ctl --list-formats-ext says what it has"
                )
        fps = float(capture.get(cv2.CAP_PROP_FPS))
        wanted = settings.fps or fps
        if fps > 0 and not math.isclose(fps, wanted, rel_tol=FPS_TOLERANCE):
            raise CameraError(
                f"fps: expected {wanted:g}, the device gives {fps:g}. State a rate that it has at "
                f"this size and fourcc (v4l2-ctl --list-formats-ext)"
            )

    def _grab(self) -> float:
        """Waits for a new image, and returns when it was captured.

        A device without stamps may have had images in its queue while this thread was held up;
        these are passed over, because nobody knows how old they are.
        """
        time_s = 0.0
        for _ in range(MAX_QUEUED):
            before_s = time.monotonic()
            if not self._capture.grab():
                raise CameraError("no image. Is it unplugged?")
            now_s = time.monotonic()
            if not self._is_v4l2:  # other backends count from the beginning of the stream
                return before_s
            stamp_s = float(self._capture.get(self._cv2.CAP_PROP_POS_MSEC)) / 1e3
            time_s = from_monotonic(stamp_s, before_s, now_s)
            if time_s != before_s or now_s - before_s > AT_ONCE_S:
                break
        return time_s


def _letters(fourcc: float) -> str:
    number = int(fourcc)
    return "".join(chr((number >> shift) & 0xFF) for shift in (0, 8, 16, 24)).strip("\0")
