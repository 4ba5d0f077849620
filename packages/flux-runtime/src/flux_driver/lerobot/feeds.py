"""LeRobot's cameras, each read on a thread of its own, so that none delays the arm or another."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from typing import Any, Callable, Mapping, Sequence, Tuple

from ..robot import DriverError, one_line

WAIT_MS = 1000.0
PAUSE_S = 1.0
FPS = 30.0

Image = Tuple[Any, float]


class Feed:
    """One of LeRobot's cameras.

    Args:
        name: its name in the robot's config.
        camera: LeRobot's camera, not connected.
        report: is told once when the camera fails, and once when it is back.
    """

    def __init__(self, name: str, camera: Any, report: Callable[[str], None]) -> None:
        self._name = name
        self._camera = camera
        self._report = report
        self._newest: Image | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"camera {name}", daemon=True)
        self.has_image = threading.Event()
        self.fault = ""

    def start(self) -> None:
        """Connects the camera and reads it, without waiting for either."""
        self._thread.start()

    def newest(self) -> Image | None:
        """Returns the newest image, (height, width, 3) uint8, and when its exposure began."""
        return self._newest

    def end(self) -> None:
        """Asks the thread to end; it disconnects the camera."""
        self._end.set()

    def join(self, timeout_s: float) -> None:
        """Waits for the thread."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                self._camera.connect()
                self._read()
            except Exception as error:  # noqa: BLE001 - LeRobot's cameras raise many kinds
                self._failed(one_line(error).rstrip("."))
            finally:
                with suppress(Exception):  # a camera that failed may be disconnected already
                    self._camera.disconnect()
            self._end.wait(PAUSE_S)

    def _read(self) -> None:
        """Reads until the camera fails. LeRobot says when an image has arrived; its exposure began
        a frame earlier."""
        while not self._end.is_set():
            image = self._camera.async_read(timeout_ms=WAIT_MS)
            period_s = 1.0 / float(getattr(self._camera, "fps", None) or FPS)
            self._newest = (image, time.monotonic() - period_s)
            if self.fault:
                self._report(f"camera {self._name}: delivers images again")
                self.fault = ""
            self.has_image.set()

    def _failed(self, reason: str) -> None:
        if not self.fault and not self._end.is_set():
            self._report(f"camera {self._name}: {reason}. It is connected again in {PAUSE_S:g} s")
        self.fault = reason


class Feeds:
    """The cameras of a robot.

    Args:
        cameras: name -> LeRobot's camera, not connected.
    """

    def __init__(self, cameras: Mapping[str, Any]) -> None:
        self._feeds = {name: Feed(name, camera, _tell) for name, camera in cameras.items()}

    def start(self, timeout_s: float) -> None:
        """Connects all cameras at once and waits for the first image of each.

        Raises:
            DriverError: a camera has delivered none.
        """
        deadline_s = time.monotonic() + timeout_s
        for feed in self._feeds.values():
            feed.start()
        for name, feed in self._feeds.items():
            while not feed.has_image.wait(0.02):
                if feed.fault or time.monotonic() > deadline_s:
                    reason = feed.fault or f"no image within {timeout_s:g} s"
                    raise DriverError(
                        f"cameras.{name}: {reason}. Find yours with lerobot-find-cameras"
                    )

    def read(self, names: Sequence[str]) -> dict[str, Image]:
        """Returns the newest image of each camera and its capture time, without waiting."""
        found = {name: self._feeds[name].newest() for name in names if name in self._feeds}
        return {name: image for name, image in found.items() if image is not None}

    def close(self, timeout_s: float = 2.0) -> None:
        """Ends all threads and disconnects the cameras; one that hangs is left behind."""
        deadline_s = time.monotonic() + timeout_s
        for feed in self._feeds.values():
            feed.end()
        for feed in self._feeds.values():
            if feed.has_image.is_set() or feed.fault:
                feed.join(max(0.0, deadline_s - time.monotonic()))


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def take_cameras(robot: Any, prefix: str = "") -> dict[str, Any]:
    """Takes a robot's cameras away from it, by their names in its features.

    What LeRobot's robots read in `get_observation` is then the arm alone, and their `connect` and
    `disconnect` wait for no camera.
    """
    cameras = getattr(robot, "cameras", None)
    if not isinstance(cameras, dict):
        return {}
    found = {f"{prefix}{name}": camera for name, camera in cameras.items()}
    robot.cameras = {}
    return found
