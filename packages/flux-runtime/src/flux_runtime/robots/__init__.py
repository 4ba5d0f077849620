"""Robots by name: those shipped here, and those that other packages register.

A third-party package adds a robot with an entry point of the group `flux_runtime.robots` whose
value is a callable without arguments that returns a `Robot`:

    [project.entry-points."flux_runtime.robots"]
    my-arm = "my_package.driver:MyArm"
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from flux_core.errors import RobotError

from .protocol import Robot, SimulatedRobot

ENTRY_POINT_GROUP = "flux_runtime.robots"

__all__ = ["ENTRY_POINT_GROUP", "Robot", "SimulatedRobot", "make_robot", "robot_names"]


def robot_names() -> tuple[str, ...]:
    """Returns the names that `make_robot` takes, those shipped here first."""
    return (*_SHIPPED, *sorted(set(_registered()) - set(_SHIPPED)))


def make_robot(name: str) -> Robot:
    """Returns the robot called `name`, not yet connected.

    Raises:
        RobotError: no robot has that name, or a registered one cannot be loaded.
    """
    if name in _SHIPPED:
        return _SHIPPED[name]()
    registered = _registered()
    if name not in registered:
        raise RobotError(
            f"{name}: no such robot. Known robots: {', '.join(robot_names())}. Others are "
            f"registered by installing a package with an entry point of {ENTRY_POINT_GROUP!r}."
        )
    try:
        return registered[name].load()()
    except (ImportError, AttributeError) as error:
        raise RobotError(
            f"{name}: the entry point {registered[name].value!r} cannot be loaded ({error}). "
            f"Reinstall the package that registers it."
        ) from error


def _registered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


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
