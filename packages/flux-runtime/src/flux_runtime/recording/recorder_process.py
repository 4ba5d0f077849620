"""`flux-data record` in a process of its own, as the policy's process sees it.

What is sent to it waits in a queue of bounded size for a thread of its own, so that nobody else
waits. `flux_data.record.packets` describes the messages.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from flux_core.errors import MissingDependencyError, RobotError

from ..realtime.niceness import set_niceness

PROTOCOL_VERSION = 1
MAX_BYTES = 1 << 18
MAX_QUEUED = 4000
"""Messages; rows come in about 25 of them per second."""
NICENESS = 5
"""Of the process and of the thread here: below the inference, which shares the CPUs. A process that
computes all the time leaves it a quarter of a CPU, which encodes three cameras of 640 x 480."""
START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 5.0
POLL_S = 0.05

Message = dict[str, Any]


def recorder_command() -> list[str]:
    """Returns the command that is `flux-data`: of this interpreter, or on PATH.

    Raises:
        MissingDependencyError: there is none.
    """
    if importlib.util.find_spec("flux_data") is not None:
        return [sys.executable, "-P", "-m", "flux_data"]
    found = shutil.which("flux-data")
    if found is None:
        raise MissingDependencyError(
            "--record-dataset: needs flux-data, which is neither installed beside flux-runtime nor "
            "on PATH. Install the package flux-data"
        )
    return [found]


class RecorderProcess:
    """The process, started.

    Attributes:
        frame_socket: for whoever shares the cameras' pictures.
        failure: why it cannot record any more; '' while it can.
        has_ended: set once the process has closed its socket.
    """

    def __init__(self, directory: Path, version: str) -> None:
        """Starts it.

        Raises:
            MissingDependencyError: flux-data is not installed.
            RobotError: it cannot be started.
        """
        command = recorder_command()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.frame_socket, its_frames = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sockets = (theirs.fileno(), its_frames.fileno())
        options = ["--to", version, "--run-socket", str(sockets[0])]
        options += ["--frame-socket", str(sockets[1])]
        with theirs, its_frames:
            try:
                self._process = subprocess.Popen(
                    [*command, "record", str(directory), *options],
                    stdin=subprocess.DEVNULL,
                    stdout=2,
                    pass_fds=sockets,
                    start_new_session=True,
                )
            except OSError as error:
                raise RobotError(f"{command[0]}: cannot be started ({error.strerror})") from error
        set_niceness(self._process.pid, NICENESS)
        self.failure = ""
        self.has_ended = threading.Event()
        self._changed = threading.Condition()
        self._queue: deque[bytes] = deque()
        self._answers: deque[Message] = deque()
        self._is_closing = False
        self._threads = [
            threading.Thread(target=run, name=f"flux-recorder-{name}", daemon=True)
            for name, run in (("send", self._send_queued), ("receive", self._receive))
        ]
        for thread in self._threads:
            thread.start()

    def send(
        self, kind: str, payload: bytes = b"", *, is_needed: bool = True, **data: object
    ) -> bool:
        """Hands a message to the thread that sends it, without waiting.

        Returns:
            Whether it will be sent: there is always room for what `is_needed`.
        """
        message = json.dumps({"kind": kind, **data}).encode() + b"\n" + payload
        with self._changed:
            if self.has_ended.is_set() or (not is_needed and len(self._queue) >= MAX_QUEUED):
                return False
            self._queue.append(message)
            self._changed.notify_all()
        return True

    def wait_for(
        self,
        kinds: tuple[str, ...],
        timeout_s: float,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Message | None:
        """Returns the next message of one of the kinds; None if none came in time, the process has
        ended, or `cancelled()` was true."""
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            while True:
                while self._answers:
                    message = self._answers.popleft()
                    if message["kind"] in kinds:
                        return message
                if self.has_ended.is_set() or cancelled() or time.monotonic() > deadline_s:
                    return None
                self._changed.wait(POLL_S)

    def describe_end(self) -> str:
        """'the recording process has ended with exit code 1'."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_TIMEOUT_S if self.has_ended.is_set() else POLL_S)
        code = self._process.returncode
        if code is None:
            return "the recording process does not answer"
        how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        return f"the recording process has ended with {how}"

    def close(self) -> None:
        """Ends the process, which loses what it has not written yet."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self.frame_socket.close()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_TIMEOUT_S)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join()
        self._socket.close()

    def _send_queued(self) -> None:
        with suppress(OSError):  # of this thread only
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while True:
            with self._changed:
                while not self._queue and not self._is_closing:
                    self._changed.wait()
                if self._is_closing:
                    return
                message = self._queue.popleft()
            try:
                self._socket.send(message, socket.MSG_NOSIGNAL)
            except OSError:
                return  # the other thread notices the end

    def _receive(self) -> None:
        while True:
            try:
                data = self._socket.recv(MAX_BYTES)
            except OSError:
                data = b""
            with self._changed:
                if not data:
                    self.has_ended.set()
                    self._changed.notify_all()
                    return
                message: Message = json.loads(data.split(b"\n", 1)[0])
                if message["kind"] == "failed":
                    self.failure = str(message["reason"])
                self._answers.append(message)
                self._changed.notify_all()
