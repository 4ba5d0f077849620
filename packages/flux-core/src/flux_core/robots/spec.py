"""The description of a robot: joint order, limits, cameras and control rate."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import RobotError
from .kinematics import Kinematics

SCHEMA_VERSION = 3
"""2 adds `start_tolerance`, `max_following_error` and `holds_without_power`, 3 `prepare_pose` and
the units of LeRobot; all are optional."""
READ_VERSIONS = (1, 2, SCHEMA_VERSION)
UNITS = ("rad", "m", "normalized", "degrees", "percent")
MAX_DIM = 1024
MAX_NAME = 100
CONTROL_HZ_RANGE = (0.1, 2000.0)
_TEXTS = ("joint_names", "units", "cameras", "state_names", "state_units")
_RATES = ("max_velocity", "max_acceleration", "max_jerk", "max_following_error")
_DISTANCES = ("start_tolerance", "max_following_error")
"""Between commands and states: for a robot whose states are positions, as its commands are."""
_OPTIONAL = ("max_acceleration", "max_jerk", *_DISTANCES)
_NUMBERS = ("lower", "upper", *_RATES, "start_tolerance", "rest_command", "prepare_pose")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_LARGEST = 1e30
"""The largest number: it and the difference of two are finite in float32."""


@dataclass(frozen=True, kw_only=True)
class RobotSpec:
    """The description of one robot. Joint tuples have one entry per action dimension.

    `rest_command`, `state_names` and `state_units` are for a robot that is commanded by
    differences, so that its states are not commands. If they are empty, sending a state as a
    command requests no motion. All values are checked; a RobotError names the field.

    Attributes:
        name: used in commands, configs and datasets: letters, digits and `_.-`.
        joint_names: the order of actions, and of states unless `state_names` says otherwise.
        lower: smallest command, in the joint's unit.
        upper: largest command, in the joint's unit.
        max_velocity: largest change of the command, in the joint's unit per second.
        units: 'rad', 'm', 'degrees', 'normalized' (a gripper: 0 closed, 1 open; LIBERO's: see
            there) or 'percent' (of a calibrated range, as in LeRobot: -100 to 100, or 0 to 100 for
            a gripper).
        cameras: the cameras that a policy may use, in the order in which recipes pass them to the
            network: first the scene camera, then the wrist cameras.
        control_hz: commands per second.
        rest_command: the command that requests no motion.
        state_names: the order of states.
        state_units: one of the units above per dimension of the state.
        max_acceleration: largest change of velocity, in the joint's unit per second squared;
            empty if unknown.
        max_jerk: largest change of acceleration, in the joint's unit per second cubed; likewise.
        kinematics: the robot's geometry, if known.
        start_tolerance: how far outside `lower` and `upper` a real robot may stand before a run, in
            the joint's unit; it is then moved back slowly. Empty for the default.
        max_following_error: largest distance between a real robot's command and its measured
            position, in the joint's unit. Empty for the default.
        holds_without_power: whether brakes hold every joint once power is removed. Without them an
            arm falls, so flux never asks for a stop that removes power.
        prepare_pose: where the robot waits before an episode, as a command; empty if unknown.
        schema_version: version of this description's format. Older versions, which lack some of
            the fields above, are read as the current one.
    """

    name: str
    joint_names: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    max_velocity: tuple[float, ...]
    units: tuple[str, ...]
    cameras: tuple[str, ...]
    control_hz: float
    rest_command: tuple[float, ...] = ()
    state_names: tuple[str, ...] = ()
    state_units: tuple[str, ...] = ()
    max_acceleration: tuple[float, ...] = ()
    max_jerk: tuple[float, ...] = ()
    kinematics: Kinematics | None = None
    start_tolerance: tuple[float, ...] = ()
    max_following_error: tuple[float, ...] = ()
    holds_without_power: bool = False
    prepare_pose: tuple[float, ...] = ()
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        self._make_plain()
        self._check_version_and_name()
        self._check_names()
        self._check_lengths()
        self._check_units("units", self.joint_names, self.units)
        self._check_units("state_units", self.state_names, self.state_units)
        self._check_numbers()
        self._check_ranges()
        self._check_what_real_robots_have()
        if self.kinematics is not None:
            try:
                self.kinematics.check_joints(self.joint_names)
            except RobotError as error:
                raise RobotError(f"robot {self.name!r}, {error}") from error

    @property
    def action_dim(self) -> int:
        """Number of joints, grippers included."""
        return len(self.joint_names)

    @property
    def state_dim(self) -> int:
        """Dimensions of a state."""
        return len(self.state_names) if self.is_commanded_by_differences else self.action_dim

    @property
    def is_commanded_by_differences(self) -> bool:
        """Whether commands are changes and states are something else."""
        return bool(self.rest_command or self.state_names)

    def hold(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the command, (action_dim,) float32, that keeps the robot in `state`."""
        if self.is_commanded_by_differences:
            return np.asarray(self.rest_command, np.float32)
        return state

    def _make_plain(self) -> None:
        """Turns lists and arrays into tuples, numpy's numbers into Python's, as JSON needs it."""
        for fields, kind in ((_TEXTS, str), (_NUMBERS, float)):
            for field in fields:
                values: object = getattr(self, field)
                try:
                    if isinstance(values, str):
                        raise TypeError("a single text")
                    plain = tuple(kind(value) for value in cast(Iterable[Any], values))
                except (TypeError, ValueError) as error:
                    self._refuse(field, f"expected a tuple of {kind.__name__}, got {error}")
                object.__setattr__(self, field, plain)

    def _check_version_and_name(self) -> None:
        if self.schema_version not in READ_VERSIONS:
            self._refuse(
                "schema_version",
                f"expected {READ_VERSIONS[0]} to {SCHEMA_VERSION}, got {self.schema_version!r}. "
                f"Install the version of flux that wrote this description",
            )
        object.__setattr__(self, "schema_version", SCHEMA_VERSION)
        if not _NAME.fullmatch(self.name):
            self._refuse(
                "name", "expected letters, digits and _.- (a letter or digit first, at most 100)"
            )

    def _check_names(self) -> None:
        for field in ("joint_names", "cameras", "state_names"):
            names: tuple[str, ...] = getattr(self, field)
            for index, name in enumerate(names):
                is_fine = 0 < len(name) <= MAX_NAME and name.isprintable()
                if not is_fine or name in names[:index]:
                    self._refuse(
                        field,
                        f"expected different printable names of 1 to {MAX_NAME} characters, got "
                        f"{name!r:.80}",
                    )
        if not 1 <= self.action_dim <= MAX_DIM:
            self._refuse("joint_names", f"expected 1 to {MAX_DIM} joints, got {self.action_dim}")
        if self.rest_command and not 1 <= self.state_dim <= MAX_DIM:
            self._refuse(
                "state_names",
                f"expected 1 to {MAX_DIM} names beside rest_command, got {self.state_dim}",
            )

    def _check_lengths(self) -> None:
        lengths = dict.fromkeys(("lower", "upper", "max_velocity", "units"), self.action_dim)
        optional = [field for field in _OPTIONAL if getattr(self, field)]
        lengths |= dict.fromkeys(optional, self.action_dim)
        lengths["state_units"] = len(self.state_names)
        if self.is_commanded_by_differences:
            lengths["rest_command"] = self.action_dim
        if self.prepare_pose:
            lengths["prepare_pose"] = self.action_dim
        for field, expected in lengths.items():
            if len(getattr(self, field)) != expected:
                per = "dimension of the state" if field == "state_units" else "joint"
                self._refuse(
                    field,
                    f"expected {expected} values, got {len(getattr(self, field))}. "
                    f"Give one per {per}",
                )

    def _check_units(self, field: str, names: Sequence[str], units: Sequence[str]) -> None:
        for name, unit in zip(names, units, strict=True):
            if unit in UNITS:
                continue
            hint = ". Write 'degrees'" if unit.lower().startswith("deg") else ""
            self._refuse(field, f"{name}: expected one of {', '.join(UNITS)}, got {unit!r}{hint}")

    def _check_numbers(self) -> None:
        for field in _NUMBERS:
            is_rate = field in _RATES
            for joint, value in zip(self.joint_names, getattr(self, field), strict=False):
                # Written so that a NaN fails.
                is_fine = value > 0 if is_rate else value >= 0 or field != "start_tolerance"
                if not (abs(value) <= _LARGEST and is_fine):
                    wanted = "a finite number above 0" if is_rate else "a finite number"
                    wanted += " of at least 0" if field == "start_tolerance" else ""
                    self._refuse(field, f"{joint}: expected {wanted}, got {value!r}")
        low, high = CONTROL_HZ_RANGE
        if not low <= self.control_hz <= high:
            self._refuse("control_hz", f"expected {low:g} to {high:g}, got {self.control_hz!r}")

    def _check_ranges(self) -> None:
        for joint, low, high in zip(self.joint_names, self.lower, self.upper, strict=True):
            if not low < high:
                self._refuse("lower", f"{joint}: expected less than upper ({high!r}), got {low!r}")
        for field in ("rest_command", "prepare_pose"):
            commands: tuple[float, ...] = getattr(self, field)
            rows = zip(self.joint_names, self.lower, commands, self.upper, strict=False)
            for joint, low, value, high in rows:
                if not low <= value <= high:
                    self._refuse(field, f"{joint}: expected {low!r} to {high!r}, got {value!r}")

    def _check_what_real_robots_have(self) -> None:
        holds: object = self.holds_without_power
        if not isinstance(holds, bool):
            self._refuse("holds_without_power", f"expected True or False, got {holds!r:.80}")
        for field in _DISTANCES if self.is_commanded_by_differences else ():
            if getattr(self, field):
                self._refuse(field, "expected none: commands are differences and states are not")

    def _refuse(self, field: str, reason: str) -> NoReturn:
        raise RobotError(f"robot {self.name!r}, {field}: {reason}")


def with_limits(spec: RobotSpec, **fields: Any) -> RobotSpec:
    """Returns a description with other limits, and its prepare pose inside them.

    Raises:
        RobotError: a value is wrong; the message names the field.
    """
    pose = fields.pop("prepare_pose", spec.prepare_pose)
    limits = [fields.get(name, getattr(spec, name)) for name in ("lower", "upper")]
    inside = tuple(min(max(x, low), high) for x, low, high in zip(pose, *limits, strict=False))
    return replace(spec, **fields, prepare_pose=inside)
