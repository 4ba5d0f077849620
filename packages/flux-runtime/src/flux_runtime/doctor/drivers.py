"""Checks what the drivers of real robots need, and the drivers of other packages."""

from __future__ import annotations

import inspect

from flux_core.errors import FluxError, MissingDependencyError
from flux_core.robots import DRIVER_GROUP, describe, load, provider

from ..robots import make_robot, spec_of
from ..robots.interpreter import python_with
from ..robots.shipped import LEROBOT_DRIVER, REAL, Transport
from .check import Check


def driver_checks() -> list[Check]:
    """Looks for what the drivers of real robots need, in the Pythons that a run would take."""
    robots: dict[str, tuple[Transport, list[str]]] = {}
    for robot, transports in REAL.items():
        for name, transport in transports.items():
            of_name = f"{name} ({transport.module})"
            robots.setdefault(of_name, (transport, []))[1].append(robot)
    robots[f"LeRobot ({LEROBOT_DRIVER.module})"] = (LEROBOT_DRIVER, ["lerobot:TYPE"])
    return [
        _driver_check(name, transport, ", ".join(dict.fromkeys(driven)))
        for name, (transport, driven) in robots.items()
    ]


def _driver_check(name: str, transport: Transport, driven: str) -> Check:
    try:
        python, _ = python_with(name, transport, name, None)
    except MissingDependencyError:
        python, found = None, f"{transport.module} not found; needed for {driven}"
        is_there = False
    else:
        found = f"found in {python or 'this Python'}; drives {driven}"
        is_there = True
    return Check(
        name=name,
        ok=is_there,
        found=found,
        fix=f"{transport.remedy}, or name the Python that has it with --driver-python",
        section="robot drivers",
    )


def check_robot(name: str) -> Check:
    """Loads a driver from another package and describes its robot, without connecting to it."""
    title, fix = f"robot {name}", "Correct or reinstall the package, or ask its author."
    try:
        point = provider(DRIVER_GROUP, name)
        if point is not None and (needed := _needed_arguments(load(point))):
            found = f"{describe(point)}: needs {', '.join(needed)} from --robot-config"
            return Check(name=title, ok=True, found=found)
        spec = spec_of(make_robot(name))
    except FluxError as error:
        return Check(name=title, ok=False, found=str(error), fix=fix)
    source = describe(point) if point else ""
    cameras = ", ".join(spec.cameras) or "no camera"
    found = f"{source}: {spec.action_dim} joints, {spec.control_hz:g} Hz, {cameras}"
    return Check(name=title, ok=True, found=found)


def _needed_arguments(driver: object) -> list[str]:
    """Returns the names of the arguments without which a driver cannot be made."""
    if not isinstance(driver, type):
        return []
    parameters = inspect.signature(driver).parameters.values()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in variable]
