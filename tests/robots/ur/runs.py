"""Runs of `flux-runtime run` against the fake controller of a UR arm."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from flux_core.robots import ROBOT_SPECS

from ..policy import write_bundle
from ..ros1 import RosSystem, read_log
from ..runs import Run, finish, running

FOLDER = Path(__file__).parent
SPEC = ROBOT_SPECS["ur3"]
START = (0.4, -1.6, 1.6, -1.6, -1.57, 0.0)
GRIPPER = 0.8
PERIOD_S = 1 / SPEC.control_hz
WATCHDOG_HZ = 3.0
CARRIED = (
    *("name", "joint_names", "lower", "upper", "max_velocity"),
    *("units", "cameras", "control_hz"),
)
SPEED_AT_REST = 0.02
PAUSE_S = 2.0
MESSAGES = {
    "Header": "uint32 seq\ntime stamp\nstring frame_id\n",
    "StampedFloat32": "Header header\nfloat32 data\n",
}
"""Of std_msgs, and of the package robotiq that the tutorial's gripper needs."""
_SPAWNING = threading.Lock()
_NUMBERS = count(os.getpid())

Fault = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One run.

    Attributes:
        faults: the controller's schedule, see `controller.py`.
        kill: "policy", "driver" or "ur_rtde": what is killed 1.5 s after the first servoj; or
            "node", which is paused then for PAUSE_S.
        seconds: how long the arm is driven.
        arguments: further ones of `flux-runtime run`.
        config: further entries of the file of --robot-config.
        environment: "rtde" or "ros1", whose Python the driver has.
    """

    faults: Sequence[Fault] = ()
    kill: str = ""
    seconds: float = 4.0
    arguments: Sequence[str] = ()
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    environment: str = "rtde"


@dataclass(frozen=True)
class Outcome:
    """What a run has printed, and what the controller has logged."""

    run: Run
    log: list[dict[str, Any]]

    def times_s(self, what: str) -> NDArray[np.float64]:
        """When something happened, by the controller's clock."""
        return np.array([line["t"] * 1e-9 for line in self.log if line["what"] == what])

    def first_s(self, what: str) -> float:
        """When something happened first."""
        found = self.times_s(what)
        assert len(found), f"the controller has no {what!r} in its log: {self.run.errors}"
        return float(found[0])

    def values(self, what: str, key: str) -> NDArray[np.float64]:
        """The vectors of a kind of line, (N, 6)."""
        return np.array([line[key] for line in self.log if line["what"] == what])

    def rest_s(self, since_s: float) -> float:
        """How long after a moment the arm last moved, by its own samples."""
        times, positions = self.times_s("position"), self.values("position", "measured")
        speeds = np.abs(np.diff(positions, axis=0)).max(axis=1) / np.diff(times)
        moving = times[1:][(speeds > SPEED_AT_REST) & (times[1:] > since_s)]
        return float(moving[-1] - since_s) if len(moving) else 0.0


def address() -> str:
    """Returns a loopback address of this process and run, on which nobody listens."""
    while True:
        number = next(_NUMBERS)
        found = f"127.{1 + number // 62500 % 250}.{number // 250 % 250}.{1 + number % 250}"
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((found, 30004))
            return found


