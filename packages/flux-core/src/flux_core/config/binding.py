"""Turns a plain tree into frozen dataclasses by the declared type of each field, and back.

Understood types: int, float, str, bool, Path, Literal, `X | Y`, `X | None`, tuple[X, ...],
tuple[X, Y], list[X] and Sequence[X] (both bound to tuples), Mapping[str, X], dataclasses, base
classes and protocols (any component whose config derives from them), Any and object.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union

from ..errors import ConfigError, FluxError
from .compat import translate, translated_keys
from .literals import is_bracketed, is_quoted, unquoted
from .registry import (
    component,
    config_class,
    did_you_mean,
    dotted,
    is_registered,
    owner_name,
    type_name,
)

_SCALARS: dict[object, tuple[type, ...]] = {
    bool: (bool,),
    int: (int,),
    float: (float, int),
    str: (str,),
    Path: (str, Path),
    type(None): (type(None),),
}
_ANYTHING = (Any, object)


def bind(declared: Any, tree: object, path: str = "") -> Any:
    """Returns `tree` as a value of the type `declared`.

    Args:
        declared: a dataclass, a component class, a base class, or any type named above.
        tree: plain data, in which a config instance may stand for its own dict.
        path: the dotted path of `tree`, for messages: 'runner', 'model.projector'.

    Raises:
        ConfigError: a key, type or value is wrong; the message begins with its dotted path.
    """
    if declared in _ANYTHING:
        return _bind_anything(tree, path)
    if _is_union(declared):
        return _bind_union(declared, tree, path)
    if not _fits(declared, tree, path):
        raise _misfit(declared, tree, path)
    if declared is float and _is_beyond_floats(typing.cast(float, tree)):
        raise _not_finite(path, tree)
    origin = typing.get_origin(declared)
    if origin is Literal:
        return tree
    if declared in _SCALARS:
        return typing.cast(Any, declared)(tree) if declared in (float, Path) else tree
    if _is_sequence(declared):
        return _bind_sequence(declared, typing.cast(Sequence[object], tree), path)
    if _is_mapping(declared):
        return _bind_mapping(declared, typing.cast(Mapping[object, object], tree), path)
    return _bind_config(declared, tree, path)


def unbind(value: object) -> Any:
    """Returns a bound value as plain data that JSON can hold; `bind` reads it back as equal.

    A config becomes a dict with its `type`. The `type` is omitted only for a nested dataclass that
    has no registered name and is the declared type of its field.
    """
    return _unbind(value, None)


def _unbind(value: object, declared: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        cls = type(value)
        hints = _hints(cls)
        data = {f.name: _unbind(getattr(value, f.name), hints[f.name]) for f in _inputs(cls)}
        implied = _mentioned(declared) == {cls} and not is_registered(cls)
        return data if implied else {"type": type_name(cls), **data}
    if isinstance(value, Mapping):
        return {key: _unbind(item, declared) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_unbind(item, declared) for item in value]
    return str(value) if isinstance(value, Path) else value


def _bind_config(declared: type, tree: object, path: str) -> Any:
    """Binds a dict, or a config instance, to the dataclass it stands for."""
    cls = _config_of(declared, tree, path)
    assert cls is not None, "checked by _fits"
    if isinstance(tree, Mapping):
        section = {key: value for key, value in tree.items() if key != "type"}
    else:
        section = {field.name: getattr(tree, field.name) for field in _inputs(cls)}
    known = {field.name: field for field in _inputs(cls)}
    section, written = translate(section, _called(cls, tree, path), known, path or owner_name(cls))
    places = {key: dotted(path, written.get(key, key)) for key in (*section, *known)}
    _check_keys(cls, section, known, places)
    hints = _hints(cls)
    values = {key: bind(hints[key], item, places[key]) for key, item in section.items()}
    try:
        config = cls(**values)
    except (ValueError, OverflowError, FluxError) as error:
        # 'max_delay: ...' and 'rtc.max_delay: ...' begin with a field: prepend the path.
        field = str(error).partition(":")[0].split(".")[0]
        if field in known:
            raise ConfigError(f"{places[field]}{str(error)[len(field) :]}") from error
        raise ConfigError(f"{path or owner_name(cls)}: {error}") from error
    # Afterwards, because a class's own checks say more about its numbers.
    for key, value in values.items():
        _check_finite(value, places[key])
    return config


def _check_finite(value: object, path: str) -> None:
    """Refuses the first number of a field, or of its list or dict, that is NaN or infinite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise _not_finite(path, value)
    if isinstance(value, tuple | list | Mapping):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in pairs:
            _check_finite(item, dotted(path, key))


def _not_finite(path: str, value: object) -> ConfigError:
    return ConfigError(f"{path or 'config'}: expected a finite number, got {_show(value)}")


