"""The kinds by which a bundle's fields are checked, compared with the fields' declared types."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flux_core.config import component, config_class, type_name
from flux_core.config.binding import (
    _hints,
    _inputs,
    _is_config,
    _is_mapping,
    _is_sequence,
    _is_union,
)
from flux_core.config.installed import installed
from flux_core.config.kinds import Place, field_kind
from flux_train.config import TrainConfig


def places(declared: Any, place: Place) -> Iterator[tuple[Place, type]]:
    """Yields every field that takes a component, with the class that its type names."""
    if _is_union(declared):
        for member in typing.get_args(declared):
            yield from places(member, place)
    elif _is_mapping(declared):
        yield from places((typing.get_args(declared) or (str, Any))[1], (*place, "any_name"))
    elif _is_sequence(declared):
        for item in set(typing.get_args(declared)) - {...}:
            yield from places(item, (*place, 0))
    elif _is_config(declared):
        base: Any = declared
        if not dataclasses.is_dataclass(declared):
            base = vars(declared).get("Config", declared)
        yield place, base


def registered() -> dict[str, type]:
    return {name: config_class(component(name)) for name in installed()}


def fits(cls: type, base: type) -> bool:
    try:
        return issubclass(cls, base)
    except TypeError:
        return False


def walk() -> Mapping[Place, set[type]]:
    """Every field of a training config that takes a component, with the classes it declares."""
    classes, found = set(registered().values()), dict[Place, set[type]]()
    pending: list[tuple[Place, type]] = [((), TrainConfig)]
    while pending:
        place, base = pending.pop()
        if base in found.setdefault(place, set()):
            continue
        found[place].add(base)
        for cls in {base, *(c for c in classes if fits(c, base))}:
            if dataclasses.is_dataclass(cls):
                for field in _inputs(cls):
                    pending += places(_hints(cls)[field.name], (*place, field.name))
    return found


def test_every_field_declares_components_of_its_kind_only() -> None:
    names: Sequence[tuple[str, type]] = list(registered().items())
    kinds = {name: each[0].kind for name, each in installed().items()}
    seen: set[str] = set()
    for place, bases in walk().items():
        kind = field_kind(place)
        declared = {name for name, cls in names if any(fits(cls, base) for base in bases)}
        assert declared <= {name for name in kinds if kinds[name] == kind}, (place, kind)
        seen |= declared
    assert seen == {name for name, _ in names}


def test_no_class_of_a_config_is_written_by_its_path() -> None:
    classes = {
        base
        for bases in walk().values()
        for base in bases
        if dataclasses.is_dataclass(base) and not inspect.isabstract(base)
    }
    assert len(classes) > 20
    assert [name for name in map(type_name, classes) if ":" in name] == []
