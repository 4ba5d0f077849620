"""The driver's end of the process that calls `ur_rtde`; no call here hangs."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
from typing import Any, Mapping

from ..messages import Channel
from ..robot import DriverError
from .status import Sample

PROGRAM = """
import importlib.util, sys
folder = sys.argv[1]
spec = importlib.util.spec_from_file_location(
    "flux_driver", folder + "/__init__.py", submodule_search_locations=[folder])
package = importlib.util.module_from_spec(spec)
sys.modules["flux_driver"] = package
spec.loader.exec_module(package)
importlib.import_module("flux_driver.ur.control").main(sys.argv[2:])
"""
"""Loads this package from its folder, as the driver host does."""


PROCESS_START_S = 12.0
"""How long the interpreter may take to load `ur_rtde`; a busy computer needs seconds."""


class UrController:
    """One controller behind a process that may hang or be killed.

    Args:
        settings: see `control.Control`.

    Attributes:
        newest: the newest sample; None until there is one.
        fault: why the controller is lost for good, or ''.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = dict(settings)
        self._condition = threading.Condition()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._channel: Channel | None = None
        self._stage = ""
        self._is_ready = False
        self._is_closing = False
        self._number = 0
        self._done: tuple[int, bool] = (0, False)
        self.newest: Sample | None = None
        self.num_samples = 0
        self.fault = ""

    def start(self, timeout_s: float) -> None:
        """Connects to the controller and starts its control program.

        Args:
            timeout_s: how long the controller may take, from when the process is there.

        Raises:
            DriverError: it is not reachable, not ready, or does not answer in time.
        """
        threading.Thread(target=self._keep, name="ur_rtde", daemon=True).start()
        with self._condition:
            if not self._condition.wait_for(
                lambda: bool(self._stage or self.fault), PROCESS_START_S
            ):
                self.fault = f"the process of ur_rtde did not start within {PROCESS_START_S:g} s"
            self._condition.wait_for(lambda: bool(self._is_ready or self.fault), timeout_s)
            if self._is_ready:
                return
            reason = self.fault or self._stage.format(timeout=f"{timeout_s:g} s")
        self.kill()
        raise DriverError(f"{self._settings['host']}: {reason}")

    def _keep(self) -> None:
        """Starts the process and reads its messages.

        The kernel kills the process when this thread ends, so it lasts as long as the driver.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        descriptor = str(theirs.fileno())
        settings = json.dumps(self._settings)
        with self._condition:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, folder, descriptor, str(os.getpid()), settings],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
            self._socket, self._channel = ours, Channel(ours)
        theirs.close()
        poll = select.poll()
        poll.register(ours.fileno(), select.POLLIN)
        while True:
            poll.poll()
            try:
                message, _ = self._channel.receive()
            except BlockingIOError:
                continue
            except EOFError:
                break
            self._take(message)
        code = self._process.wait()
        with self._condition:
            if not self.fault and not self._is_closing:
                self.fault = f"the process of ur_rtde has ended (exit status {code})"
            self._condition.notify_all()

    def _take(self, message: Mapping[str, Any]) -> None:
        with self._condition:
            if message["kind"] == "sample":
                self.newest = Sample.of(message)
                self.num_samples += 1
            elif message["kind"] == "done":
                self._done = message["number"], message["is_accepted"]
            elif message["kind"] == "stage":
                self._stage = message["text"]
            elif message["kind"] == "ready":
                self._is_ready = True
            elif message["kind"] == "failed":
                self.fault = self.fault or message["reason"]
            self._condition.notify_all()

    def wait_for_sample(self, num_samples: int, timeout_s: float) -> None:
        """Waits until more than `num_samples` have come, but not for long."""
        with self._condition:
            self._condition.wait_for(
                lambda: bool(self.num_samples > num_samples or self.fault), timeout_s
            )

    def servo(self, positions: list[float], timeout_s: float) -> None:
        """Passes on a command, (6,) rad, and waits until `servoJ` has returned.

        Raises:
            DriverError: it does not return in time, or the controller does not take it.
        """
        if not self._ask("servo", timeout_s, q=positions):
            raise DriverError("servoJ: the controller does not take commands")

    def stop(self, timeout_s: float) -> bool:
        """Has the arm brake; returns whether the controller has taken it in time."""
        try:
            return self._ask("stop", timeout_s)
        except DriverError:
            return False

    def _ask(self, kind: str, timeout_s: float, **content: Any) -> bool:
        with self._condition:
            if self.fault or self._channel is None:
                raise DriverError(self.fault or "expected a connected controller")
            self._number += 1
            number = self._number
            try:
                is_sent = self._channel.send({"kind": kind, "number": number, **content})
            except OSError as error:
                raise DriverError("the process of ur_rtde has ended") from error
            if is_sent:
                self._condition.wait_for(
                    lambda: bool(self._done[0] >= number or self.fault), timeout_s
                )
            if self.fault:
                raise DriverError(self.fault)
            if self._done[0] < number:
                raise DriverError(f"{kind}: ur_rtde did not return within {timeout_s:g} s")
            return self._done[1]

    def close(self, timeout_s: float) -> None:
        """Ends the control program and the process."""
        with self._condition:
            self._is_closing = True
            connection, process = self._socket, self._process
        if connection is None or process is None:
            return
        with contextlib.suppress(OSError):  # the process may be gone already
            connection.shutdown(socket.SHUT_RDWR)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Ends the process at once; the controller's watchdog then stops the arm."""
        with self._condition:
            self._is_closing = True
            process = self._process
        if process is not None:
            process.kill()
            process.wait()
