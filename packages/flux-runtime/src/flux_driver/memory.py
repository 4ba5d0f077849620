"""The driver's end of the memory that it shares with the policy's process."""

from __future__ import annotations

import ctypes
import enum
import threading
from ctypes import POINTER, byref, c_float, c_uint8, c_uint32
from typing import NamedTuple

import numpy as np

from .library import (
    CommandStruct,
    CountersStruct,
    DriverMemoryError,
    LayoutStruct,
    library_path,
    load_library,
)


class CommandResult(enum.IntEnum):
    """What became of a command. Only a `COMMAND` is to be executed."""

    COMMAND = 0
    TOO_OLD = 2
    """Dropped: it was sent more than three periods ago."""
    STEP = 3
    """Refused: `joint` would move by `step`, more than the `max_step` of three nominal ones."""
    NOT_FINITE = 4
    """Refused: `joint` is a NaN or an infinity."""
    OTHER_SESSION = 5
    """Ignored: its session has ended, or has not begun."""
    NO_STATE = 6
    """Refused: the first command of a session has to be near a state, and none was published."""


class WatchResult(enum.IntEnum):
    """What the policy's side is doing. All but `FINE` have ended the session."""

    FINE = 0
    SILENT = 1
    """No sign of life for more than three periods."""
    STOP = 2
    """It asks for a stop."""
    CLOSED = 3
    """It has gone; no session will follow."""


class DriverPhase(enum.IntEnum):
    """What the driver tells the policy's side about itself."""

    CONNECTING = 0
    READY = 1
    STOPPED = 2
    FAILED = 3
    CLOSED = 4


class Layout(NamedTuple):
    """What both sides have agreed on.

    Attributes:
        action_dim: values of a command.
        state_dim: values of a state.
        cameras: (height, width) in pixels, in the order of the cameras' indices.
        period_s: between two commands.
        commands_are_differences: whether commands are changes, whose steps are not checked.
    """

    action_dim: int
    state_dim: int
    cameras: tuple[tuple[int, int], ...]
    period_s: float
    commands_are_differences: bool


class Command(NamedTuple):
    """One command and what became of it. Times are nanoseconds of `time.monotonic_ns()`.

    Attributes:
        result: whether to execute it.
        values: (action_dim,) float32, a copy.
        sequence: counted from 1 within the session; an overwritten command leaves a gap.
        session: the session that it belongs to.
        tick_ns: the time for which the limits were applied.
        observed_ns: the oldest capture time of what it was made from; 0 if none.
        sent_ns: when it left the control loop.
        flags: the control loop's tick flags.
        joint: the joint for which it was refused; -1 if none.
        step: how far that joint would have moved, in its unit.
        max_step: how far it may.
    """

    result: CommandResult
    values: np.ndarray
    sequence: int
    session: int
    tick_ns: int
    observed_ns: int
    sent_ns: int
    flags: int
    joint: int
    step: float
    max_step: float


class Watch(NamedTuple):
    """What `DriverMemory.watch` found; `category` (0, 1 or 2) is the stop that is asked for."""

    result: WatchResult
    category: int


class Counters(NamedTuple):
    """Commands that were not executed since the memory was opened, by reason."""

    dropped_old: int
    refused_steps: int
    refused_not_finite: int
    refused_sessions: int
    overwritten: int


