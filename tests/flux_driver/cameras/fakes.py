"""Stand-ins for OpenCV and for `pyrealsense2`, whose devices do what a test tells them to."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

V4L2 = 200
WAIT_S = 30.0


def until(is_true: Callable[[], object]) -> None:
    """Waits for other threads."""
    deadline_s = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < deadline_s, "expected another thread to get there"
        time.sleep(0.001)


class FakeDevice:
    """A device behind OpenCV. Images are put into its queue; None stands for a fault.

    Attributes:
        stamps_ms: what it says when the image was captured, or 0.
        openings: how often it was opened.
    """

    def __init__(self, *, width: int = 4, height: int = 2, fps: float = 30.0) -> None:
        self.images: queue.Queue[Any] = queue.Queue()
        self.width, self.height, self.fps, self.fourcc = width, height, fps, "YUYV"
        self.is_plugged_in = True
        self.obeys = True
        self.stamp: Callable[[], float] = lambda: 0.0
        self.openings = 0
        self.is_open = False

    def image(self, colour: tuple[int, int, int] = (1, 2, 3)) -> Any:
        """Returns a BGR image of one colour."""
        return np.full((self.height, self.width, 3), colour, np.uint8)

    def unplug(self) -> None:
        self.is_plugged_in = False
        self.images.put(None)

    def plug_in(self) -> None:
        self.images = queue.Queue()
        self.is_plugged_in = True


def fake_cv2(devices: dict[Any, FakeDevice]) -> Any:
    """Returns a module `cv2` that knows these devices."""

    class VideoCapture:
        def __init__(self, device: Any, backend: int = 0) -> None:
            self._device = devices[device]
            self._device.openings += 1
            self._is_open = self._device.is_plugged_in
            self._device.is_open = self._is_open
            self.backend = backend
            self._image: Any = None

        def isOpened(self) -> bool:
            return self._is_open

        def set(self, key: str, value: float) -> bool:
            if self._device.obeys:
                setattr(self._device, key, value)
            return self._device.obeys

        def get(self, key: str) -> float:
            if key == "stamp":
                return self._device.stamp()
            value = getattr(self._device, key)
            return value if isinstance(value, (int, float)) else fourcc(*value)

        def grab(self) -> bool:
            self._image = self._device.images.get(timeout=WAIT_S)
            return self._image is not None and self._device.is_plugged_in

        def retrieve(self) -> tuple[bool, Any]:
            return (True, self._image) if isinstance(self._image, np.ndarray) else (False, None)

        def release(self) -> None:
            self._is_open = self._device.is_open = False

    def fourcc(*letters: str) -> int:
        return sum(ord(letter) << 8 * index for index, letter in enumerate(letters))

    return SimpleNamespace(
        CAP_V4L2=V4L2,
        CAP_PROP_FOURCC="fourcc",
        CAP_PROP_FRAME_WIDTH="width",
        CAP_PROP_FRAME_HEIGHT="height",
        CAP_PROP_FPS="fps",
        CAP_PROP_POS_MSEC="stamp",
        COLOR_BGR2RGB="rgb",
        VideoCapture=VideoCapture,
        VideoWriter_fourcc=fourcc,
        cvtColor=lambda image, code: np.ascontiguousarray(image[..., ::-1]),
    )


class FakeRealSense:
    """A module `pyrealsense2` with one camera; None in its queue is a frame that does not come.

    Attributes:
        images: (image, timestamp in ms).
        domain: the clock of the timestamps.
        started: what the streams were asked for.
    """

    camera_info = SimpleNamespace(serial_number="serial", name="name")
    stream = SimpleNamespace(color="color")
    format = SimpleNamespace(rgb8="rgb8", bgr8="bgr8")
    timestamp_domain = SimpleNamespace(hardware_clock=0, system_time=1, global_time=2)

    def __init__(self, *, serial: str = "0123", fps: int = 30) -> None:
        self.serial, self.fps = serial, fps
        self.images: queue.Queue[Any] = queue.Queue()
        self.domain = 2
        self.is_plugged_in = True
        self.started: list[list[tuple[Any, ...]]] = []
        self.stopped = 0

    def context(self) -> Any:
        facts = {"serial": self.serial, "name": "Intel RealSense D435"}
        device = SimpleNamespace(get_info=facts.__getitem__)
        return SimpleNamespace(query_devices=lambda: [device] if self.is_plugged_in else [])

    def config(self) -> Any:
        asked: list[tuple[Any, ...]] = []
        return SimpleNamespace(
            asked=asked,
            enable_device=lambda serial: asked.append(("device", serial)),
            enable_stream=lambda *arguments: asked.append(arguments),
        )

    def pipeline(self) -> Any:
        return SimpleNamespace(start=self._start, stop=self._stop, wait_for_frames=self._wait)

    def _start(self, config: Any) -> Any:
        self.started.append(config.asked)
        return SimpleNamespace(get_stream=lambda stream: SimpleNamespace(fps=lambda: self.fps))

    def _stop(self) -> None:
        self.stopped += 1

    def _wait(self, timeout_ms: int) -> Any:
        found = self.images.get(timeout=WAIT_S)
        if found is None:
            raise RuntimeError(f"Frame didn't arrive within {timeout_ms}")
        image, stamp_ms = found
        frame = SimpleNamespace(
            get_data=lambda: image,
            get_timestamp=lambda: stamp_ms,
            get_frame_timestamp_domain=lambda: self.domain,
        )
        return SimpleNamespace(get_color_frame=lambda: frame)
