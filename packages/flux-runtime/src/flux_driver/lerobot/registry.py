"""Finds a robot's or a camera's config class in LeRobot's environment, plugins included."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from importlib import metadata
from typing import Any, Iterator

from ..robot import DriverError, one_line

PLUGINS = {"robots": "lerobot_robot_", "cameras": "lerobot_camera_"}
"""How LeRobot names the packages that register further types, by the folder of its own."""


def config_base(folder: str) -> Any:
    """Returns LeRobot's registry of config classes: of 'robots' or of 'cameras'.

    Raises:
        DriverError: this interpreter has no LeRobot, or it cannot be imported.
    """
    name = {"robots": "RobotConfig", "cameras": "CameraConfig"}[folder]
    try:
        return getattr(importlib.import_module(f"lerobot.{folder}"), name)
    except Exception as error:
        raise DriverError(
            f"LeRobot cannot be imported in {sys.executable} ({one_line(error)}). Name the "
            f"interpreter of your LeRobot environment: --driver-python PATH"
        ) from error


def config_class(folder: str, kind: str) -> Any:
    """Returns the config class that is registered as `kind`; imports as little as possible.

    Args:
        folder: 'robots' or 'cameras'.
        kind: the type, as in LeRobot's own `--robot.type`.

    Raises:
        DriverError: nothing registers that type; the message lists those that are known.
    """
    base = config_base(folder)
    faults = []
    for module in _modules(folder, kind):
        if kind in base.get_known_choices():
            break
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - a robot that needs what is not installed
            faults.append(f"{module} ({one_line(error)})")
    if kind in base.get_known_choices():
        return base.get_choice_class(kind)
    known = ", ".join(sorted(base.get_known_choices())) or "none"
    failed = f" Could not be imported: {'; '.join(faults)}." if faults else ""
    raise DriverError(
        f"expected a type of LeRobot's {folder}, got {kind!r}. Known: {known}.{failed} A plugin "
        f"is a package called {PLUGINS[folder]}NAME in the environment of {sys.executable}"
    )


def _modules(folder: str, kind: str) -> Iterator[str]:
    """Yields modules that may register `kind`, the likeliest first."""
    names = [str(one.metadata["Name"] or "") for one in metadata.distributions()]
    names += [module.name for module in pkgutil.iter_modules()]
    for prefix in sorted(PLUGINS.values(), key=lambda prefix: prefix != PLUGINS[folder]):
        yield from sorted({name.replace("-", "_") for name in names if _is_plugin(name, prefix)})
    package = importlib.import_module(f"lerobot.{folder}")
    own = [module.name for module in pkgutil.iter_modules(package.__path__) if module.ispkg]
    for name in sorted(own, key=lambda name: -_likeness(name, kind)):
        yield f"lerobot.{folder}.{name}"


def _is_plugin(name: str, prefix: str) -> bool:
    return name.replace("-", "_").startswith(prefix)


def _likeness(name: str, kind: str) -> float:
    return difflib.SequenceMatcher(None, name, kind).ratio()


def make_robot(config: Any) -> Any:
    """Returns LeRobot's robot for a config, not connected.

    Raises:
        DriverError: its class is not found, or cannot be made.
    """
    kind = type(config)
    try:
        if kind.__module__.split(".")[0] == "lerobot":
            return importlib.import_module("lerobot.robots.utils").make_robot_from_config(config)
        return _class_beside(kind)(config)
    except DriverError:
        raise
    except ImportError as error:
        raise DriverError(
            f"{config.type}: {one_line(error)}. Install in the environment of {sys.executable} "
            f"what LeRobot needs for this robot, such as lerobot[feetech] or lerobot[dynamixel]"
        ) from error
    except NotImplementedError as error:
        raise DriverError(
            f"{config.type}: this version of LeRobot names that robot but does not implement it"
        ) from error
    except Exception as error:
        raise DriverError(f"{config.type}: {one_line(error)}") from error


def _class_beside(kind: Any) -> Any:
    """Returns the robot's class of a plugin, as LeRobot finds it: MyArmConfig -> MyArm, in the
    package of the config, in its module `myarm`, or in `my_arm` beside `config_my_arm`."""
    name = kind.__name__[: -len("Config")] if kind.__name__.endswith("Config") else ""
    package, _, last = kind.__module__.rpartition(".")
    package = package or kind.__module__
    places = [package, kind.__module__, f"{package}.{name.lower()}"]
    if last.startswith("config_"):
        places.append(f"{package}.{last[len('config_') :]}")
    for place in places:
        try:
            found = getattr(importlib.import_module(place), name, None) if name else None
        except ModuleNotFoundError as error:
            if error.name and place.startswith(error.name):
                continue
            raise
        if callable(found):
            return found
    raise DriverError(
        f"{kind.__module__}.{kind.__name__}: expected the robot's class, {name or 'NAME'} for "
        f"{name or 'NAME'}Config, in {', '.join(places)}, got none"
    )
