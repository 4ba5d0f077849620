"""A UR arm over RTDE, without ROS: `servoJ` of `ur_rtde`, a gripper, and this machine's cameras."""

from __future__ import annotations

import time
from typing import Any, Mapping, Sequence

import numpy as np

from ..cameras import Cameras, open_cameras
from ..events import DriverWarnings
from ..robot import DriverError
from . import dashboard
from .controller import UrController
from .gripper import Gripper, make_gripper
from .status import Sample, why_ended

ARM_DIM = 6
CAMERAS_S, CONTROLLER_S = 15.0, 12.0
NEW_STATE_S = 0.1
SEND_S = 0.5
SERVO_STOP_S, REST_S = 0.15, 0.3
"""With the dashboard between them and once more to rest, they fit into a stop's one second."""
REST_RAD = 0.002
LEASE_PERIODS = 3
REMOVES_POWER = (0, 1)
FULL_SPEED = 0.99
RANGES = {
    "servo_time_s": (0.002, 0.1),
    "lookahead_time_s": (0.03, 0.2),  # of servoj, UR's script manual
    "gain": (100.0, 2000.0),  # the same
    "watchdog_hz": (1.0, 100.0),
    "stop_deceleration": (0.5, 50.0),
    "silent_s": (0.2, 10.0),
}


