"""Finds robots by name: those of this package, and those that other packages register.

A third-party package adds a robot's driver with an entry point in the group `flux_runtime.robots`;
its value is a callable that takes no arguments and returns a `Robot`:

    [project.entry-points."flux_runtime.robots"]
    my-arm = "my_package.driver:MyArm"

The same package describes the robot for training in the group `flux.robots`; see
`flux_core.robots.robot_spec`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from flux_core.errors import RobotError
from flux_core.robots import (
    DRIVER_GROUP,
    RobotSpec,
    call,
    describe,
    load,
    one_line,
    provided_names,
    provider,
    robot_spec_names,
)

from .protocol import Robot, SimulatedRobot

ENTRY_POINT_GROUP = DRIVER_GROUP

__all__ = [
    "ENTRY_POINT_GROUP",
    "Robot",
    "SimulatedRobot",
    "installed_robot_names",
    "make_robot",
    "robot_names",
]
_METHODS = ("connect", "state", "observe", "command", "close")


def robot_names() -> tuple[str, ...]:
    """Returns the names that `make_robot` accepts, those of this package first."""
    return (*_SHIPPED, *(name for name in installed_robot_names() if name not in _SHIPPED))


def installed_robot_names() -> tuple[str, ...]:
    """Returns the names of the drivers that other packages register, sorted; imports nothing."""
    return provided_names(ENTRY_POINT_GROUP)


def make_robot(name: str) -> Robot:
    """Returns the robot called `name`, not yet connected.

    Raises:
        RobotError: no robot or several have that name, or a registered driver cannot be loaded or
            is not a `Robot`.
    """
    point = provider(ENTRY_POINT_GROUP, name, built_in=_SHIPPED)
    if name in _SHIPPED:
        return _SHIPPED[name]()
    if point is None:
        raise _unknown(name)
    return _checked(call(point, load(point)), f"{name}: the entry point {describe(point)}")


def _unknown(name: str) -> RobotError:
    known = ", ".join(robot_names())
    if name in robot_spec_names():
        return RobotError(
            f"{name}: expected a driver, got only the robot's description. Known drivers: {known}. "
            f"Install the package that provides its entry point in {ENTRY_POINT_GROUP!r}."
        )
    return RobotError(
        f"{name}: no such robot. Known robots: {known}. Others are "
        f"registered by installing a package with an entry point in {ENTRY_POINT_GROUP!r}."
    )


def _checked(robot: object, where: str) -> Robot:
    """Refuses a driver that lacks a part of `Robot`, before anything is connected."""
    missing = [f"{method}()" for method in _METHODS if not callable(getattr(robot, method, None))]
    if missing:
        raise RobotError(
            f"{where}: expected a Robot, got {type(robot).__name__} without {', '.join(missing)}"
        )
    try:
        spec = cast(Robot, robot).spec
    except Exception as error:  # Code of another package may raise anything.
        raise RobotError(f"{where}: spec: expected a RobotSpec, got {one_line(error)}") from error
    if not isinstance(spec, RobotSpec):
        raise RobotError(f"{where}: spec: expected a RobotSpec, got {type(spec).__name__}")
    return cast(Robot, robot)


def _aloha_sim() -> Robot:
    from .aloha_sim import AlohaSimRobot

    return AlohaSimRobot()


def _aloha() -> Robot:
    from .aloha import AlohaRobot

    return AlohaRobot()


def _ur3() -> Robot:
    from .ur3 import Ur3Robot

    return Ur3Robot()


_SHIPPED: dict[str, Callable[[], Robot]] = {
    "aloha-sim": _aloha_sim,
    "aloha": _aloha,
    "ur3": _ur3,
}
