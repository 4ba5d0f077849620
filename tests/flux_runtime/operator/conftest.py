"""A small real arm with a prepare pose, an operator who follows a script, and a fake evdev."""

from __future__ import annotations

import os
import socket
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flux_runtime.operator import OperatorStatus

ARM = '''
import os, time
import numpy as np
from flux_core.robots import RobotSpec

SPEC = RobotSpec(
    name="small-arm", joint_names=("a", "b"), lower=(-1.0, -1.0), upper=(1.0, 1.0),
    max_velocity=(1.0, 1.0), units=("rad", "rad"), cameras=(), control_hz=25.0,
    prepare_pose=(0.3, 0.0),
)


class Arm:
    """Appends what is asked of it to the file that CALLS names; obeys also after a stop."""

    spec = SPEC

    def __init__(self):
        self.position = np.array([0.2, -0.1], np.float32)

    def _note(self, call):
        with open(os.environ["CALLS"], "a") as file:
            file.write(call + "\\n")

    def connect(self): self._note("connect")
    def read_state(self):
        time.sleep(0.005)
        return self.position, time.monotonic()
    def read_frames(self, cameras): return {}
    def send(self, command, time_s):
        self.position = command
        self._note("send %.6f %.6f" % tuple(command))
    def stop(self, category): self._note(f"stop {category}")
    def close(self): self._note("close")
'''
FIRST_LEFT_S = 20.0


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Makes the arm importable as small_real_arm:Arm, here and in its process; yields the file
    that it writes its calls to."""
    folder = tmp_path_factory.mktemp("arm")
    (folder / "small_real_arm.py").write_text(ARM)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        paths = filter(None, (str(folder), os.environ.get("PYTHONPATH")))
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        patch.setenv("CALLS", str(folder / "calls"))
        yield folder / "calls"


@dataclass(frozen=True)
class Cue:
    """What the operator does once the status is like this."""

    state: str
    do: str | Callable[[], None]
    left_s: float | None = None
    after: str = ""  # that was said

    def fits(self, status: OperatorStatus, said: list[str]) -> bool:
        """Whether it is time."""
        if status.state != self.state:
            return False
        if self.after and not any(self.after in text for text in said):
            return False
        return self.left_s is None or (status.left_s is not None and status.left_s < self.left_s)


class ScriptedOperator:
    """Reads the screen, and writes the next line of the script when its cue comes.

    Attributes:
        descriptor: where the lines arrive.
        shown: the statuses, without those that differ only in the time that is left.
        said: what was said.
        written: line -> when it was last written, on the monotonic clock.
    """

    def __init__(self, *script: Cue) -> None:
        self.descriptor, self._write = os.pipe()
        self.shown: list[OperatorStatus] = []
        self.said: list[str] = []
        self.written: dict[str, float] = {}
        self._script = list(script)

    def show(self, status: OperatorStatus) -> None:
        """Follows the script."""
        if not self.shown or self.shown[-1].state != status.state:
            self.shown.append(status)
        if self._script and self._script[0].fits(status, self.said):
            do = self._script.pop(0).do
            if isinstance(do, str):
                self.write(do)
            else:
                do()

    def say(self, text: str) -> None:
        """Keeps the text."""
        self.said.append(text)

    def write(self, line: str) -> None:
        """Sends a line."""
        self.written[line] = time.monotonic()
        os.write(self._write, line.encode() + b"\n")

    def hang_up(self) -> None:
        """Ends the channel."""
        os.close(self._write)
        self._write = -1

    @property
    def is_done(self) -> bool:
        """Whether the whole script was followed."""
        return not self._script

    def close(self) -> None:
        """Closes both ends."""
        if self._write >= 0:
            os.close(self._write)
        os.close(self.descriptor)


class FakeInputDevice:
    """As evdev's: a descriptor to wait for, events to read, and the keys that are held."""

    name = "Pedal"

    def __init__(self, path: str) -> None:
        if not path.startswith("/dev/input/"):
            raise FileNotFoundError(2, "No such file or directory")
        self.path = path
        self.held: set[int] = set()
        self.is_unplugged = False
        self._ours, self._test = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)

    def capabilities(self) -> dict[int, list[int]]:
        return {1: [288, 289], 3: []}

    def fileno(self) -> int:
        return self._ours.fileno()

    def active_keys(self) -> list[int]:
        if self.is_unplugged:
            raise OSError(19, "No such device")
        return sorted(self.held)

    def read(self) -> Iterator[types.SimpleNamespace]:
        data = self._ours.recv(64)
        if not data:
            raise OSError(19, "No such device")
        code, value = data.split()
        yield types.SimpleNamespace(type=1, code=int(code), value=int(value))

    def close(self) -> None:
        self._ours.close()
        self._test.close()

    # What the test does.

    def press(self, code: int = 288, *, is_held: bool = True) -> None:
        """Presses or releases a button."""
        (self.held.add if is_held else self.held.discard)(code)
        self._test.send(f"{code} {int(is_held)}".encode())

    def unplug(self) -> None:
        """Takes the device away."""
        self.is_unplugged = True
        self._test.close()


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeInputDevice]:
    """A module evdev; returns the devices that were opened, by path."""
    opened: dict[str, FakeInputDevice] = {}

    def open_device(path: str) -> FakeInputDevice:
        opened[path] = FakeInputDevice(path)
        opened[path].held.add(288)
        return opened[path]

    evdev = types.ModuleType("evdev")
    names = {"BTN_TRIGGER": 288, "BTN_THUMB": 289, "KEY_A": 30}
    vars(evdev)["InputDevice"] = open_device
    vars(evdev)["ecodes"] = types.SimpleNamespace(
        ecodes=names,
        BTN={288: ["BTN_JOYSTICK", "BTN_TRIGGER"], 289: "BTN_THUMB"},
        KEY={30: "KEY_A"},
    )
    monkeypatch.setitem(sys.modules, "evdev", evdev)
    return opened
