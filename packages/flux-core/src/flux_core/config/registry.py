"""Names of components: `dict(type='LinearProjector')` -> the class, imported on first use.

A component is a frozen keyword-only dataclass, or a class with such a dataclass nested as
`Config`. Our packages list theirs in `_components`; other distributions register theirs by entry
points (see `installed`). A training config may also name a class by its path:
`type='my_package.my_module:MyTransform'`; a checkpoint or bundle that is deployed may not
(see `deployable`).
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from difflib import get_close_matches
from types import ModuleType

from ..errors import ConfigError, MissingDependencyError
from .compat import current_type
from .installed import installed, only, registration, tables

_registered: dict[str, str | type] = {}


def register_components(components: Mapping[str, str | type]) -> None:
    """Adds names in this process only: `name -> 'module:Class'` or the class. The last one wins.

    Raises:
        ConfigError: a name is already a component of flux.
    """
    for name in components:
        if any(found.is_ours for found in installed().get(name, ())):
            raise ConfigError(f"{name!r} is a component of flux; choose another name")
    _registered.update(components)


def component(name: str, path: str = "") -> type:
    """Returns the class that a `type` names.

    Raises:
        ConfigError: the name is unknown, or two distributions register it; the message begins with
            `path`.
        MissingDependencyError: the class needs a package that is not installed.
    """
    where, name = dotted(path, "type"), current_type(name)
    target = _registered.get(name) or _target(name, where)
    if target is None:
        hint = did_you_mean(name, {*installed(), *_registered})
        raise ConfigError(
            f"{where}: no component is called {name!r}.{hint} "
            "A class of your own is written 'my_package.my_module:MyClass'."
        )
    return target if isinstance(target, type) else _imported(target, where)


def _target(name: str, where: str) -> str | None:
    """'module:Class' of an installed name or of a path; None if it is neither."""
    if found := registration(name, where):
        return found.target
    if ":" in name:
        return name
    found = only(tables().get(name, ()), where)
    return found.target if found else None


def config_class(cls: type, path: str = "") -> type:
    """Returns the dataclass that configures `cls`: its own `Config`, or `cls` itself.

    Raises:
        ConfigError: there is none; the message begins with `path`, where the class is used.
    """
    config = vars(cls).get("Config", cls)
    if not (isinstance(config, type) and is_dataclass(config)):
        raise ConfigError(
            f"{dotted(path, 'type')}: {cls.__name__}: expected a dataclass, or a class with its "
            "own dataclass `Config`, got neither"
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
        raise ConfigError(
            f"{config.__qualname__}: expected a class of a module, got one inside a function. "
            "Register it first"
        )
    return f"{config.__module__}:{config.__qualname__.removesuffix('.Config')}"


def dotted(path: str, key: object) -> str:
    """'model' and 'projector' -> 'model.projector'."""
    return f"{path}.{key}" if path else str(key)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns " Did you mean 'max_epochs'?", or an empty text if no name is similar."""
    near = get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _short_name(config: type) -> str | None:
    owner = owner_name(config)
    known = sorted(_near(config), key=lambda item: item[0] != owner)
    for name, target in known:
        if isinstance(target, type):
            found = config_class(target) is config
        else:
            found = _names(target, owner) and config_class(component(name)) is config
        if found:
            return name
    return None


def _near(config: type) -> Iterator[tuple[str, str | type]]:
    """Yields names that may stand for `config`, but none whose import would run another package."""
    yield from _registered.items()
    package = config.__module__.partition(".")[0]
    for names in (installed(), tables(package)):
        for name, registrations in names.items():
            for each in registrations:
                if each.target.partition(":")[0].partition(".")[0] == package:
                    yield name, each.target


def _names(target: str, owner: str) -> bool:
    return target.rpartition(":")[2].rpartition(".")[2] == owner


def _imported(target: str, where: str) -> type:
    module_name, _, qualified_name = target.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigError(
            f"{where}: expected 'my_package.my_module:MyClass', got {target!r}. Write the module "
            "as an import does, with dots and without .py"
        )
    found: object = _module(module_name, target, where)
    try:
        for attribute in qualified_name.split("."):
            found = getattr(found, attribute)
    except AttributeError as error:
        raise ConfigError(f"{where}: {target!r} cannot be found: {error}") from error
    if not isinstance(found, type):
        raise ConfigError(f"{where}: expected {target!r} to be a class, got {found!r}")
    return found


def _module(name: str, target: str, where: str) -> ModuleType:
    """Imports a module, whose own code may fail in any way."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        remedy = ""
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            remedy = ". A module of your own lies beside the config or in the current directory"
        raise MissingDependencyError(
            f"{where}: {target!r} needs the module {error.name!r}, which is not installed{remedy}"
        ) from error
    except (Exception, SystemExit) as error:
        message = " ".join(str(error).split())
        raise ConfigError(
            f"{where}: {target!r} fails when it is imported: {_place_of(error)}"
            f"{type(error).__name__}: {message}"
        ) from error


def _place_of(error: BaseException) -> str:
    """'my_module.py:12: ' of the innermost line that failed; a syntax error has its own."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: "
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}: "
