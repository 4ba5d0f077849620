"""Finds what installed distributions provide by name: entry points, without importing anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points

from ..errors import FluxError, RobotError


def provided_names(group: str) -> tuple[str, ...]:
    """Returns the names that installed distributions provide in an entry point group, sorted."""
    return tuple(sorted({point.name for point in entry_points(group=group)}))


def provider(group: str, name: str, *, built_in: Iterable[str] = ()) -> EntryPoint | None:
    """Returns the entry point that provides `name`, or None; imports nothing.

    Args:
        group: the entry point group.
        name: the name to look for.
        built_in: the names that flux itself provides in this group.

    Raises:
        RobotError: two distributions provide it, or one provides a name of flux itself.
    """
    points = [point for point in entry_points(group=group) if point.name == name]
    offers = [describe(point) for point in points]
    if name in built_in:
        offers.insert(0, "flux itself")
    if len(offers) > 1:
        raise RobotError(
            f"{name}: expected one provider in {group!r}, got {' and '.join(offers)}. "
            f"Uninstall all but one, or rename the robot of the other"
        )
    return points[0] if points else None


def describe(point: EntryPoint) -> str:
    """'my-arm-driver 1.0 (my_package.robot:SPEC)'."""
    return f"{distribution(point)} ({point.value})"


def distribution(point: EntryPoint) -> str:
    """'my-arm-driver 1.0'."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unnamed distribution"


def load(point: EntryPoint) -> object:
    """Imports what an entry point names.

    Raises:
        RobotError: the import fails for any reason.
    """
    try:
        return point.load()
    except Exception as error:  # Another package's module may raise anything.
        raise RobotError(
            f"{point.name}: the entry point {point.value!r} cannot be loaded from "
            f"{distribution(point)} ({one_line(error)}). Correct or reinstall that distribution"
        ) from error


def call(point: EntryPoint, make: object, arguments: Mapping[str, object] | None = None) -> object:
    """Calls a loaded entry point, with keyword arguments or without any.

    Raises:
        RobotError: it cannot be called, or the call fails for any reason.
    """
    if not callable(make):
        raise RobotError(
            f"{point.name}: the entry point {point.value!r} of {distribution(point)} cannot be "
            f"called: it is {type(make).__name__}"
        )
    try:
        return make(**(arguments or {}))
    except FluxError:
        raise  # it says what is wrong in its own words
    except Exception as error:  # Another package's code may raise anything.
        raise RobotError(
            f"{point.name}: the entry point {point.value!r} of {distribution(point)} fails "
            f"({one_line(error)}). Correct or reinstall that distribution"
        ) from error


def one_line(error: Exception) -> str:
    """'ModuleNotFoundError: No module named x', on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
