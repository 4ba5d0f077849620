"""Names of components: `dict(type='LinearProjector')` -> the class, imported when first asked for.

A component is a frozen keyword-only dataclass, or a class with such a dataclass nested as
`Config`. Our packages list theirs in a `_components` module; other distributions through the
entry point group `flux.components`, whose values name a dict of `name -> 'module:Class'`.
A `type` may also be a path of its own: `type='my_package.my_module:MyProjector'`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points

from ..errors import ConfigError, MissingDependencyError
from .compat import current_type

ENTRY_POINT_GROUP = "flux.components"
OUR_TABLES = tuple(
    f"{package}._components" for package in ("flux_core", "flux_data", "flux_train", "flux_runtime")
)

_registered: dict[str, str | type] = {}


def register_components(components: Mapping[str, str | type]) -> None:
    """Adds names at run time: `name -> 'module:Class'` or the class itself. The last one wins."""
    _registered.update(components)


def known_components() -> dict[str, str | type]:
    """Returns every name with its class or the path to it; imports no component."""
    return {**_installed(), **_registered}


def component(name: str, path: str = "") -> type:
    """Returns the class a `type` names.

    Raises:
        ConfigError: nobody knows the name; `path` says where it stands in the tree.
        MissingDependencyError: the class needs a package that is not installed.
    """
    name = current_type(name)
    target = known_components().get(name, name if ":" in name else None)
    if target is None:
        hint = did_you_mean(name, known_components())
        raise ConfigError(
            f"{dotted(path, 'type')}: no component is called {name!r}.{hint} "
            "A class of your own is written 'my_package.my_module:MyClass'."
        )
    return target if isinstance(target, type) else _imported(target, dotted(path, "type"))


def config_class(cls: type) -> type:
    """Returns the dataclass that configures `cls`: its own `Config`, or `cls` itself."""
    config = vars(cls).get("Config", cls)
    if not (isinstance(config, type) and is_dataclass(config)):
        raise ConfigError(
            f"{cls.__name__}: expected a dataclass or a class with a dataclass `Config` of its "
            "own, found neither"
        )
    return config


def owner_name(config: type) -> str:
    """'LinearProjector' for `LinearProjector.Config`; a dataclass's own name for itself."""
    return config.__qualname__.removesuffix(".Config").rpartition(".")[2]


def is_registered(config: type) -> bool:
    """Whether a short name stands for this config class."""
    return _short_name(config) is not None


def type_name(config: type) -> str:
    """Returns the `type` that `component` and `config_class` turn back into `config`."""
    if short := _short_name(config):
        return short
    if "<locals>" in config.__qualname__:
        raise ConfigError(f"{config.__qualname__}: a class inside a function needs registering")
    return f"{config.__module__}:{config.__qualname__.removesuffix('.Config')}"


def dotted(path: str, key: object) -> str:
    """'model' and 'projector' -> 'model.projector'."""
    return f"{path}.{key}" if path else str(key)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns " Did you mean 'max_epochs'?", or nothing when nothing is near."""
    near = get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _short_name(config: type) -> str | None:
    owner = owner_name(config)
    known = sorted(known_components().items(), key=lambda item: item[0] != owner)
    for name, target in known:
        if isinstance(target, type):
            found = config_class(target) is config
        else:
            found = _names(target, owner) and config_class(component(name)) is config
        if found:
            return name
    return None


def _names(target: str, owner: str) -> bool:
    return target.rpartition(":")[2].rpartition(".")[2] == owner


def _imported(target: str, where: str) -> type:
    module_name, _, qualified_name = target.partition(":")
    try:
        found: object = importlib.import_module(module_name)
        for attribute in qualified_name.split("."):
            found = getattr(found, attribute)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{where}: {target!r} needs the module {error.name!r}, which is not installed"
        ) from error
    except AttributeError as error:
        raise ConfigError(f"{where}: {target!r} cannot be found: {error}") from error
    if not isinstance(found, type):
        raise ConfigError(f"{where}: expected {target!r} to be a class, got {found!r}")
    return found


@cache
def _installed() -> dict[str, str]:
    """Merges the tables of other distributions and, over them, our own."""
    tables = [entry.load() for entry in entry_points(group=ENTRY_POINT_GROUP)]
    tables += [importlib.import_module(name).COMPONENTS for name in OUR_TABLES if _exists(name)]
    return {name: target for table in tables for name, target in table.items()}


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
