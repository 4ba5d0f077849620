"""Robots by name: those that flux describes, and those that other packages register.

A package describes a robot with an entry point in the group `flux.robots`; its value is a
`RobotSpec`, or a callable that takes no arguments and returns one:

    [project.entry-points."flux.robots"]
    my-arm = "my_package.robot:SPEC"
"""

from __future__ import annotations

from importlib.metadata import EntryPoint

from ..errors import RobotError
from .built_in import ROBOT_SPECS
from .providers import call, describe, distribution, load, provided_names, provider
from .spec import RobotSpec

SPEC_GROUP = "flux.robots"
DRIVER_GROUP = "flux_runtime.robots"
"""Where packages register drivers; only flux_runtime loads them."""


def robot_spec_names() -> tuple[str, ...]:
    """Returns the names that `robot_spec` knows, sorted; imports nothing."""
    return tuple(sorted({*ROBOT_SPECS, *provided_names(SPEC_GROUP)}))


def robot_spec(name: str) -> RobotSpec:
    """Returns the description of the robot called `name`.

    Raises:
        RobotError: no package describes it, two do, or an entry point does not return its
            description.
    """
    point = provider(SPEC_GROUP, name, built_in=ROBOT_SPECS)
    if point is not None:
        return _loaded(point)
    if name in ROBOT_SPECS:
        return ROBOT_SPECS[name]
    driver = provider(DRIVER_GROUP, name)
    hint = (
        f"{distribution(driver)} has a driver of that name but no description: it needs an entry "
        f"point of the group {SPEC_GROUP!r} too"
        if driver
        else f"Packages register others as entry points of the group {SPEC_GROUP!r}"
    )
    raise RobotError(
        f"unknown robot {name!r}. Known robots: {', '.join(robot_spec_names())}. {hint}; or write "
        f"the description out, as robot=dict(type='RobotSpec', ...)"
    )


def _loaded(point: EntryPoint) -> RobotSpec:
    found = load(point)
    spec = found if isinstance(found, RobotSpec) else call(point, found)
    if not isinstance(spec, RobotSpec):
        raise RobotError(
            f"{point.name}: the entry point {describe(point)}: expected a RobotSpec or a callable "
            f"that returns one, got {type(spec).__name__}"
        )
    if spec.name != point.name:
        raise RobotError(
            f"{point.name}: the entry point {describe(point)}: expected a RobotSpec of that name, "
            f"got one named {spec.name!r}"
        )
    return spec
