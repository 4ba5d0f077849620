"""A robot, a memory and a desk at which a test turns a driver host by hand."""

from __future__ import annotations

import os
import queue
import socket
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from flux_driver.host import Host
from flux_driver.memory import Command, CommandResult, DriverPhase, Layout, Watch, WatchResult
from flux_driver.messages import Channel
from flux_driver.parent import Parent
from flux_driver.robot import described

SPEC = {
    "name": "two-joints",
    "joint_names": ("shoulder", "elbow"),
    "lower": (-1.0, -1.0),
    "upper": (1.0, 1.0),
    "max_velocity": (2.0, 2.0),
    "units": ("rad", "rad"),
    "cameras": ("top", "wrist"),
    "control_hz": 50.0,
}
PATIENCE_S = 30.0


class Arm:
    """Keeps a list of its calls; `faults[call]`, which is called first, may make one fail."""

    def __init__(self, **spec: object) -> None:
        self.spec = {**SPEC, **spec}
        self.connect_timeout_s = 20.0
        self.calls: list[tuple[Any, ...]] = []
        self.faults: dict[str, Callable[[], Any]] = {}

    def connect(self) -> None:
        self._begin("connect")

    def read_state(self) -> Any:
        found = self._begin("read_state")
        return found or (np.array([0.1, 0.2], np.float32), time.monotonic())

    def read_frames(self, cameras: Any) -> Any:
        found = self._begin("read_frames")
        image = np.zeros((4, 6, 3), np.uint8)
        return {name: (image, time.monotonic()) for name in cameras} | (found or {})

    def send(self, command: Any, time_s: float) -> None:
        self._begin("send")
        self.calls.append(("send", command.tolist(), time_s))

    def stop(self, category: int) -> None:
        self.calls.append(("stop", category))
        self._begin("stop")

    def close(self) -> None:
        self.calls.append(("close",))
        self._begin("close")

    def _begin(self, call: str) -> Any:
        return self.faults.get(call, lambda: None)()

    def named(self, call: str) -> list[tuple[Any, ...]]:
        return [found for found in self.calls if found[0] == call]


class Memory:
    """What the shared memory does, as lists."""

    def __init__(self) -> None:
        self.states: list[tuple[Any, int]] = []
        self.frames: list[tuple[int, Any, int]] = []
        self.commands: queue.Queue[Command] = queue.Queue()
        self.acknowledged: list[int] = []
        self.phases: list[DriverPhase] = [DriverPhase.CONNECTING]
        self.session = 0
        self.progress = 0
        self.beats = 0
        self.found = Watch(WatchResult.FINE, 2)
        self.scalings: list[float] = []
        self.layout = Layout(
            action_dim=2,
            state_dim=2,
            cameras=(),
            period_s=0.02,
            commands_are_differences=False,
        )

    def publish_state(self, values: Any, captured_ns: int) -> None:
        self.states.append((values.copy(), captured_ns))

    def set_speed_scaling(self, share: float) -> None:
        self.scalings.append(share)

    def publish_frame(self, camera: int, image: Any, captured_ns: int) -> None:
        self.frames.append((camera, image.shape, captured_ns))

    def begin(self, session: int) -> None:
        self.session = session

    def end(self) -> None:
        self.session = 0

    def wait_command(self, timeout_s: float) -> Command | None:
        try:
            return self.commands.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def acknowledge(self, command: Command) -> None:
        self.acknowledged.append(command.sequence)

    def beat(self) -> None:
        self.beats += 1

    def watch(self) -> Watch:
        found, self.found = self.found, Watch(WatchResult.FINE, 2)
        return found

    def set_phase(self, phase: DriverPhase) -> None:
        if phase != self.phases[-1]:
            self.phases.append(phase)

    def set_progress(self, bits: int) -> None:
        self.progress = bits


def command(sequence: int, *, session: int = 1, result: int = CommandResult.COMMAND) -> Command:
    return Command(
        result=CommandResult(result),
        values=np.array([0.5, -0.5], np.float32),
        sequence=sequence,
        session=session,
        tick_ns=3_000_000_000,
        observed_ns=1,
        sent_ns=2,
        flags=0,
        joint=1,
        step=0.5,
        max_step=0.12,
    )


class Desk:
    """A host whose main loop the test turns, and the other end of its socket."""

    def __init__(self, robot: Any, max_retries: int = 2) -> None:
        self.robot, self.memory = robot, Memory()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.policy = Channel(ours)
        self.signals: Any = SimpleNamespace(terminations=[], install=lambda: None)
        self.host = Host(
            robot=robot,
            facts=described(robot),
            channel=Channel(theirs),
            parent=Parent(os.getpid()),
            signals=self.signals,
            map_memory=lambda descriptor: self.memory,
            max_retries=max_retries,
        )
        self.messages: list[dict[str, Any]] = []
        self._num_requests = 0

    def turn_until(self, condition: Callable[[], object]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline_s, self.messages
            self.host.turn()
            self.read()

    def read(self) -> None:
        try:
            while True:
                self.messages.append(self.policy.receive()[0])
        except (BlockingIOError, EOFError, OSError):
            return

    def ask(self, kind: str, descriptor: int | None = None, **content: Any) -> dict[str, Any]:
        self._num_requests += 1
        number = self._num_requests
        if kind == "map":
            descriptor = os.open(os.devnull, os.O_RDONLY)
        self.policy.send({"kind": kind, "id": number, **content}, descriptor)
        self.turn_until(lambda: any(message.get("id") == number for message in self.messages))
        return next(message for message in self.messages if message.get("id") == number)

    def connect(self, cameras: tuple[str, ...] = ("top",)) -> None:
        assert "result" in self.ask("connect", cameras=cameras), self.messages
        assert "result" in self.ask("map")

    def begin(self, session: int = 1, category: int = 2) -> None:
        assert "result" in self.ask("begin", session=session, category=category), self.messages

    def events(self, name: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message.get("name") == name]

    def failed(self) -> list[str]:
        return [message["reason"] for message in self.messages if message["kind"] == "failed"]


class Simulated:
    """A simulated robot that does nothing but count."""

    task, success_stage, end_state = "count", "counted", "counting"

    def __init__(self) -> None:
        self.spec = SPEC
        self.num_commands = 0
        self.seeds: list[int] = []

    def connect(self) -> None: ...

    def reset(self, seed: int) -> None:
        self.seeds.append(seed)
        self.num_commands = 0

    def state(self) -> Any:
        return np.full(2, self.num_commands / 10, np.float32)

    def observe(self, prompt: str, cameras: Any) -> Any:
        return SimpleNamespace(images=self.render(cameras))

    def render(self, cameras: Any) -> Any:
        return {name: np.full((4, 6, 3), self.num_commands, np.uint8) for name in cameras}

    def command(self, action: Any) -> None:
        self.num_commands += 1

    def stages(self) -> dict[str, bool]:
        return {"counted": self.num_commands > 1, "counting": self.num_commands > 0}

    def close(self) -> None: ...