def _check_keys(
    cls: type,
    section: Mapping[Any, object],
    known: Mapping[str, Field[Any]],
    places: Mapping[Any, str],
) -> None:
    name = owner_name(cls)
    for key in section:
        if key not in known:
            hint = did_you_mean(str(key), (*known, "type"))
            raise ConfigError(f"{places[key]}: {name} has no field {str(key)!r}.{hint}")
    for key, field in known.items():
        required = field.default is MISSING and field.default_factory is MISSING
        if required and key not in section:
            wanted = _describe(_hints(cls)[key])
            raise ConfigError(f"{places[key]}: {name} needs {key!r} ({wanted})")


def _bind_sequence(declared: Any, tree: Sequence[object], path: str) -> tuple[Any, ...]:
    items = typing.get_args(declared) or (Any, ...)
    fixed = typing.get_origin(declared) is tuple and items[-1] is not ...
    if fixed and len(items) != len(tree):
        raise ConfigError(f"{path}: expected {len(items)} values, got {len(tree)}")
    kinds = items if fixed else (items[0],) * len(tree)
    pairs = enumerate(zip(kinds, tree, strict=True))
    return tuple(bind(kind, item, dotted(path, index)) for index, (kind, item) in pairs)


def _bind_mapping(declared: Any, tree: Mapping[object, object], path: str) -> dict[str, Any]:
    kind = (typing.get_args(declared) or (str, Any))[1]
    return {_text(key, path): bind(kind, item, dotted(path, key)) for key, item in tree.items()}


def _bind_anything(tree: object, path: str) -> Any:
    """Binds the components inside a value that is declared Any; leaves the rest as it is."""
    if is_dataclass(tree) or (isinstance(tree, Mapping) and "type" in tree):
        return _bind_config(object, tree, path)
    if isinstance(tree, Mapping):
        return _bind_mapping(Mapping[str, Any], tree, path)
    return _bind_sequence(tuple, tree, path) if isinstance(tree, list | tuple) else tree


def _bind_union(declared: Any, tree: object, path: str) -> Any:
    """Binds to the member that fits; of several, to the exact type, else the first that binds.

    Raises:
        ConfigError: none binds; it is the error of the member that the value resembles most.
    """
    members = [member for member in typing.get_args(declared) if _fits(member, tree, path)]
    if isinstance(tree, Mapping) and "type" in tree:
        # A component: no group of components is called 'type'.
        is_config = any(map(_is_config, typing.get_args(declared)))
        members = [m for m in members if not (is_config and _is_mapping(m))]
    if not members:
        raise _misfit(declared, tree, path)
    if len([m for m in members if _is_config(m)]) > 1 and _has_no_type(tree):
        raise ConfigError(f"{dotted(path, 'type')}: missing; expected {_describe(declared)}")
    if is_quoted(tree) and any(map(_is_sequence, typing.get_args(declared))):
        raise _misfit(declared, tree, path)
    # Python's sort keeps the order of equals: the first declared member wins a tie.
    members.sort(key=lambda member: (member is not type(tree), _difference(member, tree)))
    errors: list[ConfigError] = []
    for member in members:
        try:
            return bind(member, tree, path)
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def _difference(declared: Any, tree: object) -> tuple[float, bool]:
    """The share of a dict's entries that have the wrong form for a type, without their contents.

    A config expects its own fields, under any of their names; a mapping expects entries of its kind
    under any keys. So `dict(aloha=[...], ur3=[...])` is taken for groups of datasets whatever is
    wrong inside a group, and `dict(data_rot_path=..., transforms=[...])` for one dataset. If both
    are as likely, it is groups, because one component should have its `type`.
    """
    if not isinstance(tree, Mapping) or not tree:
        return 0.0, False
    if _is_mapping(declared):
        kind = (typing.get_args(declared) or (str, Any))[1]
        found = [_has_form(kind, item) for item in tree.values()]
    elif _is_config(declared):
        cls = _own_config(declared)
        names = {field.name for field in _inputs(cls)} if is_dataclass(cls) else set()
        names |= translated_keys(map(owner_name, type.mro(cls)))
        found = [key == "type" or key in names for key in tree]
    else:
        return 0.0, False
    return 1.0 - sum(found) / len(found), not _is_mapping(declared)


def _has_form(declared: Any, tree: object) -> bool:
    """Whether a value could be of a type: a dict, a list or a scalar, where it declares one."""
    if _is_union(declared):
        return any(_has_form(member, tree) for member in typing.get_args(declared))
    if _is_config(declared):
        return isinstance(tree, Mapping) or is_dataclass(tree)
    return _fits(declared, tree, "")


def _misfit(declared: Any, tree: object, path: str) -> ConfigError:
    hint = _hint_on_quotes(declared, tree) if isinstance(tree, str) else ""
    if isinstance(tree, float) and tree.is_integer() and _takes(declared, int(tree)):
        hint = f". Write {int(tree)}"
    wants_list = any(map(_is_sequence, (declared, *typing.get_args(declared))))
    if wants_list and isinstance(tree, Mapping) and all(str(key).isdecimal() for key in tree):
        hint = ". Write the whole list, because the config has none there whose items could change"
    return ConfigError(
        f"{path or 'config'}: expected {_describe(declared)}, got {_show(tree)}{hint}"
    )


