"""The process that calls `ur_rtde`, whose calls may hang and keep the interpreter's lock.

It connects, then does what the driver's messages say, and reports every new packet of the
controller. It ends with its socket, and is killed with the process that has started it. Then nobody
feeds the controller's watchdog any more, and the controller stops the arm.

    driver   servo {number, q}    stop {number}
    this     stage {text}    ready {}    sample {...}    done {number, is_accepted}
             failed {reason}
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from typing import Any, Mapping

from ..clocks.device import DeviceClock
from ..messages import Channel
from ..robot import one_line
from .status import Sample, why_not_ready

DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
VARIABLES = [
    *("timestamp", "actual_q", "robot_mode", "safety_mode", "safety_status_bits"),
    *("robot_status_bits", "runtime_state", "speed_scaling", "target_speed_fraction"),
]
NOT_USED = 0.0
POLL_S = 0.002
REPORTS_PER_PERIOD = 4
FIRST_PACKET_S = 2.0
KICKS_PER_TIMEOUT = 4
LEAVE_S = 1.0


class Lost(Exception):
    """Why the controller cannot be used, in one line."""


class Control:
    """The connections to one controller.

    Args:
        channel: to the driver.
        settings: `host`, `control_hz`, `frequency`, `servo_time_s`, `lookahead_time_s`, `gain`,
            `watchdog_hz`, `stop_deceleration`, `silent_s` and `lease_s`, as the driver states them.
    """

    def __init__(self, channel: Channel, settings: Mapping[str, Any]) -> None:
        self._channel = channel
        self._settings = settings
        self._sending = threading.Lock()
        self._clock = DeviceClock()
        self._receive: Any = None
        self._control: Any = None
        self._is_servoing = False
        self._commanded_s = 0.0
        self._captured_s = 0.0  # a better measurement of the clocks must not turn time back

    def run(self) -> None:
        """Connects and serves until the driver closes its end."""
        self._connect()
        threading.Thread(target=self._guarded, args=(self._report,), daemon=True).start()
        self._say("ready")
        self._serve()

    def _guarded(self, call: Any) -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - ur_rtde may raise anything
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Reports why nothing goes on, and ends this process."""
        reason = str(error) if isinstance(error, Lost) else one_line(error)
        self._say("failed", reason=reason)
        os._exit(1)  # a call of ur_rtde may hang, and it would connect again by itself

    def _say(self, kind: str, **content: Any) -> None:
        message = {"kind": kind, **content}
        # A driver that is gone is noticed where messages are received.
        with self._sending, contextlib.suppress(OSError):
            while not self._channel.send(message):
                if kind == "sample":
                    return  # a newer one follows
                time.sleep(POLL_S)

    # Connecting.

    def _connect(self) -> None:
        host, frequency = self._settings["host"], self._settings["frequency"]
        try:
            receive = importlib.import_module("rtde_receive").RTDEReceiveInterface
            control = importlib.import_module("rtde_control").RTDEControlInterface
        except ImportError as error:
            raise Lost(f"ur_rtde cannot be imported by {sys.executable} ({error})") from error
        self._say(
            "stage",
            text="port 30004 accepts connections and does not answer within {timeout}. Restart the "
            "controller",
        )
        self._receive = receive(host, frequency, VARIABLES)
        self._say("stage", text="no packet with the arm's state has come within {timeout}")
        fault = why_not_ready(self._first())
        if fault:
            raise Lost(fault)
        self._say(
            "stage",
            text="the control program has not started within {timeout}. Switch the pendant to "
            "remote control, and close what is open on it",
        )
        self._control = control(host, frequency)
        if not self._control.setWatchdog(self._settings["watchdog_hz"]):
            raise Lost("the controller did not accept its watchdog. Start again")

    def _first(self) -> Sample:
        end_s = time.monotonic() + FIRST_PACKET_S
        while time.monotonic() < end_s:
            if self._receive.getTimestamp() > 0:
                return self._sample(time.monotonic())
            time.sleep(POLL_S)
        raise Lost(f"expected the arm's state within {FIRST_PACKET_S:g} s, got none")

    # What the controller says.

    def _sample(self, now_s: float) -> Sample:
        """Reads one packet: all of it, or the next."""
        receive = self._receive
        while True:
            timestamp_s = receive.getTimestamp()
            captured_s = min(self._clock.from_device(timestamp_s, now_s), now_s)
            sample = Sample(
                timestamp_s=timestamp_s,
                captured_s=max(captured_s, self._captured_s),
                positions=tuple(receive.getActualQ()),
                robot_mode=receive.getRobotMode(),
                safety_mode=receive.getSafetyMode(),
                safety_bits=receive.getSafetyStatusBits(),
                robot_bits=receive.getRobotStatus(),
                runtime_state=receive.getRuntimeState(),
                speed_scaling=receive.getSpeedScaling() * receive.getTargetSpeedFraction(),
            )
            if receive.getTimestamp() == timestamp_s:
                self._captured_s = sample.captured_s
                return sample
            now_s = time.monotonic()

    def _report(self) -> None:
        """Reports packets as they come; a controller without new ones is given up."""
        silent_s = self._settings["silent_s"]
        interval_s = 1 / (REPORTS_PER_PERIOD * self._settings["control_hz"])
        newest_s, changed_s, reported_s = 0.0, time.monotonic(), 0.0
        while True:
            now_s = time.monotonic()
            if not (self._receive.isConnected() and self._control.isConnected()):
                raise Lost("the controller has closed the connection. Start a new run")
            timestamp_s = self._receive.getTimestamp()
            if timestamp_s != newest_s and now_s - reported_s >= interval_s:
                newest_s, changed_s, reported_s = timestamp_s, now_s, now_s
                self._say("sample", **self._sample(now_s)._asdict())
            elif now_s - changed_s > silent_s:
                raise Lost(
                    f"the controller has been silent for {silent_s:g} s: its timestamp stands "
                    f"still. Look at the network cable and at the controller, then start a new run"
                )
            time.sleep(POLL_S)

    # What the driver says.

    def _serve(self) -> None:
        kick_s = 1 / (KICKS_PER_TIMEOUT * self._settings["watchdog_hz"])
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        while True:
            poll.poll(kick_s * 1e3)
            newest = self._newest()
            if newest is not None:
                self._do(newest)
                continue
            lease_s = time.monotonic() - self._commanded_s
            if self._is_servoing and lease_s > self._settings["lease_s"]:
                self._stop()
            self._control.kickWatchdog()

    def _newest(self) -> dict[str, Any] | None:
        """Returns the newest message; a stop goes before any command."""
        found: dict[str, Any] | None = None
        while True:
            try:
                message, _ = self._channel.receive()
            except BlockingIOError:
                return found
            except EOFError:
                self._leave()
            else:
                if found is None or found["kind"] != "stop":
                    found = message

    def _do(self, message: Mapping[str, Any]) -> None:
        if message["kind"] == "servo":
            settings = self._settings
            is_accepted = self._control.servoJ(
                message["q"],
                NOT_USED,
                NOT_USED,
                settings["servo_time_s"],
                settings["lookahead_time_s"],
                settings["gain"],
            )
            self._is_servoing = True
            self._commanded_s = time.monotonic()
        else:
            is_accepted = self._stop()
        self._say("done", number=message["number"], is_accepted=bool(is_accepted))

    def _stop(self) -> bool:
        self._is_servoing = False
        return self._control.servoStop(self._settings["stop_deceleration"])

    def _leave(self) -> None:
        """Ends the control program, if that does not hang, and this process."""
        end = threading.Thread(target=self._end_program, daemon=True)
        end.start()
        end.join(LEAVE_S)
        os._exit(0)

    def _end_program(self) -> None:
        if self._is_servoing:
            self._stop()
        self._control.stopScript()


def end_with_parent(parent: int) -> None:
    """Has the kernel kill this process when the thread that has started it ends."""
    ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def main(arguments: list[str]) -> None:
    """Runs one controller's process: DESCRIPTOR PARENT SETTINGS."""
    descriptor, parent, settings = arguments
    end_with_parent(int(parent))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver ends this process when it is time
    connection = socket.socket(fileno=int(descriptor))
    control = Control(Channel(connection), json.loads(settings))
    try:
        control.run()
    except BaseException as error:  # noqa: BLE001 - ur_rtde may raise anything
        control.fail(error)