class UrRtdeDriver:
    """One UR arm with a gripper or without.

    Args:
        spec: the robot's description: six joints, and a gripper last if it has one.
        host: the controller's address.
        gripper: `{"type": "robotiq", ...}` or `{"type": "none"}`; see `gripper`.
        cameras: for each camera of the spec its type and keys; see `flux_driver.cameras`.
        lookahead_time_s: of servoj, 0.03 to 0.2: the arm's motion is smoothed over this time.
        gain: of servoj, 100 to 2000: how stiffly the arm follows.
        servo_time_s: of servoj: how long it moves towards one command before it takes the newest.
        watchdog_hz: the controller stops the arm unless it hears something at this rate.
        stop_deceleration: of servoStop, m/s^2 of the tool.
        silent_s: how long the controller may be silent before it is given up.
        frequency: of RTDE; -1 for the controller's own.
        controller_timeout_s: how long `connect` waits for the controller.
    """

    connect_timeout_s = 40.0

    def __init__(
        self,
        *,
        spec: Mapping[str, Any],
        host: str,
        gripper: Mapping[str, Any] | None = None,
        cameras: Mapping[str, Mapping[str, Any]] | None = None,
        lookahead_time_s: float = 0.1,
        gain: float = 300.0,
        servo_time_s: float = 0.008,
        watchdog_hz: float = 10.0,
        stop_deceleration: float = 10.0,
        silent_s: float = 1.0,
        frequency: float = -1.0,
        controller_timeout_s: float = CONTROLLER_S,
    ) -> None:
        self.spec = _with_following_error(spec, lookahead_time_s)
        self._host = str(host)
        self._controller_timeout_s = float(controller_timeout_s)
        control_hz = float(spec["control_hz"])
        settings = {
            "servo_time_s": servo_time_s,
            "lookahead_time_s": lookahead_time_s,
            "gain": gain,
            "watchdog_hz": watchdog_hz,
            "stop_deceleration": stop_deceleration,
            "silent_s": silent_s,
        }
        _check_ranges(settings)
        self._controller = UrController(
            {
                **settings,
                "host": self._host,
                "control_hz": control_hz,
                "frequency": float(frequency),
                "lease_s": max(LEASE_PERIODS / control_hz, 1 / watchdog_hz),
            }
        )
        has_gripper = len(spec["joint_names"]) == ARM_DIM + 1
        if not has_gripper and gripper is not None:
            raise DriverError("gripper: expected none, because the spec has six joints")
        self._gripper: Gripper | None = make_gripper(self._host, gripper) if has_gripper else None
        self._warnings = DriverWarnings()
        self._cameras: Cameras = open_cameras(cameras or {}, report=self._warn_of_camera)
        self._num_seen = 0
        self._fault = ""
        self._is_off = False
        self._is_slowed = False

    def _warn_of_camera(self, line: str) -> None:
        self._warnings.add("camera", line)

    def connect(self) -> None:
        """Opens the cameras and the gripper, and starts the control program on the controller.

        Raises:
            DriverError: one of them cannot be used.
        """
        self._cameras.start(CAMERAS_S)
        if self._gripper is not None:
            self._gripper.connect()
        self._controller.start(self._controller_timeout_s)

    def read_state(self) -> tuple[np.ndarray, float]:
        """Returns the measured joints and the gripper, float32, and the older capture time.

        Raises:
            DriverError: the arm is no longer under control; for good.
        """
        self._controller.wait_for_sample(self._num_seen, NEW_STATE_S)
        self._num_seen = self._controller.num_samples
        sample = self._checked()
        if self._gripper is None:
            return np.array(sample.positions, np.float32), sample.captured_s
        opening, read_s = self._gripper.read()
        state = np.array((*sample.positions, opening), np.float32)
        return state, min(sample.captured_s, read_s)

    def _checked(self) -> Sample:
        """Returns the newest sample, unless the arm cannot be commanded."""
        sample = self._controller.newest
        if not self._fault and not self._is_off:
            self._fault = self._controller.fault
            if sample is not None and not self._fault:
                self._fault = why_ended(sample)
        if self._fault:
            raise DriverError(self._fault)
        if sample is None:
            raise DriverError("expected a connected controller")
        return sample

    def speed_scaling(self) -> float:
        """Returns the share of its commanded speed at which the arm moves by its own decision."""
        sample = self._controller.newest
        share = 1.0 if sample is None else sample.share_of_speed
        is_slowed = share < FULL_SPEED
        if is_slowed and not self._is_slowed:
            text = f"the controller moves the arm at {share:.0%} of its speed; so do we"
            self._warnings.add("reduced_speed", text)
        self._is_slowed = is_slowed
        return share

    def read_frames(self, cameras: Sequence[str]) -> dict[str, tuple[np.ndarray, float]]:
        """Returns the newest image of each camera, (height, width, 3) uint8, and its capture time.

        Raises:
            DriverError: a camera is not configured.
        """
        missing = [name for name in cameras if name not in self._cameras.names]
        if missing:
            known = ", ".join(self._cameras.names) or "none"
            raise DriverError(
                f"cameras: expected {missing[0]}, got {known}. Add it to the cameras of "
                f"--robot-config"
            )
        return self._cameras.read(cameras)

    def send(self, command: np.ndarray, time_s: float) -> None:
        """Passes on a command; returns once `servoJ` has taken it.

        Raises:
            DriverError: it does not take it, or the arm is no longer under control.
        """
        self._checked()
        values = [float(value) for value in command]
        self._controller.servo(values[:ARM_DIM], SEND_S)
        if self._gripper is not None:
            self._gripper.command(values[ARM_DIM])

    def stop(self, category: int) -> None:
        """Has the arm brake, one way or another; for categories 0 and 1, removes the power then.

        Raises:
            DriverError: the controller does not answer on any port.
        """
        if self._gripper is not None:
            self._gripper.stop()
        is_taken = not self._fault and self._controller.stop(SERVO_STOP_S)
        if not is_taken or not self._comes_to_rest():
            self._stop_program()
        if category in REMOVES_POWER:
            self._is_off = True
            dashboard.power_off(self._host)

    def _stop_program(self) -> None:
        """Stops the arm past `ur_rtde`, after which only a new run can move it."""
        self._fault = self._fault or "the control program was stopped through the dashboard"
        reason = dashboard.stop_program(self._host)
        if reason and not self._comes_to_rest():
            raise DriverError(
                f"{reason}. It is not known whether the arm stands: use the emergency stop"
            )

    def _comes_to_rest(self) -> bool:
        """Returns whether the measured joints stand still soon: an answer alone proves nothing."""
        end_s = time.monotonic() + REST_S
        before = self._controller.newest
        while time.monotonic() < end_s:
            self._controller.wait_for_sample(self._controller.num_samples + 1, REST_S / 3)
            newest = self._controller.newest
            if before is not None and newest is not None and newest is not before:
                moved = np.subtract(newest.positions, before.positions)
                if np.abs(moved).max() < REST_RAD:
                    return True
            before = newest
        return False

    def take_warnings(self) -> list[tuple[str, str]]:
        """Returns what has been noticed since the last call, as (kind of fault, line)."""
        found = self._warnings.take()
        fault = getattr(self._gripper, "fault", "")
        return [*found, ("gripper", fault)] if fault else found

    def close(self) -> None:
        """Ends the control program and the connections; the arm stays under power where it is."""
        self._controller.close(timeout_s=2.0)
        if self._gripper is not None:
            self._gripper.close()
        self._cameras.close()


def _check_ranges(settings: Mapping[str, float]) -> None:
    for name, value in settings.items():
        low, high = RANGES[name]
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            raise DriverError(f"{name}: expected a number from {low:g} to {high:g}, got {value!r}")


def _with_following_error(spec: Mapping[str, Any], lookahead_time_s: float) -> dict[str, Any]:
    """Adds to the tolerance what servoj's smoothing lets the arm lag behind its command."""
    found = dict(spec)
    names = list(found["joint_names"])
    if len(names) not in (ARM_DIM, ARM_DIM + 1):
        raise DriverError(
            f"spec.joint_names: expected six joints, and a gripper or none, got {len(names)}"
        )
    if not found.get("max_following_error"):
        arm = [(0.1 + lookahead_time_s) * value for value in found["max_velocity"][:ARM_DIM]]
        grippers = zip(found["upper"][ARM_DIM:], found["lower"][ARM_DIM:])
        found["max_following_error"] = [*arm, *(upper - lower for upper, lower in grippers)]
    return found