def _hint_on_quotes(declared: Any, text: str) -> str:
    value = unquoted(text)
    if value != text and _takes(declared, value):
        return f". Write it without quotes: {text.strip()}"
    if value == text and is_bracketed(text):
        return ". Inside the brackets, put each text and key in quotes"
    return ""


def _is_beyond_floats(value: float) -> bool:
    """Whether a number is an int beyond the largest float."""
    try:
        float(value)
    except OverflowError:
        return True
    return False


def _takes(declared: Any, value: object) -> bool:
    try:
        bind(declared, value)
    except ConfigError:
        return False
    return True


def _fits(declared: Any, tree: object, path: str) -> bool:
    """Whether `tree` has the declared type, without looking at its contents."""
    if declared in _ANYTHING:
        return True
    if declared in _SCALARS:
        allowed = _SCALARS[declared]
        return isinstance(tree, allowed) and (bool in allowed or not isinstance(tree, bool))
    if typing.get_origin(declared) is Literal:
        return any(tree == choice and type(tree) is type(choice) for choice in declared.__args__)
    if _is_union(declared):
        return any(_fits(member, tree, path) for member in typing.get_args(declared))
    if _is_sequence(declared):
        return isinstance(tree, list | tuple)
    if _is_mapping(declared):
        return isinstance(tree, Mapping)
    if not isinstance(declared, type):
        raise TypeError(f"{path}: a config field cannot be of type {declared!r}")
    return _config_of(declared, tree, path) is not None


def _config_of(declared: type, tree: object, path: str) -> type | None:
    """The dataclass that `tree` stands for, or None if it does not derive from `declared`."""
    base = _own_config(declared)
    if isinstance(tree, Mapping):
        if "type" not in tree:
            return base if is_dataclass(base) and not inspect.isabstract(base) else None
        cls = config_class(component(_text(tree["type"], dotted(path, "type")), path), path)
    elif is_dataclass(tree) and not isinstance(tree, type):
        cls = type(tree)
    else:
        return None
    return cls if _derives(cls, base) else None


def _own_config(declared: type) -> type:
    """The dataclass that a declared class stands for; a base class or a protocol is returned."""
    return declared if is_dataclass(declared) else vars(declared).get("Config", declared)


def _derives(cls: type, base: type) -> bool:
    try:
        return issubclass(cls, base)
    except TypeError:  # a protocol that cannot be checked at run time
        return True


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _inputs(cls: Any) -> list[Field[Any]]:
    return [field for field in fields(cls) if field.init]


def _called(cls: type, tree: object, path: str) -> list[str]:
    """Every name that the compatibility table may use for a section, the most specific last."""
    written = [str(tree["type"])] if isinstance(tree, Mapping) and "type" in tree else []
    bases = [owner_name(base) for base in reversed(cls.__mro__)]
    return [path.rpartition(".")[2], *bases, *written]


def _mentioned(declared: Any) -> set[type]:
    """The config classes that a type expression names."""
    if _is_config(declared):
        return {declared}
    return {cls for argument in typing.get_args(declared) for cls in _mentioned(argument)}


def _is_config(declared: Any) -> bool:
    plain = declared in _SCALARS or declared in _ANYTHING or typing.get_origin(declared)
    return isinstance(declared, type) and not plain


def _is_union(declared: Any) -> bool:
    return typing.get_origin(declared) in (Union, types.UnionType)


def _is_sequence(declared: Any) -> bool:
    return (typing.get_origin(declared) or declared) in (tuple, list, Sequence)


def _is_mapping(declared: Any) -> bool:
    return (typing.get_origin(declared) or declared) in (dict, Mapping)


def _has_no_type(tree: object) -> bool:
    return isinstance(tree, Mapping) and "type" not in tree


def _text(key: object, path: str) -> str:
    if not isinstance(key, str):
        raise ConfigError(f"{path}: expected text, got {key!r}")
    return key


def _describe(declared: Any) -> str:
    """'int or None', 'a list of LinearProjector', "'sync' or 'async'"."""
    if declared is type(None):
        return "None"
    if declared in _ANYTHING:
        return "anything"
    arguments = typing.get_args(declared)
    if typing.get_origin(declared) is Literal:
        return " or ".join(map(repr, arguments))
    if _is_union(declared):
        return " or ".join(map(_describe, arguments))
    if _is_sequence(declared):
        return "a list of " + _describe((arguments or (Any,))[0])
    if _is_mapping(declared):
        return "a dict of " + _describe((arguments or (str, Any))[1])
    return owner_name(declared)


def _show(tree: object) -> str:
    """The value as it was written, shortened; for a section its type."""
    if is_dataclass(tree):
        return owner_name(type(tree))
    if isinstance(tree, Mapping):
        return f"type {tree['type']!r}" if "type" in tree else "a dict without 'type'"
    text = repr(tree)
    return text if len(text) <= 60 else f"{text[:57]}..."
