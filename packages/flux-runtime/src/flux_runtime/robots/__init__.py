"""Finds robots by name: those of this package, and those that other packages register.

A third-party package adds a robot's driver with an entry point in the group `flux_runtime.robots`;
its value is a callable that returns a `Robot` or a `SimulatedRobot`; the entries of the file of
`--robot-config` are its keyword arguments:

    [project.entry-points."flux_runtime.robots"]
    my-arm = "my_package.driver:MyArm"

The same package describes the robot for training in the group `flux.robots`; see
`flux_core.robots.robot_spec`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import cast

from flux_core.config import bind
from flux_core.errors import ConfigError, RobotError
from flux_core.robots import (
    DRIVER_GROUP,
    FAMILIES,
    RobotSpec,
    call,
    describe,
    load,
    one_line,
    provided_names,
    provider,
    robot_spec_names,
)
from flux_driver.robot import SIMULATED_METHODS, fault_of

from .choice import RobotChoice, RobotRequest, choose_robot
from .protocol import EndingRobot, Robot, SimulatedRobot
from .shipped import FORMS, REAL, SHIPPED_ROBOTS, SIMULATED, has_topics, is_recording

ENTRY_POINT_GROUP = DRIVER_GROUP

__all__ = [
    "ENTRY_POINT_GROUP",
    "EndingRobot",
    "Robot",
    "RobotChoice",
    "RobotRequest",
    "SimulatedRobot",
    "choose_robot",
    "driver_target",
    "has_topics",
    "installed_robot_names",
    "is_recording",
    "is_simulated_class",
    "make_robot",
    "robot_names",
    "spec_of",
]


def robot_names() -> tuple[str, ...]:
    """Returns the names of robots that have a driver, those of this package first."""
    others = (name for name in installed_robot_names() if name not in SHIPPED_ROBOTS)
    return (*SHIPPED_ROBOTS, *others)


def installed_robot_names() -> tuple[str, ...]:
    """Returns the names of the drivers that other packages register, sorted; imports nothing."""
    return provided_names(ENTRY_POINT_GROUP)


def make_robot(
    name: str, target: str | None = None, arguments: Mapping[str, object] | None = None
) -> Robot | SimulatedRobot:
    """Returns the robot called `name`, not yet connected.

    Args:
        name: one of `robot_names`, or MODULE:CLASS.
        target: MODULE:CLASS of its driver, if the name does not tell.
        arguments: keyword arguments of the driver's class.

    Raises:
        RobotError: no robot or several have that name, or a registered driver cannot be loaded or
            is neither a `Robot` nor a `SimulatedRobot`.
    """
    point = _point(target or name)
    where = target or name
    if ":" not in where and where not in SIMULATED:
        where = f"{name}: the entry point {describe(point)}"
    return _checked(call(point, load(point), arguments or {}), where)


def driver_target(name: str) -> str:
    """Returns what the driver's process loads for `name`: MODULE:CLASS; imports nothing.

    Raises:
        RobotError: no robot or several have that name, or it is a robot of this package whose
            driver takes settings: see `choose_robot`.
    """
    return _point(name).value


def is_simulated_class(name: str) -> bool:
    """Whether `name` stands for a class with the methods of a `SimulatedRobot`; makes no robot.

    Raises:
        RobotError: no robot or several have that name, or the driver cannot be loaded.
    """
    found = load(_point(name))
    return isinstance(found, type) and all(hasattr(found, name) for name in SIMULATED_METHODS)


def _point(name: str) -> EntryPoint:
    """Returns the entry point of a robot; for one of this package, a stand-in."""
    if ":" in name:
        return EntryPoint(name=name, value=name, group=ENTRY_POINT_GROUP)
    point = provider(ENTRY_POINT_GROUP, name, built_in=(*SHIPPED_ROBOTS, *FAMILIES))
    if point is None and name in SIMULATED:
        return EntryPoint(name=name, value=SIMULATED[name], group=ENTRY_POINT_GROUP)
    if point is None:
        raise _unknown(name)
    return point


def _unknown(name: str) -> RobotError:
    known = ", ".join((*robot_names(), *FORMS))
    if name in REAL:
        return RobotError(
            f"{name}: expected a robot whose driver takes no settings. Drive it with "
            f"'flux-runtime run --robot {name}'"
        )
    if name in robot_spec_names():
        return RobotError(
            f"{name}: expected a driver, got only the robot's description. Known drivers: {known}. "
            f"Install the package that provides its entry point in {ENTRY_POINT_GROUP!r}."
        )
    return RobotError(
        f"{name}: no such robot. Known robots: {known}. Others are "
        f"registered by installing a package with an entry point in {ENTRY_POINT_GROUP!r}."
    )


def _checked(robot: object, where: str) -> Robot | SimulatedRobot:
    """Refuses a driver that lacks a part of its protocol, before anything is connected."""
    if fault := fault_of(robot):
        raise RobotError(f"{where}: {fault}")
    checked = cast(Robot | SimulatedRobot, robot)
    try:
        spec_of(checked)
    except RobotError as error:
        raise RobotError(f"{where}: {error}") from error
    return checked


def spec_of(robot: Robot | SimulatedRobot) -> RobotSpec:
    """Returns a robot's description, which a real robot may give as a dict.

    Raises:
        RobotError: it has none, or not one that can be used.
    """
    try:
        spec = robot.spec
    except Exception as error:  # Code of another package may raise anything.
        raise RobotError(f"spec: expected a RobotSpec, got {one_line(error)}") from error
    if isinstance(spec, RobotSpec):
        return spec
    if not isinstance(spec, Mapping):
        raise RobotError(f"spec: expected a RobotSpec or a dict, got {type(spec).__name__}")
    try:
        return bind(RobotSpec, spec, "spec")
    except ConfigError as error:
        raise RobotError(str(error)) from error
