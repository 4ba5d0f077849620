"""Intel RealSense cameras: their colour stream."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ..clocks.device import DeviceClock, from_monotonic, from_wall_clock
from .settings import CameraSettings
from .source import CameraError, Image, expect_size, imported

PACKAGE = "pyrealsense2"
TIMEOUT_MS = 2000


class RealSenseSource:
    """A RealSense camera."""

    def __init__(self, settings: CameraSettings) -> None:
        self._settings = settings
        self._pipeline: Any = None
        self._library: Any = None
        self._clock = DeviceClock()

    def open(self) -> None:
        """Starts the colour stream and compares what it gives with the settings."""
        self._library = imported("pyrealsense2", PACKAGE)
        library, settings = self._library, self._settings
        config = library.config()
        config.enable_device(self._serial_number())
        width, height = settings.capture_size
        color_format = getattr(library.format, settings.color_format)
        if settings.fps is not None:
            stream = library.stream.color
            config.enable_stream(stream, width, height, color_format, int(settings.fps))
        else:
            config.enable_stream(library.stream.color, color_format)
        pipeline = library.pipeline()
        try:
            profile = pipeline.start(config)
        except RuntimeError as error:
            raise CameraError(
                f"serial_number_or_name: {settings.device} cannot be started ({error}). Another "
                f"program uses it, or it has no {settings.color_format} stream of this size and "
                f"rate"
            ) from error
        self._pipeline = pipeline
        self._clock = DeviceClock()
        fps = profile.get_stream(library.stream.color).fps()
        if settings.fps is not None and fps != settings.fps:
            raise CameraError(f"fps: expected {settings.fps:g}, the device gives {fps}")

    def read(self) -> Image:
        """Waits for the next image."""
        before_s = time.monotonic()
        try:
            frame = self._pipeline.wait_for_frames(TIMEOUT_MS).get_color_frame()
        except RuntimeError as error:
            raise CameraError(f"no image ({error})") from error
        if not frame:
            raise CameraError("no colour image")
        time_s = self._capture_time(frame, before_s)
        image = np.array(frame.get_data(), np.uint8)  # a copy: the library uses its memory again
        expect_size(image, *self._settings.capture_size)
        if self._settings.color_format == "bgr8":
            image = np.ascontiguousarray(image[..., ::-1])
        return image, time_s

    def close(self) -> None:
        """Stops the stream."""
        if self._pipeline is not None:
            pipeline, self._pipeline = self._pipeline, None
            try:
                pipeline.stop()
            except RuntimeError:  # an unplugged device has stopped by itself
                return

    def _capture_time(self, frame: Any, before_s: float) -> float:
        stamp_s, now_s = float(frame.get_timestamp()) / 1e3, time.monotonic()
        if frame.get_frame_timestamp_domain() == self._library.timestamp_domain.hardware_clock:
            return from_monotonic(self._clock.from_device(stamp_s, now_s), before_s, now_s)
        return from_wall_clock(stamp_s, before_s)

    def _serial_number(self) -> str:
        """Returns the serial number of the camera that a serial number or a name stands for."""
        wanted, info = str(self._settings.device), self._library.camera_info
        found = [
            (str(device.get_info(info.serial_number)), str(device.get_info(info.name)))
            for device in self._library.context().query_devices()
        ]
        matching = [serial for serial, name in found if wanted in (serial, name)]
        if len(matching) != 1:
            plugged_in = ", ".join(f"{serial} ({name})" for serial, name in found) or "none"
            raise CameraError(
                f"serial_number_or_name: expected one camera {wanted}, got {len(matching)}. "
                f"Plugged in: {plugged_in}"
            )
        return matching[0]
