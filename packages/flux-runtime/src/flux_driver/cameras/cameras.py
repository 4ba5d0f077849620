"""The cameras of a robot: one thread each, the newest image wins."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any, Callable, Mapping, Sequence

from .opencv import OpenCvSource
from .realsense import RealSenseSource
from .settings import CameraSettings, camera_settings
from .source import CameraError, CameraSource, Image
from .thread import CameraThread
from .video import VideoSource

START_TIMEOUT_S = 15.0
CLOSE_TIMEOUT_S = 3.0


class Cameras:
    """Reads cameras, each on a thread of its own.

    A camera that is unplugged is opened again, after waits that grow to 5 s. Meanwhile `read`
    returns its last image with its capture time, so the control loop holds the robot once that is
    too old. Each event is reported in one line.

    Args:
        settings: of each camera.
        report: gets one line per event; by default they are printed on standard error.
    """

    def __init__(
        self,
        settings: Mapping[str, CameraSettings],
        *,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self._end = threading.Event()
        self._settings = dict(settings)
        self._report = _print if report is None else report
        self._threads: dict[str, CameraThread] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The cameras' names, in the order of the configuration."""
        return tuple(self._settings)

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Opens all cameras at the same time and waits for the first image of each.

        Raises:
            CameraError: a camera cannot be opened, gives something else than was asked for, or
                gives no image within `timeout_s`. No camera is open afterwards.
        """
        if self._threads:
            raise CameraError("start(): the cameras have been started already")
        self._threads = {name: self._thread(name) for name in self._settings}
        for thread in self._threads.values():
            thread.start()
        deadline_s = time.monotonic() + timeout_s
        for name, thread in self._threads.items():
            if not thread.has_first.wait(max(0.0, deadline_s - time.monotonic())):
                fault = f"expected an image within {timeout_s:g} s, got none"
            else:
                fault = "" if thread.newest is not None else thread.fault
            if fault:
                self.close()
                raise CameraError(f"camera {name}: {fault}")

    def read(self, names: Sequence[str] | None = None) -> dict[str, Image]:
        """Returns the newest image of each camera, without waiting.

        Args:
            names: of cameras; None for all.

        Returns:
            For each name (height, width, 3) uint8 RGB, contiguous and not written again, and the
            capture time in seconds on `time.monotonic()`.

        Raises:
            CameraError: there is no such camera, or the cameras have not been started.
        """
        wanted = self.names if names is None else tuple(names)
        unknown = [name for name in wanted if name not in self._settings]
        if unknown:
            raise CameraError(f"camera {unknown[0]}: expected one of {', '.join(self.names)}")
        found: dict[str, Image] = {}
        for name in wanted:
            newest = self._threads[name].newest if name in self._threads else None
            if newest is None:
                raise CameraError(f"camera {name}: expected start() before read()")
            found[name] = newest
        return found

    def close(self) -> None:
        """Ends the threads, which release their cameras; may be called at any time."""
        self._end.set()
        deadline_s = time.monotonic() + CLOSE_TIMEOUT_S
        for name, thread in self._threads.items():
            if not thread.join(max(0.0, deadline_s - time.monotonic())):
                self._report(f"camera {name}: hangs, and is left behind")

    def _thread(self, name: str) -> CameraThread:
        settings = self._settings[name]
        return CameraThread(
            name,
            _source(settings, self._end),
            rotation=settings.rotation,
            fps=settings.fps,
            warmup_s=settings.warmup_s,
            end=self._end,
            report=self._report,
        )


def open_cameras(
    config: Mapping[str, Mapping[str, Any]], *, report: Callable[[str], None] | None = None
) -> Cameras:
    """Returns the cameras that a configuration names; `start` opens them.

    Args:
        config: for each camera's name its `type` ('opencv', 'intelrealsense' or 'video') and the
            keys of that type, which docs/cameras.md lists.
        report: gets one line per event; by default they are printed on standard error.

    Raises:
        CameraError: a key is unknown, missing or has a wrong value, or two cameras are one device.
    """
    settings: dict[str, CameraSettings] = {}
    devices: dict[tuple[str, str], str] = {}
    for name, entries in config.items():
        try:
            settings[name] = camera_settings(entries)
        except CameraError as error:
            raise CameraError(f"camera {name}: {error}") from error
        device = settings[name].type, str(settings[name].device)
        if device[0] != "video" and device in devices:
            raise CameraError(f"camera {name}: {device[1]} is camera {devices[device]} already")
        devices[device] = name
    return Cameras(settings, report=report)


def _source(settings: CameraSettings, end: threading.Event) -> CameraSource:
    if settings.type == "video":
        return VideoSource(settings, end)
    if settings.type == "opencv":
        return OpenCvSource(settings)
    return RealSenseSource(settings)


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
