"""Loads a driver and checks that it has every part of the protocol."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
from importlib import metadata
from typing import Any, Mapping

GROUP = "flux_runtime.robots"
REAL_METHODS = ("connect", "read_state", "read_frames", "send", "stop", "close")
LOCKSTEP_METHODS = ("connect", "state", "observe", "command", "close")
SIMULATED_METHODS = (*LOCKSTEP_METHODS, "reset", "stages", "render")
SIMULATED_TEXTS = ("task", "success_stage", "end_state")
CONNECT_TIMEOUT_S = 30.0
CONFIG_OPTION = "--robot-config"


class DriverError(Exception):
    """What is wrong with a driver, in one line."""


def one_line(error: BaseException) -> str:
    """'ModuleNotFoundError: No module named x', on one line; a DriverError's own text."""
    if isinstance(error, DriverError):
        return " ".join(str(error).split())
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")[:300]


def is_simulated(robot: object) -> bool:
    """Whether a robot has every part of a simulated one."""
    return not _missing(robot, SIMULATED_METHODS) and all(
        hasattr(robot, name) for name in SIMULATED_TEXTS
    )


def fault_of(robot: object) -> str:
    """Returns what a robot lacks and what to do, or '' if it can be driven."""
    missing = _missing(robot, REAL_METHODS)
    if not missing or is_simulated(robot):
        return ""
    kind = type(robot).__name__
    if not _missing(robot, LOCKSTEP_METHODS):
        lacks = [f"{name}()" for name in _missing(robot, SIMULATED_METHODS)]
        lacks += [name for name in SIMULATED_TEXTS if not hasattr(robot, name)]
        return (
            f"expected a Robot, got {kind} with state(), observe() and command(), which only "
            f"simulated robots have. For a real robot write read_state(), read_frames(), send() "
            f"and stop() instead; for a simulated one add {', '.join(lacks)}"
        )
    return f"expected a Robot, got {kind} without {', '.join(f'{name}()' for name in missing)}"


def _missing(robot: object, methods: tuple[str, ...]) -> list[str]:
    return [name for name in methods if not callable(getattr(robot, name, None))]


def load_robot(target: str, arguments: Mapping[str, Any] | None = None) -> object:
    """Returns the robot that an entry point's name or MODULE:ATTRIBUTE stands for, not connected.

    Args:
        target: the name, or MODULE:ATTRIBUTE.
        arguments: keyword arguments of the robot's class, as plain data.

    Raises:
        DriverError: there is no such robot, its class does not take the arguments, its code fails,
            or it lacks a part of the protocol.
    """
    where, value = _located(target)
    module, _, attribute = value.partition(":")
    try:
        found = importlib.import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except BaseException as error:  # Another package's module may raise anything, SystemExit too.
        raise DriverError(
            f"{where}: cannot be loaded ({one_line(error)}). Correct or reinstall that package"
        ) from error
    robot = _made(found, where, arguments or {})
    fault = fault_of(robot)
    if fault:
        raise DriverError(f"{where}: {fault}")
    return robot


def _made(found: Any, where: str, arguments: Mapping[str, Any]) -> object:
    if hasattr(found, "connect") and not isinstance(found, type):
        if arguments:
            raise DriverError(
                f"{where}: expected a class, which takes {', '.join(sorted(arguments))}, got an "
                f"object. Name its class, or leave {CONFIG_OPTION} out"
            )
        return found
    if not callable(found):
        raise DriverError(f"{where}: cannot be called: it is {type(found).__name__}")
    fault = _fault_of_arguments(found, arguments)
    if fault:
        raise DriverError(f"{where}: {CONFIG_OPTION}: {fault}")
    try:
        return found(**arguments)
    except DriverError:
        raise  # in the driver's own words
    except BaseException as error:  # Another package's code may raise anything.
        raise DriverError(
            f"{where}: fails ({one_line(error)}). Correct or reinstall that package"
        ) from error


