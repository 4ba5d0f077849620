"""The policy's end of the socket to a driver host: requests and answers, events, and its death."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flux_core.errors import RobotError
from flux_driver.messages import Channel, Message

MAX_EVENTS = 10_000
POLL_S = 0.02


class DriverCancelled(RobotError):
    """The operator stopped before the driver had answered."""


@dataclass(frozen=True, kw_only=True)
class DriverEvent:
    """Something that happened in the driver's process.

    Attributes:
        time_ns: when it happened last, on the monotonic clock.
        name: its kind, such as 'read_state_failed'.
        text: one line.
        count: how often it happened since the last event of this kind.
    """

    time_ns: int
    name: str
    text: str
    count: int


class DriverMail:
    """Listens on a thread of its own, so that the host's death is seen whatever this process does.

    Attributes:
        failure: why the driver cannot go on, or None.
        has_ended: set once the host's process has ended or has closed its socket.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], connection: socket.socket, name: str
    ) -> None:
        self._process = process
        self._channel = Channel(connection)
        self._name = name
        self._condition = threading.Condition()
        self._answers: dict[object, Message] = {}
        self._events: list[DriverEvent] = []
        self._num_requests = 0
        self._on_end: Callable[[], None] = lambda: None
        self._pidfd = _pidfd(process.pid)
        self.failure: str | None = None
        self.has_ended = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="driver mail", daemon=True)
        self._thread.start()

    def when_ended(self, call: Callable[[], None]) -> None:
        """Has `call` called once the host has ended, at once if it has already."""
        with self._condition:
            self._on_end = call
            if self.has_ended.is_set():
                call()

    def events(self) -> list[DriverEvent]:
        """Returns the events since the last call."""
        with self._condition:
            events, self._events = self._events, []
            return events

    def request(
        self,
        kind: str,
        *,
        timeout_s: float,
        cancelled: Callable[[], bool] = lambda: False,
        descriptor: int | None = None,
        **content: object,
    ) -> dict[str, Any]:
        """Sends a message and returns the result in its answer.

        Raises:
            RobotError: the driver refuses, does not answer in time, or has ended.
            DriverCancelled: `cancelled()` was true while there was no answer yet.
        """
        self._num_requests += 1
        number = self._num_requests
        try:
            self._channel.send({"kind": kind, "id": number, **content}, descriptor)
        except OSError as error:
            raise RobotError(f"{self._name}: {kind}: {self.describe_end()}") from error
        answer = self.wait_for(number, kind, timeout_s=timeout_s, cancelled=cancelled)
        if "error" in answer:
            raise RobotError(f"{self._name}: {answer['error']}")
        return answer["result"]

    def wait_for(
        self,
        key: object,
        what: str,
        *,
        timeout_s: float,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Message:
        """Returns the answer with the number `key`, or the message of the kind `key`; see
        `request`."""
        deadline_s = time.monotonic() + timeout_s
        with self._condition:
            while key not in self._answers:
                if cancelled():
                    raise DriverCancelled(f"{self._name}: {what}: cancelled")
                if self.has_ended.is_set():
                    raise RobotError(f"{self._name}: {what}: {self.describe_end()}")
                if time.monotonic() > deadline_s:
                    raise RobotError(
                        f"{self._name}: {what}: expected an answer of the driver's process within "
                        f"{timeout_s:g} s, got none"
                    )
                self._condition.wait(POLL_S)
            return self._answers.pop(key)

    def describe_end(self) -> str:
        """'the driver's process has ended with exit code 1'."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(POLL_S)
        code = self._process.returncode
        if code is None:
            return "the driver's process has closed its socket"
        how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        return f"the driver's process has ended with {how}"

    def close(self) -> None:
        """Stops listening; the host's process must have ended."""
        self._thread.join()
        descriptor, self._pidfd = self._pidfd, -1
        if descriptor >= 0:
            os.close(descriptor)
        self._channel.close()

    def _listen(self) -> None:
        watched = select.poll()  # select() knows no descriptor above 1023
        for descriptor in (self._channel.fileno(), self._pidfd):
            if descriptor >= 0:
                watched.register(descriptor, select.POLLIN)
        while not self.has_ended.is_set():
            has_ended = self._pidfd in dict(watched.poll())
            try:
                while True:
                    self._take(self._channel.receive()[0])
            except BlockingIOError:
                pass
            except (EOFError, OSError):
                has_ended = True
            except ValueError as error:
                self._take({"kind": "refused", "reason": f"a message of its own: {error}"})
            if has_ended:
                self._end()

    def _end(self) -> None:
        with self._condition:
            self.has_ended.set()
            self._on_end()
            self._condition.notify_all()

    def _take(self, message: Message) -> None:
        kind = message.pop("kind")
        with self._condition:
            if kind == "event":
                self._events.append(DriverEvent(**message))
                del self._events[:-MAX_EVENTS]
            elif kind == "failed":
                self.failure = str(message["reason"])
            elif kind == "refused":
                self._answers["described"] = message
            else:
                self._answers[message.pop("id", kind)] = message
            self._condition.notify_all()


def _pidfd(pid: int) -> int:
    """Returns -1 where the kernel has none; the end of the socket is seen there, too."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1
