"""The arms of one of LeRobot's robots: those parts of it that have a motor bus of LeRobot's."""

from __future__ import annotations

import time
from contextlib import suppress
from shlex import quote
from typing import Any, NamedTuple, Sequence

from ..robot import DriverError, one_line

POSITION = ".pos"
SILENCE_S = 0.02
SETTLE_S = 0.1
"""A late answer comes within the time that a scheduler or a USB adapter holds it back."""


class MotorBusError(DriverError):
    """A bus on which an answer was lost although all motors answer: worth another try."""


class Arm(NamedTuple):
    """A robot, or a part of one, with a motor bus.

    Attributes:
        prefix: of its motors' names in the robot's features, such as 'left_'.
        robot: the object of LeRobot's that has the bus.
        bus: the motor bus.
    """

    prefix: str
    robot: Any
    bus: Any

    @property
    def is_serial(self) -> bool:
        """Whether its positions are steps that a calibration file turns into the robot's unit, as
        with Feetech's and Dynamixel's motors; others, such as CAN motors, know their angles."""
        return hasattr(self.bus, "model_resolution_table")

    def motor(self, joint: str) -> str | None:
        """Returns the motor's name for a joint of the robot; None for another arm's."""
        name = joint[: -len(POSITION)] if joint.endswith(POSITION) else joint
        if not name.startswith(self.prefix):
            return None
        name = name[len(self.prefix) :]
        return name if name in self.bus.motors else None


def arms_of(robot: Any, joints: Sequence[str]) -> tuple[Arm, ...]:
    """Returns the arms of a robot; none if it has no bus that flux knows, as plugins may."""
    if _has_bus(robot):
        found = [Arm("", robot, robot.bus)]
    else:
        parts = {name: part for name, part in vars(robot).items() if _has_bus(part)}
        found = [Arm(_prefix(name, part, joints), part, part.bus) for name, part in parts.items()]
    return tuple(arm for arm in found if any(arm.motor(joint) for joint in joints))


def _has_bus(part: Any) -> bool:
    motors = getattr(getattr(part, "bus", None), "motors", None)
    return isinstance(motors, dict) and hasattr(part, "config")


def _prefix(name: str, part: Any, joints: Sequence[str]) -> str:
    """'left_' for the attribute `left_arm`, if the robot's features begin so."""
    prefix = name.split("_")[0] + "_"
    is_used = any(f"{prefix}{motor}{POSITION}" in joints for motor in part.bus.motors)
    return prefix if is_used else ""


def require_calibration(arms: Sequence[Arm], kind: str) -> None:
    """Refuses an arm that has no calibration file; nothing is connected for it.

    Raises:
        DriverError: the message says how to calibrate.
    """
    for arm in arms:
        if not arm.is_serial:
            continue
        missing = [motor for motor in arm.bus.motors if motor not in arm.bus.calibration]
        if missing:
            got = "no such file" if not arm.bus.calibration else f"none of {', '.join(missing)}"
            raise DriverError(
                f"expected a calibration of {_which(arm)} in {arm.robot.calibration_fpath}, got "
                f"{got}. Calibrate it first: {calibrate_command(arm, kind)}"
            )


def check_motors(arm: Arm, kind: str) -> None:
    """Opens a serial bus, and refuses motors that do not answer or have another calibration.

    Torque and goals are left as they are, and the bus is closed again.

    Raises:
        DriverError: the message names the motors.
    """
    if not arm.is_serial:
        return
    try:
        _open(arm)
        different = _different_calibrations(arm)
    finally:
        with suppress(Exception):  # the fault above is the one to be told
            arm.bus.disconnect(disable_torque=False)
    if different:
        raise DriverError(
            f"{_which(arm)}: the calibration in {arm.robot.calibration_fpath} is not the one that "
            f"the motors have: {'; '.join(different)}. Write the file's to the motors (press "
            f"ENTER when asked) or calibrate again: {calibrate_command(arm, kind)}"
        )


def _open(arm: Arm) -> None:
    try:
        arm.bus.connect()
    except Exception as error:
        raise _fault(arm, error) from error


def _fault(arm: Arm, error: BaseException) -> DriverError:
    silent = silent_motors(arm)
    if silent:
        return DriverError(silent)
    kind = MotorBusError if arm.bus.is_connected else DriverError
    return kind(f"{_which(arm)}: {one_line(error)}")