class DriverMemory:
    """The driver's end of the memory.

    States, frames (per camera), commands and `watch` may each have a thread of their own. Times are
    nanoseconds of `time.monotonic_ns()`.
    """

    def __init__(self, fd: int, library: str | None = None) -> None:
        """Maps the memory.

        Args:
            fd: the memory's descriptor; it stays open, and is not needed afterwards.
            library: the path of the C library; by default the package's own.

        Raises:
            DriverMemoryError: a library or a memory of another version, sizes in it that contradict
                each other, or a memory that already has a driver.
        """
        self._library = load_library(library or library_path())
        error = ctypes.create_string_buffer(256)
        self._handle = self._library.flux_driver_open(fd, error, len(error))
        if not self._handle:
            raise DriverMemoryError(error.value.decode("utf-8", "replace"))
        self._closing = threading.Lock()
        self.layout = self._read_layout()
        self._values = np.zeros(self.layout.action_dim, np.float32)
        self._command = CommandStruct()

    def _read_layout(self) -> Layout:
        layout = LayoutStruct()
        self._library.flux_driver_layout(self._handle, byref(layout))
        cameras = []
        height, width = c_uint32(), c_uint32()
        for camera in range(layout.num_cameras):
            self._library.flux_driver_camera(self._handle, camera, byref(height), byref(width))
            cameras.append((height.value, width.value))
        return Layout(
            action_dim=layout.action_dim,
            state_dim=layout.state_dim,
            cameras=tuple(cameras),
            period_s=layout.period_ns * 1e-9,
            commands_are_differences=bool(layout.commands_are_differences),
        )

    def close(self) -> None:
        """Unmaps the memory. No other call may be running, or follow."""
        with self._closing:
            handle, self._handle = self._handle, None
        if handle:
            self._library.flux_driver_close(handle)

    def publish_state(self, values: np.ndarray, captured_ns: int) -> None:
        """Publishes a state; one thread at a time.

        Args:
            values: (state_dim,), converted to float32.
            captured_ns: when it was captured.

        Raises:
            DriverMemoryError: another shape.
        """
        state = np.ascontiguousarray(values, np.float32)
        if state.shape != (self.layout.state_dim,):
            raise DriverMemoryError(
                f"state: expected shape ({self.layout.state_dim},), got {state.shape}"
            )
        pointer = state.ctypes.data_as(POINTER(c_float))
        self._library.flux_driver_publish_state(
            self._open_handle(), pointer, state.size, int(captured_ns)
        )

    def set_speed_scaling(self, share: float) -> None:
        """Says at which share of its commanded speed the robot moves by its own decision.

        Args:
            share: 0 to 1, for the states that are published afterwards; 1 until the first call.

        Raises:
            DriverMemoryError: another number.
        """
        if self._library.flux_driver_set_speed_scaling(self._open_handle(), float(share)) != 0:
            raise DriverMemoryError(f"speed scaling: expected 0 to 1, got {share}")

    def publish_frame(self, camera: int, image: np.ndarray, captured_ns: int) -> None:
        """Publishes an image; one thread per camera at a time.

        Args:
            camera: its index.
            image: (height, width, 3) uint8, RGB, of the size in the layout.
            captured_ns: when it was captured.

        Raises:
            DriverMemoryError: an unknown camera, or an image of another type or size.
        """
        cameras = self.layout.cameras
        if not 0 <= camera < len(cameras):
            raise DriverMemoryError(f"camera: expected an index below {len(cameras)}, got {camera}")
        height, width = cameras[camera]
        if image.dtype != np.uint8 or image.shape != (height, width, 3):
            raise DriverMemoryError(
                f"camera {camera}: expected uint8 ({height}, {width}, 3), got {image.dtype} "
                f"{image.shape}. A camera may not change its size"
            )
        pixels = np.ascontiguousarray(image).ctypes.data_as(POINTER(c_uint8))
        self._library.flux_driver_publish_frame(
            self._open_handle(), camera, pixels, height, width, int(captured_ns)
        )

    def begin(self, session: int) -> None:
        """Accepts commands of `session` from now on, while the policy announces that it runs.

        Raises:
            DriverMemoryError: the number is not larger than every earlier one.
        """
        if self._library.flux_driver_begin(self._open_handle(), session) != 0:
            raise DriverMemoryError(
                f"session: expected a number above every earlier one and below 2**48, got {session}"
            )

    def end(self) -> None:
        """Accepts no commands until the next `begin`. For the driver's own stop."""
        self._library.flux_driver_end(self._open_handle())

    def wait_command(self, timeout_s: float) -> Command | None:
        """Waits for the newest command that was not returned yet, without the GIL.

        One thread at a time. The first command of a session is compared with the newest state, the
        others with the last one that was returned as `CommandResult.COMMAND`.

        Returns:
            The command, which is to be executed only if its result says so; None if none arrived.
        """
        pointer = self._values.ctypes.data_as(POINTER(c_float))
        result = self._library.flux_driver_wait_command(
            self._open_handle(), pointer, byref(self._command), int(timeout_s * 1e9)
        )
        if result == 1:
            return None
        found = self._command
        return Command(
            result=CommandResult(result),
            values=self._values.copy(),
            sequence=found.sequence,
            session=found.session,
            tick_ns=found.tick_ns,
            observed_ns=found.observed_ns,
            sent_ns=found.sent_ns,
            flags=found.flags,
            joint=found.joint,
            step=found.step,
            max_step=found.max_step,
        )

    def acknowledge(self, command: Command) -> None:
        """Says that the robot has accepted the command."""
        self._library.flux_driver_acknowledge(
            self._open_handle(), command.session, command.sequence
        )

    def beat(self) -> None:
        """Gives a sign of life; at least once per period."""
        self._library.flux_driver_beat(self._open_handle())

    def watch(self) -> Watch:
        """Looks at what the policy's side is doing; at least once per period.

        Each `SILENT` and `STOP` is returned once; `CLOSED` stays.
        """
        category = c_uint32()
        result = self._library.flux_driver_watch(self._open_handle(), byref(category))
        return Watch(WatchResult(result), category.value)

    def set_phase(self, phase: DriverPhase) -> None:
        """Tells the policy's side what the driver is doing."""
        self._library.flux_driver_set_phase(self._open_handle(), int(phase))

    def set_progress(self, bits: int) -> None:
        """Tells the policy's side which stages a simulated robot has reached, one bit per stage."""
        self._library.flux_driver_set_progress(self._open_handle(), bits)

    def counters(self) -> Counters:
        """Returns how many commands were not executed, by reason."""
        counters = CountersStruct()
        self._library.flux_driver_counters(self._open_handle(), byref(counters))
        return Counters(
            dropped_old=counters.dropped_old,
            refused_steps=counters.refused_steps,
            refused_not_finite=counters.refused_not_finite,
            refused_sessions=counters.refused_sessions,
            overwritten=counters.overwritten,
        )

    def _open_handle(self) -> int:
        handle = self._handle
        if not handle:
            raise DriverMemoryError("driver memory: expected an open one, got a closed one")
        return handle
