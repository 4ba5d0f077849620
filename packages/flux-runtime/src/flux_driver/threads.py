"""The threads that call a driver: here those that read states and frames; see `commands` too.

A call that hangs stops its own thread only. A call that raises is tried again one period later.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Sequence

import numpy as np

from .events import Events, Retries
from .readings import (
    CaptureTimes,
    ReadingError,
    as_pair,
    checked_image,
    checked_scaling,
    checked_state,
)
from .robot import one_line

WAIT_S = 0.05


class DriverThread:
    """A daemon thread that repeats `step` until `end` is called or it has failed too often.

    Attributes:
        failure: why it has given up; '' while it runs.
    """

    def __init__(self, call: str, events: Events, *, max_retries: int, pause_s: float) -> None:
        self._events = events
        self._retries = Retries(call, max_retries, events)
        self._pause_s = pause_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name=call, daemon=True)
        self.failure = ""

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def end(self) -> None:
        """Asks the thread to end; a call that hangs is left behind."""
        self._end.set()

    def step(self) -> bool:
        """Calls the driver once; returns False if it was not called."""
        raise NotImplementedError

    def _run(self) -> None:
        while not self._end.is_set() and not self.failure:
            try:
                was_called = self.step()
            except BaseException as error:  # noqa: BLE001 - a driver may raise SystemExit, too
                self.failure = self._retries.failed(one_line(error))
                self._end.wait(self._pause_s)
            else:
                if was_called:
                    self._retries.worked()


class Reader(DriverThread):
    """Reads in turn, at most once per `interval_s`, and publishes once memory is mapped.

    Attributes:
        has_first: set when there is enough for the policy's process to size the memory.
        num_read: calls of the driver that have returned.
        fault: why a reading was refused last, or ''.
    """

    def __init__(
        self, call: str, events: Events, *, max_retries: int, pause_s: float, interval_s: float
    ) -> None:
        super().__init__(call, events, max_retries=max_retries, pause_s=pause_s)
        self._interval_s = interval_s
        self._next_s = 0.0
        self._mapped = threading.Event()
        self._memory: Any = None
        self.has_first = threading.Event()
        self.num_read = 0
        self.fault = ""

    def publish_to(self, memory: Any) -> None:
        """Publishes the first reading, and lets the thread, which waits after it, go on."""
        self._memory = memory
        self.publish_first()
        self._mapped.set()

    def step(self) -> bool:
        """Reads once, not before its time."""
        if self.has_first.is_set() and not self._mapped.wait(WAIT_S):
            return False
        self._end.wait(max(0.0, self._next_s - time.monotonic()))
        self._next_s = time.monotonic() + self._interval_s
        self.read()
        self.num_read += 1
        return True

    def publish_first(self) -> None:
        """Publishes what was read before memory was mapped."""
        raise NotImplementedError

    def read(self) -> None:
        """Calls the driver, checks what it returns and publishes it."""
        raise NotImplementedError


class StateReader(Reader):
    """Calls `read_state`, and `speed_scaling` if the robot has it, at most twice per control
    period."""

    def __init__(
        self, robot: Any, names: Sequence[str], period_s: float, events: Events, max_retries: int
    ) -> None:
        super().__init__(
            "read_state",
            events,
            max_retries=max_retries,
            pause_s=period_s,
            interval_s=period_s / 2,
        )
        self._robot = robot
        scaling = getattr(robot, "speed_scaling", None)
        self._read_scaling = scaling if callable(scaling) else None
        warnings = getattr(robot, "take_warnings", None)
        self._take_warnings: Any = warnings if callable(warnings) else None
        self._scaling = 1.0
        self._names = tuple(names)
        self._times = CaptureTimes("read_state()")
        self._first: Any = None

    def publish_first(self) -> None:
        """Publishes the first state."""
        self._publish(self._first)

    def _publish(self, state: Any) -> None:
        if self._read_scaling is not None:
            self._memory.set_speed_scaling(self._scaling)
        self._memory.publish_state(state, self._times.newest_ns)

    def read(self) -> None:
        """Publishes a state that is finite and newer than the one before it."""
        try:
            found = self._robot.read_state()
        finally:
            self._report_warnings()
        values, time_s = as_pair(found, "read_state()")
        scaling = 1.0 if self._read_scaling is None else self._read_scaling()
        try:
            self._scaling = checked_scaling(scaling)
            state = checked_state(values, self._names)
            is_new = self._times.accept(time_s)
        except ReadingError as error:
            if error.name == "wrong_type":  # a mistake in the code, not of a sensor
                raise
            self.fault = str(error)
            self._events.report(error.name, str(error))
            return
        if self._memory is None:
            self._first = state.copy()  # a driver may fill its arrays again
            self.has_first.set()
        elif is_new:
            self._publish(state)

    def _report_warnings(self) -> None:
        """Passes on what the driver has to say, also when its call has failed."""
        if self._take_warnings is not None:
            for name, text in self._take_warnings():
                self._events.report(name, text)


class FramesReader(Reader):
    """Calls `read_frames` at most once per control period.

    Attributes:
        sizes: (height, width) of each camera's first image, which later ones must have.
    """

    def __init__(
        self,
        robot: Any,
        cameras: Sequence[str],
        period_s: float,
        events: Events,
        max_retries: int,
    ) -> None:
        super().__init__(
            "read_frames", events, max_retries=max_retries, pause_s=period_s, interval_s=period_s
        )
        self._robot = robot
        self._times = {name: CaptureTimes(name) for name in cameras}
        self._cameras = tuple(cameras)
        self._first: dict[str, Any] = {}
        self._sender: Any = None
        self.sizes: dict[str, list[int]] = {}

    def publish_first(self) -> None:
        """Publishes the first image of each camera."""
        for index, name in enumerate(self._cameras):
            image = self._first.pop(name)
            self._memory.publish_frame(index, image, self._times[name].newest_ns)

    def record_to(self, sender: Any) -> None:
        """Hands every image to a `FrameSender` from now on, right before it is published."""
        for name, (height, width) in self.sizes.items():
            sender.add_stream(name, (height, width, 3), np.uint8)
        self._sender = sender

    def missing(self) -> list[str]:
        """Returns the cameras that have not delivered an image yet."""
        return [name for name in self._cameras if name not in self.sizes]

    def read(self) -> None:
        """Publishes the images that are new."""
        frames = self._robot.read_frames(self._cameras)
        if not isinstance(frames, dict):
            raise ReadingError(
                "wrong_type", f"expected {{camera: (image, time_s)}}, got {type(frames).__name__}"
            )
        for index, name in enumerate(self._cameras):
            if name in frames:
                try:
                    self._publish(index, name, frames[name])
                except ReadingError as error:
                    self.fault = str(error)
                    self._events.report(f"{error.name} {name}", str(error))
        if not self.missing():
            self.has_first.set()

    def _publish(self, index: int, name: str, found: Any) -> None:
        image, time_s = as_pair(found, f"read_frames(): {name}")
        image = checked_image(image, name)
        size = list(image.shape[:2])
        height, width = self.sizes.get(name, size)
        if size != [height, width]:
            raise ReadingError(
                "image_size",
                f"{name}: expected {height} x {width} pixels as at connect, got "
                f"{size[0]} x {size[1]}",
            )
        if not self._times[name].accept(time_s):
            return
        if self._memory is None:
            self.sizes[name] = size
            self._first[name] = image.copy()  # the driver may use its buffer again
            return
        captured_ns = self._times[name].newest_ns
        if self._sender is not None:
            self._sender.put(name, image, captured_ns)
        self._memory.publish_frame(index, image, captured_ns)