def forget_answers(arm: Arm) -> int:
    """Drops what has arrived on a bus that nobody waits for; returns how many bytes.

    The motors' SDK takes the next answer of a motor for the one that it waits for, also if it
    belongs to an earlier question: a late answer would be read as a position.
    """
    port = getattr(getattr(arm.bus, "port_handler", None), "ser", None)
    if port is None or not arm.bus.is_connected:
        return 0
    try:
        waiting = port.in_waiting
        if waiting:
            port.reset_input_buffer()
    except OSError:  # a port that is gone: the call that follows says so
        return 0
    return int(waiting)


def settle(arm: Arm) -> None:
    """Waits until a bus is silent, after a call that failed."""
    deadline_s = time.monotonic() + SETTLE_S
    is_silent = False
    while not is_silent and time.monotonic() < deadline_s:
        time.sleep(SILENCE_S)
        is_silent = not forget_answers(arm)
    handler = getattr(arm.bus, "port_handler", None)
    if handler is not None and hasattr(handler, "is_using"):
        handler.is_using = False  # of a call that an exception has cut short


def silent_motors(arm: Arm) -> str:
    """Returns which motors of an open bus do not answer, in one line; '' if all do or none can be
    asked."""
    if not arm.bus.is_connected or not hasattr(arm.bus, "ping"):
        return ""
    settle(arm)
    try:
        return _silent_motors(arm)
    finally:
        settle(arm)


def _silent_motors(arm: Arm) -> str:
    silent = []
    for name, motor in arm.bus.motors.items():
        try:
            answers = arm.bus.ping(name, num_retry=1) is not None
        except Exception:  # noqa: BLE001 - a port that is gone: its own error says so
            return ""
        if not answers:
            silent.append(f"{arm.prefix}{name} (id {motor.id})")
    if not silent:
        return ""
    verb = "do" if len(silent) > 1 else "does"
    return (
        f"{', '.join(silent)} on {arm.bus.port} {verb} not answer. Check its cable and the power "
        f"supply"
    )


def _different_calibrations(arm: Arm) -> list[str]:
    """Returns the motors that do not have the calibration of the file, with both values."""
    try:
        if arm.bus.is_calibrated:
            return []
        theirs = arm.bus.read_calibration()
    except Exception as error:
        raise _fault(arm, error) from error
    fields = ("homing_offset", "range_min", "range_max")
    return [
        f"{arm.prefix}{motor}: expected {_values(stated, fields)}, got {_values(found, fields)}"
        for motor, found in theirs.items()
        for stated in [arm.bus.calibration[motor]]
        if any(getattr(stated, name) != getattr(found, name) for name in fields)
    ] or ["LeRobot says that they differ"]


def _values(calibration: Any, fields: Sequence[str]) -> str:
    return ", ".join(f"{name} {getattr(calibration, name)}" for name in fields)


def hold_when_enabled(arm: Arm) -> None:
    """Lets the arm stay where it is when its torque is switched on.

    LeRobot switches the torque off and on while it configures the motors. Without this, they would
    return to the goals that they had before with all their speed, after the arm has sagged.
    """
    if not arm.is_serial:
        return
    enable = arm.bus.enable_torque

    def enable_here(*arguments: Any, **options: Any) -> Any:
        read = arm.bus.read  # motor by motor: some of Feetech's know no sync_read
        present = {
            motor: read("Present_Position", motor, normalize=False) for motor in arm.bus.motors
        }
        arm.bus.sync_write("Goal_Position", present, normalize=False)
        return enable(*arguments, **options)

    arm.bus.enable_torque = enable_here


def calibrate_command(arm: Arm, kind: str) -> str:
    """Returns the command that calibrates an arm."""
    config = arm.robot.config
    options = {"type": kind, "port": getattr(config, "port", None), "id": config.id}
    if config.calibration_dir:
        options["calibration_dir"] = config.calibration_dir
    stated = {name: str(value) for name, value in options.items() if value is not None}
    return " ".join(
        ["lerobot-calibrate", *(f"--robot.{name}={quote(text)}" for name, text in stated.items())]
    )


def _which(arm: Arm) -> str:
    return f"the {arm.prefix.rstrip('_')} arm" if arm.prefix else "the arm"
