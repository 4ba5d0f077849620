"""A robot's driver in a process of its own, as the policy's process sees it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from flux_core.config import bind
from flux_core.errors import ConfigError, RobotError
from flux_core.robots import RobotSpec
from flux_driver.messages import PROTOCOL_VERSION

from ..engines.core import load_core
from ..robots import driver_target
from .driver_interpreter import OLDEST, OPTION, interpreter_path, start_host, version_text
from .driver_messages import DriverCancelled, DriverEvent, DriverMail
from .niceness import Granted, set_niceness

logger = logging.getLogger(__name__)

HELLO_TIMEOUT_S = 20.0
LOAD_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 5.0
COUNTS_TIMEOUT_S = 0.5
RECORD_TIMEOUT_S = 15.0
MOVE_TIMEOUT_S = 180.0
STOP_AND_CLOSE_S = 6.5
"""What the host allows for stop() and close(), and a margin."""

__all__ = ["DriverCancelled", "DriverEvent", "DriverProcess", "SimulatedTask"]

Frames = dict[str, tuple[NDArray[np.uint8], int]]


@dataclass(frozen=True, kw_only=True)
class SimulatedTask:
    """What a simulated robot says of its task; see `SimulatedRobot`."""

    task: str
    success_stage: str
    end_state: str


class DriverProcess:
    """A driver, started but not connected; `close` is called last, and may be called at any time.

    Attributes:
        spec: the robot's description, as the driver gives it.
        simulation: the task of a simulated robot; None for a real one.
        can_home: whether the driver has `home`.
        cameras: names of the connected cameras, in the order of the link's indices.
        stage_names: the stages of a simulated robot, in the order of the progress bits.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        mail: DriverMail,
        robot: str,
        facts: dict[str, Any],
        niceness: Granted,
    ) -> None:
        self._process = process
        self._mail = mail
        self._robot = robot
        self.niceness = niceness
        self._link: Any = None
        self._connect_timeout_s = float(facts["connect_timeout_s"])
        simulation = facts["simulation"]
        self.spec = _bound_spec(robot, facts["spec"])
        self.simulation = SimulatedTask(**simulation) if simulation else None
        self.can_home = bool(facts["can_home"])
        self.cameras: tuple[str, ...] = ()
        self.stage_names: tuple[str, ...] = ()

    @classmethod
    def start(
        cls,
        robot: str,
        *,
        target: str | None = None,
        arguments: Mapping[str, object] | None = None,
        python: str | os.PathLike[str] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        max_retries: int = 5,
        niceness: int = 0,
    ) -> DriverProcess:
        """Starts the driver's process and loads the driver, without connecting it.

        Args:
            robot: the name of an entry point in that interpreter, or MODULE:CLASS.
            target: MODULE:CLASS, or the name, that the driver's process loads for `robot`, where
                these differ.
            arguments: keyword arguments of the driver's class, as plain data.
            python: the interpreter; None for this one.
            cancelled: asked while this waits.
            max_retries: how often a call of the driver that raises is tried again.
            niceness: of the driver's process, where this machine permits it.

        Raises:
            RobotError: the interpreter or the driver cannot be used.
            DriverCancelled: `cancelled()` was true.
        """
        interpreter = interpreter_path(python)
        if target is None:
            target = driver_target(robot) if python is None else robot
        process, connection = start_host(interpreter, target, arguments or {}, max_retries)
        granted = set_niceness(process.pid, niceness)
        mail = DriverMail(process, connection, robot)
        try:
            _greet(mail, interpreter, cancelled)
            described = mail.wait_for(
                "described", "the driver", timeout_s=LOAD_TIMEOUT_S, cancelled=cancelled
            )
            if "reason" in described:
                raise RobotError(_beginning_with(robot, str(described["reason"])))
            return cls(process, mail, robot, described["robot"], granted)
        except BaseException:
            _kill(process)
            mail.close()
            raise

    def connect(
        self,
        cameras: Sequence[str],
        *,
        cancelled: Callable[[], bool] = lambda: False,
        limits: RobotSpec | None = None,
        command_hz: float | None = None,
        binary_mask: NDArray[np.bool_] | None = None,
    ) -> None:
        """Connects the robot and shares memory with it; a state and all images are there then.

        Args:
            cameras: the cameras that the policy uses.
            cancelled: asked while this waits; `close` must follow.
            limits: the spec with the limits in force; the driver's own by default.
            command_hz: commands per second; the spec's control_hz by default.
            binary_mask: (action_dim,) True where commands are 0 or 1, between which they jump.

        Raises:
            RobotError: the driver cannot connect, or not within its `connect_timeout_s`.
            DriverCancelled: `cancelled()` was true.
        """
        sizes = self._mail.request(
            "connect",
            cameras=list(cameras),
            timeout_s=self._connect_timeout_s + ANSWER_TIMEOUT_S,
            cancelled=cancelled,
        )["cameras"]
        spec = limits or self.spec
        command_hz = command_hz or spec.control_hz
        max_step = np.asarray(spec.max_velocity) / command_hz
        if binary_mask is not None:
            max_step = np.where(binary_mask, np.subtract(spec.upper, spec.lower), max_step)
        self._link = load_core().SharedMemoryLink(
            action_dim=spec.action_dim,
            state_dim=spec.state_dim,
            cameras=[tuple(sizes[name]) for name in cameras],
            control_hz=command_hz,
            max_step=[] if spec.is_commanded_by_differences else max_step.tolist(),
        )
        self._mail.when_ended(self._link.set_dead)
        self._mail.request("map", descriptor=self._link.fd(), timeout_s=ANSWER_TIMEOUT_S)
        self.cameras = tuple(cameras)

    def record(
        self, descriptor: int, *, cancelled: Callable[[], bool] = lambda: False
    ) -> dict[str, Any]:
        """Has the driver's process hand what its sensors deliver to a recording process, too.

        Args:
            descriptor: of a socket to that process; it stays open here.
            cancelled: asked while this waits.

        Returns:
            `cameras`: name -> [height, width]; `extras`: what the driver delivers beside the
            policy's inputs: name -> {kind, names, shape}.

        Raises:
            RobotError: a sensor does not deliver anything.
            DriverCancelled: `cancelled()` was true.
        """
        return self._mail.request(
            "record", descriptor=descriptor, timeout_s=RECORD_TIMEOUT_S, cancelled=cancelled
        )

    @property
    def link(self) -> Any:
        """The `_core.SharedMemoryLink` to the connected driver."""
        if self._link is None:
            raise RobotError(f"{self._robot}: not connected. Call connect() first")
        return self._link

    def observe(self, cameras: Sequence[str]) -> tuple[NDArray[np.float32], int, Frames]:
        """Returns the newest state, when it was captured, and the newest images.

        Returns:
            state: (state_dim,) float32.
            captured_ns: its capture time on the monotonic clock.
            frames: camera -> (image (height, width, 3) uint8, captured_ns).
        """
        indices = [self.cameras.index(name) for name in cameras]
        state, captured_ns, frames = self.link.observe(indices)
        return state, captured_ns, {self.cameras[index]: frames[index] for index in frames}

    def begin(self, session: int, *, stop_category: int = 2) -> None:
        """Lets the driver accept the commands of a session, which may start after this.

        Args:
            session: a number above those of all sessions before.
            stop_category: how the driver stops by itself (IEC 60204-1); always 2 for a robot that
                does not hold its pose without power.

        Raises:
            RobotError: the driver has failed, or another session is still open.
        """
        self._mail.request(
            "begin", session=session, category=stop_category, timeout_s=ANSWER_TIMEOUT_S
        )

    def end(self) -> None:
        """Ends a session whose robot is at rest: its commands are ignored from now on."""
        self._mail.request("end", timeout_s=ANSWER_TIMEOUT_S)

    def command_counts(self, session: int) -> tuple[int, int] | None:
        """Returns how many commands of a session the driver has accepted, and how many were
        superseded by newer ones before it took them; None if its process does not say."""
        try:
            found = self._mail.request("counts", session=session, timeout_s=COUNTS_TIMEOUT_S)
        except RobotError:
            return None
        return int(found["accepted"]), int(found["superseded"])

    def reset(self, seed: int, *, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Starts a new episode of a simulated robot; later readings are from after the reset."""
        result = self._mail.request(
            "reset", seed=seed, timeout_s=MOVE_TIMEOUT_S, cancelled=cancelled
        )
        self.stage_names = tuple(result["stages"])

    def home(self, *, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Has the driver move the robot to its home pose, within the driver's `home_timeout_s`."""
        self._mail.request("home", timeout_s=MOVE_TIMEOUT_S, cancelled=cancelled)

    def stages(self, progress: int) -> Mapping[str, bool]:
        """Returns the stages that the progress bits of the link's status stand for."""
        return {name: bool(progress >> i & 1) for i, name in enumerate(self.stage_names)}

    def events(self) -> list[DriverEvent]:
        """Returns the events since the last call."""
        return self._mail.events()

    @property
    def failure(self) -> str | None:
        """Why the driver cannot go on; None while it can."""
        if self._mail.failure is None and self._mail.has_ended.is_set():
            return self._mail.describe_end()
        return self._mail.failure

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether the driver's process runs."""
        return not self._mail.has_ended.is_set()

    def close(self) -> None:
        """Closes the driver and ends its process: within the time that the driver may take for
        stop() and close(), or else by killing it. An interrupt does not cut this short; it is
        raised afterwards."""
        deadline_s = time.monotonic() + STOP_AND_CLOSE_S
        interrupt: KeyboardInterrupt | None = None
        is_asked = False
        while True:
            try:
                if not is_asked:
                    is_asked = True
                    self._ask_to_close(deadline_s)
                self._wait_for_end(deadline_s)
                break
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def _ask_to_close(self, deadline_s: float) -> None:
        if not self.is_alive():
            return
        try:
            answer = self._mail.request("close", timeout_s=deadline_s - time.monotonic())
            fault = str(answer["fault"])
        except RobotError as error:  # what does not answer is killed
            fault = str(error)
        if fault:
            logger.warning("%s. Check the robot", _beginning_with(self._robot, fault))

    def _wait_for_end(self, deadline_s: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline_s - time.monotonic()))
        _kill(self._process)
        self._mail.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _greet(mail: DriverMail, interpreter: str, cancelled: Callable[[], bool]) -> None:
    """Refuses a program that is not Python, is too old, or speaks another protocol."""
    expected = f"{OPTION} {interpreter}: expected a Python of at least {version_text(OLDEST)}"
    try:
        hello = mail.wait_for("hello", "hello", timeout_s=HELLO_TIMEOUT_S, cancelled=cancelled)
    except DriverCancelled:
        raise
    except RobotError as error:
        raise RobotError(
            f"{expected}, got a program that does not serve a driver ({mail.describe_end()}). "
            f"Name the interpreter of the driver"
        ) from error
    version = str(hello.get("python"))
    if tuple(map(int, version.split(".")[:2])) < OLDEST:
        raise RobotError(f"{expected}, got {version}. Name a newer interpreter")
    if hello.get("protocol") != PROTOCOL_VERSION:
        raise RobotError(
            f"{interpreter}: expected a driver host that speaks protocol {PROTOCOL_VERSION}, got "
            f"{hello.get('protocol')!r:.40}. Install the same flux on both sides"
        )


def _bound_spec(robot: str, data: object) -> RobotSpec:
    try:
        return bind(RobotSpec, data, "spec")
    except (ConfigError, RobotError) as error:
        raise RobotError(f"{robot}: {error}. Correct the spec of the driver") from error


def _beginning_with(robot: str, reason: str) -> str:
    return reason if reason.startswith(robot) else f"{robot}: {reason}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends the host and what it has started, if the host still runs."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
