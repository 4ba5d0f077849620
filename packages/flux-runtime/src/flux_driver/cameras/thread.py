"""The thread that reads one camera, and opens it again after it was unplugged."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable

from .source import CameraError, CameraSource, EndOfVideo, Image, rotated

WAITS_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Between two attempts to open a camera again; the last one for all that follow."""

RATE_WINDOW_S = 2.0
LEAST_RATE = 0.9


class CameraThread:
    """Keeps the newest image of one camera.

    Args:
        name: of the camera, for messages.
        source: the camera, which only this thread calls.
        rotation: degrees clockwise.
        fps: the rate that was asked for; None for any.
        warmup_s: how long images are thrown away after the device was opened.
        end: set when the thread is to end.
        report: gets what happens, one line each.

    Attributes:
        newest: the newest image and its capture time; None before the first one. The image is never
            written again.
        fault: why the camera delivers nothing at present; '' if it does.
        has_first: set once there is an image, or there will be none.
    """

    def __init__(
        self,
        name: str,
        source: CameraSource,
        *,
        rotation: int,
        fps: float | None,
        warmup_s: float,
        end: threading.Event,
        report: Callable[[str], None],
    ) -> None:
        self._name = name
        self._source = source
        self._rotation = rotation
        self._rate = _Rate(fps)
        self._warmup_s = warmup_s
        self._end = end
        self._report = report
        self._thread = threading.Thread(target=self._run, name=f"camera {name}", daemon=True)
        self.newest: Image | None = None
        self.fault = ""
        self.has_first = threading.Event()

    def start(self) -> None:
        """Starts to open and to read the camera."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Waits for the thread, which ends after the image that it waits for; False if it hangs."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        attempts = 0
        while not self._end.is_set():
            try:
                self._source.open()
                attempts = 0 if self._read_until_a_fault() else attempts
            except EndOfVideo as end:
                self._fail(str(end))
                break
            except Exception as error:  # noqa: BLE001 - a camera's library may raise anything
                self._fail(_text(error))
            finally:
                self._close()
            if self.newest is None:  # the first attempt: `Cameras.start` says why it failed
                break
            self._end.wait(WAITS_S[min(attempts, len(WAITS_S) - 1)])
            attempts += 1

    def _read_until_a_fault(self) -> bool:
        """Reads images until one does not come; returns whether there was any."""
        open_until_s = time.monotonic() + self._warmup_s
        has_read = False
        self._rate.begin()
        while not self._end.is_set():
            try:
                image, time_s = self._source.read()
            except EndOfVideo:
                raise
            except Exception as error:  # noqa: BLE001 - a camera's library may raise anything
                self._fail(_text(error))
                return has_read
            if time.monotonic() < open_until_s:
                continue
            self._take(rotated(image, self._rotation), time_s)
            has_read = True
        return has_read

    def _take(self, image: Any, time_s: float) -> None:
        if self.newest is not None:
            before, newest_s = self.newest
            if image.shape != before.shape:
                raise CameraError(f"expected {before.shape} as before, got {image.shape}")
            if time_s < newest_s:
                return
        if self.fault:
            away_s = time.monotonic() - (self.newest[1] if self.newest else time_s)
            self._report(f"camera {self._name}: delivers again, after {away_s:.1f} s")
        self.newest, self.fault = (image, time_s), ""
        self.has_first.set()
        slow = self._rate.fault(time_s)
        if slow:
            self._report(f"camera {self._name}: {slow}")

    def _fail(self, reason: str) -> None:
        """Reports a fault, the first time that it happens in a row."""
        if self._end.is_set():
            return
        if self.newest is not None and reason != self.fault:
            self._report(f"camera {self._name}: {reason}")
        self.fault = reason
        self.has_first.set()

    def _close(self) -> None:
        try:
            self._source.close()
        except Exception as error:  # noqa: BLE001 - a camera's library may raise anything
            self._report(f"camera {self._name}: cannot be closed ({_text(error)})")


class _Rate:
    """Compares the rate at which images were captured with the one that was asked for, once."""

    def __init__(self, fps: float | None) -> None:
        self._fps = fps
        self.begin()

    def begin(self) -> None:
        """Counts from here."""
        self._first_s = 0.0
        self._num_images = 0

    def fault(self, time_s: float) -> str:
        """Returns what to report after an image that was captured at `time_s`, or ''."""
        if self._fps is None:
            return ""
        self._first_s = self._first_s or time_s
        self._num_images += 1
        passed_s = time_s - self._first_s
        if passed_s < RATE_WINDOW_S:
            return ""
        expected, found = self._fps, (self._num_images - 1) / passed_s
        self._fps = None
        if found >= LEAST_RATE * expected:
            return ""
        return (
            f"expected {expected:g} images per second, got {found:.1f}. Little light (automatic "
            f"exposure) or a shared USB port may be the reason"
        )


def _text(error: BaseException) -> str:
    if isinstance(error, CameraError):
        return str(error)
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")[:300]
