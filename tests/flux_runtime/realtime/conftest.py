"""A driver in a module of its own, which a driver host loads by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flux_runtime.realtime import DriverProcess

DRIVER = """
import os, time
import numpy as np

class Arm:
    spec = dict(
        name="two-joints", joint_names=("shoulder", "elbow"), lower=(-1.0, -1.0), upper=(1.0, 1.0),
        max_velocity=(2.0, 2.0), units=("rad", "rad"), cameras=("top",), control_hz=10.0,
    )
    position = np.zeros(2, np.float32)

    def log(self, *words):
        with open(os.environ["ARM_LOG"], "a") as file:
            print(*words, file=file, flush=True)

    def connect(self):
        self.log("connect", os.getpid())

    def read_state(self):
        return self.position, time.monotonic()

    def read_frames(self, cameras):
        return {name: (np.full((8, 8, 3), 7, np.uint8), time.monotonic()) for name in cameras}

    def send(self, command, time_s):
        self.position = command
        self.log("send", *command)

    def stop(self, category):
        self.log("stop", category)

    def close(self):
        self.log("close")


class Hanging(Arm):
    def connect(self):
        self.log("connect", os.getpid())
        time.sleep(60)


class NeverClosing(Arm):
    def close(self):
        self.log("close")
        time.sleep(60)


class Addressed(Arm):
    def __init__(self, address, *, port=7):
        self.log("address", len(address["host"]), port)
"""


class ArmLog:
    """The folder of the driver's module, and what the driver has written down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "arm.log"
        (folder / "an_arm.py").write_text(DRIVER)

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []


@pytest.fixture
def arm_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArmLog:
    """Makes `an_arm:Arm` loadable in a driver host of this interpreter."""
    log = ArmLog(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("ARM_LOG", str(log.path))
    return log


@pytest.fixture
def start(core: Any, arm_log: ArmLog) -> Iterator[Callable[..., DriverProcess]]:
    """Starts driver processes, and ends them with the test."""
    started: list[DriverProcess] = []

    def begin(robot: str = "an_arm:Arm", **settings: Any) -> DriverProcess:
        started.append(DriverProcess.start(robot, **settings))
        return started[-1]

    yield begin
    for driver in started:
        driver.close()