@contextmanager
def controller(
    folder: Path, faults: Sequence[Fault] = (), start: Sequence[float] = START
) -> Iterator[str]:
    """Runs the fake controller meanwhile; yields its address."""
    host = address()
    command = [sys.executable, str(FOLDER / "controller.py"), str(folder), host]
    command += ["--faults", json.dumps(list(faults)), "--start", json.dumps(list(start))]
    with _spawn(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield host
        finally:
            process.kill()


def _spawn(command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """Starts a process; one thread at a time, because the child shares our memory until it runs."""
    with _SPAWNING:
        return subprocess.Popen(command, text=True, **options)


def write_video(path: Path, shade: int) -> Path:
    """Writes two seconds of a picture in which a line moves."""
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(30))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(60):
            image = np.full((48, 64, 3), shade, np.uint8)
            image[index % 48] = 255
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def make_bundle(folder: Path) -> Path:
    """Writes a policy whose shoulder and wrist go round in circles."""
    fields = asdict(SPEC)
    spec = {name: fields[name] for name in CARRIED}
    rest = [*START, GRIPPER]
    return write_bundle(folder, spec, rest=rest, pairs=[(0, 1), (3, 4)], radius=0.2)


def write_config(folder: Path, host: str, more: Mapping[str, Any]) -> Path:
    """Writes the file of --robot-config."""
    config = {
        "host": host,
        "watchdog_hz": WATCHDOG_HZ,
        "gripper": {"type": "robotiq", "open_position": 3, "closed_position": 230},
        "cameras": {
            name: {"type": "video", "path": str(write_video(folder / f"{name}.mp4", shade))}
            | {"loop": True}
            for name, shade in zip(SPEC.cameras, (70, 140), strict=True)
        },
    }
    path = folder / "robot.json"
    path.write_text(json.dumps(config | dict(more)))
    return path


def run(folder: Path, python: Path, scenario: Scenario) -> Outcome:
    """Runs a scenario to its end."""
    folder.mkdir(parents=True)
    bundle = make_bundle(folder / "bundle")
    if scenario.environment == "ros1":
        return run_over_ros(folder, python, bundle, scenario)
    with controller(folder, scenario.faults) as host:
        config = write_config(folder, host, scenario.config)
        return drive(
            [
                *("--robot", "ur3", "--transport", "rtde", "--robot-config", str(config)),
                *("--driver-python", str(python), "--bundle", str(bundle), *scenario.arguments),
            ],
            folder / "log.jsonl",
            scenario,
        )


def run_over_ros(folder: Path, python: Path, bundle: Path, scenario: Scenario) -> Outcome:
    """Runs a scenario over a ROS master of its own."""
    ros = RosSystem(python, folder)
    ros.environment.update(make_workspace(python, folder / "workspace"))
    config = folder / "robot.json"
    config.write_text(json.dumps(dict(scenario.config)))
    log = folder / "log.jsonl"
    given = ("--start", json.dumps(START), "--faults", json.dumps(list(scenario.faults)))
    with ros.master(), ros.node(FOLDER / "node.py", str(log), *given) as node:
        return drive(
            [
                *("--robot", "ur3", "--robot-config", str(config), "--bundle", str(bundle)),
                *scenario.arguments,
            ],
            log,
            scenario,
            ros.environment,
            node.pid,
        )


def make_workspace(python: Path, folder: Path) -> dict[str, str]:
    """Makes a workspace with the package robotiq; returns the variables that sourcing it sets."""
    packages = folder / "lib/python3/dist-packages"
    messages = packages / "robotiq/msg"
    messages.mkdir(parents=True)
    (packages / "robotiq/__init__.py").touch()
    for name, text in MESSAGES.items():
        (folder / f"{name}.msg").write_text(text)
    generate = [str(python), "/usr/lib/genpy/genmsg_py.py", "-o", str(messages)]
    given = ["-p", "robotiq", f"-Istd_msgs:{folder}", str(folder / "StampedFloat32.msg")]
    for arguments in (given, ["--initpy"]):
        subprocess.run([*generate, *arguments], check=True, capture_output=True)
    return {"CMAKE_PREFIX_PATH": str(folder), "PYTHONPATH": str(packages)}


def drive(
    arguments: Sequence[str],
    log: Path,
    scenario: Scenario,
    environment: Mapping[str, str] | None = None,
    node: int = 0,
) -> Outcome:
    """Runs the command, kills what the scenario says, and waits until the robot stands."""
    steps = str(round(scenario.seconds * SPEC.control_hz))
    common = ("--task", "circle", "--mode", "async", "--episodes", "1", "--json")
    variables = dict(environment or os.environ) | {"OMP_NUM_THREADS": "1"}
    found: list[int] = []
    with running(*arguments, *common, "--max-steps", steps, environment=variables) as process:
        arguments_of_watch = (process, log, scenario, found, node)
        watch = threading.Thread(target=_watch, args=arguments_of_watch, daemon=True)
        watch.start()
        try:
            outcome = finish(process, scenario.seconds + 60)
            time.sleep(0.5)  # for what the driver does once the command is gone
        finally:
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    return Outcome(outcome, read_log(log))


def _watch(
    process: subprocess.Popen[str], log: Path, scenario: Scenario, found: list[int], node: int
) -> None:
    """Notes the processes of a run, and kills one of them when it is time."""
    if not wait_for(lambda: first_servoj_s(log) is not None or process.poll() is not None, 60):
        return
    driver = child_of(process.pid, "flux_driver/__main__.py")
    ur_rtde = child_of(driver, "flux_driver.ur.control")
    found += [pid for pid in (driver, ur_rtde) if pid]
    if scenario.kill:
        begun_s = first_servoj_s(log)
        assert begun_s is not None
        wait_for(lambda: time.monotonic() - begun_s > 1.5, 2)
        pids = {"policy": process.pid, "driver": driver, "ur_rtde": ur_rtde, "node": node}
        with log.open("a") as stream:
            stream.write(json.dumps({"t": time.monotonic_ns(), "what": "kill"}) + "\n")
        if scenario.kill == "node":
            os.kill(node, signal.SIGSTOP)
            time.sleep(PAUSE_S)
            os.kill(node, signal.SIGCONT)
        else:
            os.kill(pids[scenario.kill], signal.SIGKILL)


def wait_for(is_true: Callable[[], bool], limit_s: float) -> bool:
    """Looks until something is true or the limit has passed."""
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        if is_true():
            return True
        time.sleep(0.02)
    return False


def first_servoj_s(log: Path) -> float | None:
    """When the controller got the first command, or None."""
    for line in read_log(log):
        if line["what"] == "servoj":
            return line["t"] * 1e-9
    return None


def child_of(parent: int, words: str) -> int:
    """Returns the process that `parent` has started with these words in its command; 0 if none."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            stat = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            if int(stat[1]) == parent and words in (folder / "cmdline").read_text():
                return int(folder.name)
    return 0