def _fault_of_arguments(found: Any, arguments: Mapping[str, Any]) -> str:
    """Returns which argument a class does not take, or lacks, and what it takes; '' if none."""
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):  # a class in C: only the call can tell
        return ""
    by_name = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = {entry.name: entry for entry in parameters if entry.kind in by_name}
    takes_any = any(entry.kind is inspect.Parameter.VAR_KEYWORD for entry in parameters)
    listed = ", ".join(known) or "nothing"
    for name in arguments:
        if name not in known and not takes_any:
            return f"expected some of {listed}, got {name!r}"
    for name, entry in known.items():
        if entry.default is inspect.Parameter.empty and name not in arguments:
            got = ", ".join(arguments) or "nothing"
            return f"expected {name!r}, got {got}. Add it to the file"
    return ""


def _located(target: str) -> tuple[str, str]:
    """Returns the name for messages and MODULE:ATTRIBUTE."""
    if ":" in target:
        return target, target
    points = {f"{point.value}": point for point in _entry_points() if point.name == target}
    if len(points) > 1:
        raise DriverError(
            f"{target}: expected one provider in {GROUP!r}, got {' and '.join(sorted(points))}. "
            f"Uninstall all but one"
        )
    for value in points:
        return f"{target}: the entry point {value}", value
    known = ", ".join(sorted({point.name for point in _entry_points()})) or "none"
    raise DriverError(
        f"{target}: no such robot in this interpreter. Known robots: {known}. Install the package "
        f"that has an entry point in {GROUP!r}, or name the class as MODULE:CLASS"
    )


def _entry_points() -> list[Any]:
    found: Any = metadata.entry_points()
    if hasattr(found, "select"):
        return list(found.select(group=GROUP))
    return list(found.get(GROUP, ()))  # until Python 3.9


def described(robot: Any) -> dict[str, Any]:
    """Returns what the policy's process needs to know of a robot, as plain data.

    Raises:
        DriverError: the robot has no spec, or an attribute is of another kind than expected.
    """
    try:
        spec = robot.spec
    except Exception as error:  # Code of another package may raise anything.
        raise DriverError(f"spec: expected a RobotSpec or a dict, got {one_line(error)}") from error
    if dataclasses.is_dataclass(spec) and not isinstance(spec, type):
        spec = dataclasses.asdict(spec)
    if not isinstance(spec, Mapping):
        raise DriverError(f"spec: expected a RobotSpec or a dict, got {type(spec).__name__}")
    missing = [name for name in ("joint_names", "control_hz") if not spec.get(name)]
    if missing:
        raise DriverError(f"spec: expected the fields of a RobotSpec, got no {missing[0]}")
    if not _is_positive(spec["control_hz"]):
        raise DriverError(
            f"spec.control_hz: expected a number above 0, got {spec['control_hz']!r:.60}"
        )
    if spec.get("rest_command") and callable(getattr(robot, "speed_scaling", None)):
        raise DriverError(
            "speed_scaling(): expected none, because the robot is commanded by differences, which "
            "cannot be slowed down. Remove it from the driver"
        )
    simulation = None
    if is_simulated(robot):
        simulation = {name: str(getattr(robot, name)) for name in SIMULATED_TEXTS}
    return {
        "type": type(robot).__name__,
        "spec": dict(spec),
        "simulation": simulation,
        "can_home": callable(getattr(robot, "home", None)),
        "connect_timeout_s": _connect_timeout(robot),
    }


def _connect_timeout(robot: object) -> float:
    found = getattr(robot, "connect_timeout_s", CONNECT_TIMEOUT_S)
    if not _is_positive(found):
        raise DriverError(f"connect_timeout_s: expected seconds above 0, got {found!r:.60}")
    return float(found)


def _is_positive(found: object) -> bool:
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return False
    return math.isfinite(found) and found > 0
