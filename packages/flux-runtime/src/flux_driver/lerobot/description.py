"""The description of a LeRobot robot: names and units from its class, limits from its calibration
and from the user's file."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Sequence

from ..robot import DriverError
from .arms import POSITION, Arm
from .settings import OPTION, OWN_KEY, JointValues

CONTROL_HZ = 30.0
"""LeRobot records at 30 frames per second unless told otherwise."""
DEGREES_PER_S = 60.0
PERCENT_PER_S = 100.0
"""What nobody states: about 1 rad/s, and a gripper that opens within a second. The servos of these
arms do several times as much; people who tele-operate them reach about 150 degrees per second."""
LAG_S = 0.1
SAG_DEGREES = 10.0
"""How far an arm may be behind its command: it lags by a servo's time constant and the bus, as
others do, and sags under its own weight, because LeRobot sets a low proportional gain."""
AHEAD_PERIODS = 3
"""By how many periods a command may be newer than the position that LeRobot compares it with."""

Values = Dict[str, float]


class Description:
    """What is known of a robot before it is connected.

    Args:
        kind: the type of the robot.
        joints: the names of its actions, in LeRobot's order.
        cameras: the names of its cameras.
        arms: the parts that have motor buses.
        ours: the entries of ours in the file.
        control_hz: commands per second, if the file does not say.

    Attributes:
        spec: the fields of a RobotSpec.
        reach: how far a command may be ahead of the measured position, per joint.
        notes: lines about values that nobody has stated.
    """

    def __init__(
        self,
        *,
        kind: str,
        joints: Sequence[str],
        cameras: Sequence[str],
        arms: Sequence[Arm],
        ours: Mapping[str, Any],
        control_hz: float | None,
    ) -> None:
        self._joints = tuple(joints)
        self._arms = tuple(arms)
        self._stated = JointValues(ours, joints)
        self.notes: list[str] = []
        self._control_hz = self._rate(ours, control_hz)
        units = self._units()
        lower, upper = self._positions()
        velocity = self._velocities(units)
        following = self._following_errors(units, velocity, lower, upper)
        self._reach = {
            joint: following[joint] + AHEAD_PERIODS * velocity[joint] / self._control_hz
            for joint in joints
        }
        self.reach = self._row(self._reach)
        self.spec: dict[str, Any] = {
            "name": kind,
            "joint_names": list(joints),
            "cameras": list(cameras),
            "control_hz": self._control_hz,
            "units": [units[joint] for joint in joints],
            "lower": self._row(lower),
            "upper": self._row(upper),
            "max_velocity": self._row(velocity),
            "max_following_error": self._row(following),
            **self._optional(),
        }

    def relative_targets(self, arm: Arm | None) -> Values:
        """Returns LeRobot's `max_relative_target` for the motors of an arm, or of all joints.

        LeRobot compares a command with the measured position. What the safety filter lets through
        is never farther ahead than this: an arm that falls behind by more is stopped first.
        """
        if arm is None:
            return {_bare(joint): self._reach[joint] for joint in self._joints}
        motors = {joint: arm.motor(joint) for joint in self._joints}
        return {motor: self._reach[joint] for joint, motor in motors.items() if motor}

    def _rate(self, ours: Mapping[str, Any], default: float | None) -> float:
        stated = ours.get("control_hz", default)
        if stated is None:
            self.notes.append(
                f"control_hz: {CONTROL_HZ:g}, as LeRobot records unless told otherwise. Set "
                f"{OWN_KEY}.control_hz in {OPTION} to the fps of the training data"
            )
            return CONTROL_HZ
        if isinstance(stated, bool) or not isinstance(stated, (int, float)):
            raise DriverError(
                f"{OPTION}: {OWN_KEY}.control_hz: expected a number, got {stated!r:.80}"
            )
        return float(stated)

    def _units(self) -> dict[str, str]:
        stated = self._stated.texts("units")
        units = {}
        for joint in self._joints:
            arm, motor = self._motor(joint)
            if arm is not None:
                mode = _mode(arm, motor)
                units[joint] = "degrees" if mode == "degrees" else "percent"
                if stated.get(joint, units[joint]) != units[joint]:
                    raise DriverError(
                        f"{OPTION}: {OWN_KEY}.units: {joint}: expected {units[joint]}, as LeRobot "
                        f"gives it, got {stated[joint]}. See use_degrees, a key of LeRobot's"
                    )
            elif joint in stated:
                units[joint] = stated[joint]
            else:
                raise self._lacks("units", joint)
        return units

    def _positions(self) -> tuple[Values, Values]:
        lowest, highest = self._stated.numbers("lower"), self._stated.numbers("upper")
        lower, upper = {}, {}
        for joint in self._joints:
            known = self._range(joint)
            if known is None and not (joint in lowest and joint in highest):
                raise self._lacks("lower and upper", joint)
            low, high = known or (lowest[joint], highest[joint])
            lower[joint], upper[joint] = lowest.get(joint, low), highest.get(joint, high)
            if not low <= lower[joint] < upper[joint] <= high:
                raise DriverError(
                    f"{OPTION}: {OWN_KEY}.lower and upper: {joint}: expected a range within "
                    f"{low:.5g} to {high:.5g}, which the calibration allows, got "
                    f"{lower[joint]:.5g} to {upper[joint]:.5g}"
                )
        return lower, upper

    def _range(self, joint: str) -> tuple[float, float] | None:
        """Returns the range of a joint that its calibration, or LeRobot's config, states."""
        arm, motor = self._motor(joint)
        if arm is None:
            return None
        if arm.is_serial and motor in arm.bus.calibration:
            mode = _mode(arm, motor)
            if mode == "degrees":
                half = _span_degrees(arm, motor) / 2
                return -half, half
            return (-100.0, 100.0) if mode == "range_m100_100" else (0.0, 100.0)
        limits = getattr(arm.robot.config, "joint_limits", None) or {}
        if motor in limits:
            low, high = limits[motor]
            return float(low), float(high)
        return None

    def _velocities(self, units: Mapping[str, str]) -> Values:
        stated = self._stated.numbers("max_velocity")
        velocity = {joint: stated.get(joint) or self._velocity(joint, units) for joint in units}
        assumed = [joint for joint in self._joints if joint not in stated]
        if assumed:
            values = listed({joint: velocity[joint] for joint in assumed})
            self.notes.append(
                f"max_velocity: {values} (per second), a cautious default: about "
                f"{DEGREES_PER_S:g} degrees per second. Set {OWN_KEY}.max_velocity in {OPTION} to "
                f"what your demonstrations need"
            )
        return velocity

    def _velocity(self, joint: str, units: Mapping[str, str]) -> float:
        if units[joint] not in ("degrees", "percent"):
            raise self._lacks("max_velocity", joint)
        if units[joint] == "degrees":
            return DEGREES_PER_S
        return self._in_unit(joint, DEGREES_PER_S) or PERCENT_PER_S

    def _in_unit(self, joint: str, degrees: float) -> float | None:
        """Returns degrees in the joint's unit; None if they have no meaning for it."""
        arm, motor = self._motor(joint)
        mode = _mode(arm, motor) if arm is not None else ""
        if mode == "degrees":
            return degrees
        if arm is None or mode != "range_m100_100":
            return None
        return degrees * 200.0 / _span_degrees(arm, motor)

    def _following_errors(
        self, units: Mapping[str, str], velocity: Values, lower: Values, upper: Values
    ) -> Values:
        found = {}
        for joint in self._joints:
            if units[joint] == "normalized" or (units[joint] == "percent" and lower[joint] >= 0):
                # A gripper that holds something never reaches its command.
                found[joint] = upper[joint] - lower[joint]
            else:
                sag = self._in_unit(joint, SAG_DEGREES) or 0.0
                found[joint] = velocity[joint] * LAG_S + sag
        return {**found, **self._stated.numbers("max_following_error")}

    def _optional(self) -> dict[str, list[float]]:
        """Returns what flux has defaults for, if it is stated for every joint."""
        found = {}
        for key in ("max_acceleration", "max_jerk", "start_tolerance"):
            stated = self._stated.numbers(key)
            missing = [joint for joint in self._joints if joint not in stated]
            if stated and missing:
                raise DriverError(
                    f"{OPTION}: {OWN_KEY}.{key}: expected a value per joint, got none of "
                    f"{', '.join(missing)}. Give one number for all, or one per joint"
                )
            if stated:
                found[key] = self._row(stated)
        return found

    def _row(self, values: Mapping[str, float]) -> list[float]:
        return [values[joint] for joint in self._joints]

    def _motor(self, joint: str) -> tuple[Arm | None, str]:
        for arm in self._arms:
            motor = arm.motor(joint)
            if motor is not None and _mode(arm, motor):
                return arm, motor
        return None, ""

    def _lacks(self, key: str, joint: str) -> DriverError:
        return DriverError(
            f"{OPTION}: {OWN_KEY}: expected {key} of {joint}, because this robot has no "
            f"calibrated motor of LeRobot's for it, got none. Add them: one number for all joints, "
            f"or a mapping joint: number"
        )


def listed(values: Mapping[str, float]) -> str:
    """'60 for shoulder_pan and elbow_flex, 100 for gripper'."""
    by_text: dict[str, list[str]] = {}
    for name, value in values.items():
        by_text.setdefault(f"{value:.4g}", []).append(_bare(name))
    if len(by_text) == 1:
        return next(iter(by_text))
    return ", ".join(f"{text} for {' and '.join(names)}" for text, names in by_text.items())


def _bare(joint: str) -> str:
    return joint[: -len(POSITION)] if joint.endswith(POSITION) else joint


def _mode(arm: Arm, motor: str) -> str:
    """'degrees', 'range_m100_100' or 'range_0_100': what LeRobot makes of the motor's position."""
    mode = getattr(arm.bus.motors[motor], "norm_mode", "")
    return str(getattr(mode, "value", mode))


def _span_degrees(arm: Arm, motor: str) -> float:
    """Returns how far the calibration lets a motor turn."""
    calibration = arm.bus.calibration[motor]
    steps = arm.bus.model_resolution_table[arm.bus.motors[motor].model] - 1
    return (calibration.range_max - calibration.range_min) * 360.0 / steps
