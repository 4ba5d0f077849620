"""Grippers of a UR arm. A gripper's opening is 0 (closed) to 1 (open), or what the spec says."""

from __future__ import annotations

import inspect
import socket
import threading
import time
from typing import Any, Mapping, Protocol

from ..robot import DriverError

PORT = 63352
TIMEOUT_S = 0.5
ACTIVATION_S = 10.0
ACTIVE = 3
INTERVAL_S = 0.015
RECONNECT_S = 0.5
LARGEST = 255


class Gripper(Protocol):
    """What the driver of an arm needs of a gripper; no method waits, except `connect`."""

    def connect(self) -> None:
        """Connects to the gripper, or raises DriverError."""
        ...

    def read(self) -> tuple[float, float]:
        """Returns the opening and when it was measured, on `time.monotonic()`."""
        ...

    def command(self, opening: float) -> None:
        """Moves towards an opening; a newer command replaces one that has not been sent."""
        ...

    def stop(self) -> None:
        """Keeps the fingers where they are: they go on holding what they hold."""
        ...

    def close(self) -> None:
        """Releases the connection; the gripper goes on holding."""
        ...


def make_gripper(host: str, settings: Mapping[str, Any] | None) -> Gripper:
    """Returns the gripper that a configuration describes.

    Args:
        host: the arm's controller, behind which a Robotiq gripper is by default.
        settings: `type` ("robotiq" or "none") and the arguments of that class; None for none.

    Raises:
        DriverError: there is no such type or key.
    """
    found = dict(settings or {"type": "none"})
    kind = found.pop("type", None)
    kinds = {"robotiq": RobotiqGripper, "none": NoGripper}
    if kind not in kinds:
        raise DriverError(f"gripper.type: expected {' or '.join(kinds)}, got {kind!r}")
    if kind == "robotiq":
        found.setdefault("host", host)
    known = [name for name in inspect.signature(kinds[kind]).parameters if name != "self"]
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise DriverError(f"gripper: expected some of {', '.join(known)}, got {unknown[0]!r}")
    return kinds[kind](**found)


class NoGripper:
    """No gripper: what was commanded last counts as measured.

    Args:
        opening: what counts as measured before the first command.
    """

    def __init__(self, *, opening: float = 1.0) -> None:
        self._opening = float(opening)

    def connect(self) -> None:
        """Does nothing."""

    def read(self) -> tuple[float, float]:
        """Returns what was commanded last, as measured now."""
        return self._opening, time.monotonic()

    def command(self, opening: float) -> None:
        """Remembers the opening."""
        self._opening = opening

    def stop(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class RobotiqGripper:
    """A Robotiq 2F-85, 2F-140 or Hand-E, through the server of its URCap.

    Args:
        host: the address of the server.
        port: its port.
        open_position: 0 to 255, where the fingers are open.
        closed_position: 0 to 255, where they are closed.
        speed: 0 to 255.
        force: 0 to 255.
        opening: of the open fingers, in the spec's unit: 1 (`normalized`), or metres.
        activate: whether `connect` may activate a gripper, which opens and closes it.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int = PORT,
        open_position: int = 0,
        closed_position: int = LARGEST,
        speed: int = LARGEST,
        force: int = 64,
        opening: float = 1.0,
        activate: bool = False,
    ) -> None:
        for name, value in (
            *(("open_position", open_position), ("closed_position", closed_position)),
            *(("speed", speed), ("force", force)),
        ):
            if not 0 <= value <= LARGEST:
                raise DriverError(f"gripper.{name}: expected 0 to {LARGEST}, got {value!r}")
        if open_position == closed_position:
            raise DriverError("gripper: expected open_position and closed_position to differ")
        self._address = (host, port)
        self._open, self._closed = open_position, closed_position
        self._speed, self._force = speed, force
        self._opening = float(opening)
        self._may_activate = bool(activate)
        self._wanted: int | None = None
        self._sent: int | None = None
        self._newest = (0.0, 0.0)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gripper", daemon=True)
        self.fault = ""

    def connect(self) -> None:
        """Connects, and reads the position.

        Raises:
            DriverError: it does not answer, is not active, or does not become so.
        """
        try:
            with Server(self._address) as server:
                self._activate(server)
                self._read(server)
        except OSError as error:
            raise DriverError(
                f"gripper: {self._address[0]}, port {self._address[1]}: {error}. Install the "
                f"gripper's URCap, or write type: none"
            ) from error
        self._thread.start()

    def _activate(self, server: Server) -> None:
        if server.get("STA") == ACTIVE:
            return
        if not self._may_activate:
            raise DriverError(
                "gripper: not active. Activate it on the pendant, or write activate: true, so that "
                "connecting does; it then opens and closes"
            )
        server.set(ACT=0)
        server.set(ACT=1)
        end_s = time.monotonic() + ACTIVATION_S
        while server.get("STA") != ACTIVE:
            if time.monotonic() > end_s:
                raise DriverError(f"gripper: not active within {ACTIVATION_S:g} s")
            time.sleep(INTERVAL_S)

    def _read(self, server: Server) -> None:
        asked_s = time.monotonic()
        position = server.get("POS")
        share = (position - self._closed) / (self._open - self._closed)
        self._newest = min(max(share, 0.0), 1.0) * self._opening, asked_s

    def read(self) -> tuple[float, float]:
        """Returns the newest opening and when it was asked for."""
        return self._newest

    def command(self, opening: float) -> None:
        """Has the thread send a position."""
        share = min(max(opening / self._opening, 0.0), 1.0)
        self._wanted = round(self._closed + share * (self._open - self._closed))

    def stop(self) -> None:
        """Sends nothing more: fingers that hold something go on holding it."""
        self._wanted = None

    def close(self) -> None:
        """Ends the thread."""
        self._end.set()

    def _run(self) -> None:
        """Sends what is wanted and reads the position, and connects again after a fault."""
        while not self._end.is_set():
            try:
                with Server(self._address) as server:
                    self._sent = None
                    while not self._end.wait(INTERVAL_S):
                        self._send(server)
                        self._read(server)
                        self.fault = ""
            except (OSError, DriverError) as error:
                self.fault = f"gripper: {error}"
                self._end.wait(RECONNECT_S)

    def _send(self, server: Server) -> None:
        wanted = self._wanted
        if wanted is not None and wanted != self._sent:
            server.set(POS=wanted, SPE=self._speed, FOR=self._force, GTO=1)
            self._sent = wanted


class Server:
    """One connection to the URCap's server: lines of text, one answer each."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address

    def __enter__(self) -> Server:
        self._connection = socket.create_connection(self._address, TIMEOUT_S)
        self._answers = self._connection.makefile("r", encoding="ascii", newline="\n")
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def get(self, variable: str) -> int:
        """Returns a variable's value."""
        words = self._ask(f"GET {variable}").split()
        if len(words) != 2 or words[0] != variable or not words[1].isdigit():
            raise OSError(f"expected the value of {variable}, got {' '.join(words)!r:.60}")
        return int(words[1])

    def set(self, **values: int) -> None:
        """Sets variables, all at once."""
        answer = self._ask("SET " + " ".join(f"{name} {value}" for name, value in values.items()))
        if answer != "ack":
            raise OSError(f"expected 'ack', got {answer!r:.60}")

    def _ask(self, request: str) -> str:
        self._connection.sendall(f"{request}\n".encode())
        answer = self._answers.readline()
        if not answer:
            raise OSError("the connection was closed")
        return answer.strip()
