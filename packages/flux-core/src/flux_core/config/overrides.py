"""`--cfg-options runner.max_epochs=50`: reading overrides and writing them into a tree."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..errors import ConfigError
from .compat import Renamed, renamed_keys, translated_keys
from .literals import read_value
from .registry import component, config_class, did_you_mean, owner_name

logger = logging.getLogger("flux.config")


def read_overrides(options: Sequence[str]) -> list[tuple[str, Any]]:
    """Splits 'a.b=1' into ('a.b', 1). Values are literals, true/false/none/null, lists, or text."""
    pairs: list[tuple[str, Any]] = []
    for option in options:
        key, equals, text = option.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            raise ConfigError(
                f"override {option!r}: expected KEY=VALUE without spaces around '=', as in "
                "runner.max_epochs=50"
            )
        pairs.append((key, read_value(text)))
    return pairs


def apply_overrides(tree: Mapping[str, Any], options: Sequence[str]) -> dict[str, Any]:
    """Returns a copy of `tree` with the overrides in it.

    If one section is an equal copy of another (`inference_model = model.copy()`), an override of
    the original applies to the copy too, unless the copy has its own override.

    Raises:
        ConfigError: a key is inside a value that has no keys, or inside a section that looks
            misspelt. `bind` checks the rest: unknown keys, and sections that the tree does not
            write out.
    """
    result = copy.deepcopy(dict(tree))
    pairs = read_overrides(options)
    explicit = {key for key, _ in pairs}
    for key, value in pairs:
        if key.endswith(".type"):
            _drop_fields_of_old_type(result, key, value)
    for key, value in pairs:
        _set(result, key, value)
        section, _, rest = key.partition(".")
        for twin in _copies_of(section, tree) if rest else []:
            if f"{twin}.{rest}" not in explicit:
                _set(result, f"{twin}.{rest}", copy.deepcopy(value))
                logger.info("%s=%r is also set in %s, a copy of %s", key, value, twin, section)
    return result


def _drop_fields_of_old_type(tree: dict[str, Any], key: str, new_type: object) -> None:
    """Removes the fields of a section that its new type lacks, with one warning each.

    A key that the old type lacks too is left to `bind`, which reports it.
    """
    node: Any = tree
    for part in key.split(".")[:-1]:
        if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict) and part in node:
            node = node[part]
        else:
            return  # reported when the value is set
    if not isinstance(node, dict) or not isinstance(node.get("type"), str):
        return
    if not isinstance(new_type, str):
        return
    old, new = (_field_names(name, key) for name in (node["type"], new_type))
    where = key.removesuffix(".type")
    for name in [name for name in node if name != "type" and name in old - new]:
        logger.warning(
            "%s.%s: dropped %r, because %s has no such field", where, name, node[name], new_type
        )
        del node[name]


def _field_names(name: str, key: str) -> set[str]:
    """The keys that have an effect in a component, in any spelling."""
    cls = config_class(component(name, key.removesuffix(".type")))
    inputs = {field.name for field in fields(cls) if field.init}
    return inputs | translated_keys(map(owner_name, cls.__mro__), with_dead=False)


def _copies_of(section: str, tree: Mapping[str, Any]) -> list[str]:
    original = tree.get(section)
    if not isinstance(original, Mapping):
        return []
    return [name for name, other in tree.items() if name != section and other == original]


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    node: Any = tree
    for depth, part in enumerate(parents):
        where = f"override {key!r}: {'.'.join(parents[:depth]) or 'the config'}"
        step = _step(node, part, where, new=_may_be_new(node, part, depth))
        if isinstance(node, dict) and (step not in node or (depth > 0 and node[step] is None)):
            node[step] = {}
        node = node[step]
    where = f"override {key!r}: {'.'.join(parents) or 'the config'}"
    step = _step(node, last, where, new=True)
    if isinstance(node, dict):
        _assign(node, parents[-1] if parents else "", last, value)
    else:
        node[step] = value


def with_settings(section: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of a section with keys replaced or added, in their old or current spelling."""
    result = dict(section)
    for key, value in settings.items():
        _assign(result, "", key, value)
    return result


def _assign(section: dict[str, Any], name: str, key: str, value: Any) -> None:
    """Sets `key` and removes its other spelling, so that only the one that was set last remains."""
    renamed = renamed_keys(section, name)
    if (rule := renamed.get(key)) is not None and rule.new in section:
        key, value = rule.new, _converted(rule, key, value)
    for old, rule in renamed.items():
        if rule.new == key:
            section.pop(old, None)
    section[key] = value


def _converted(rule: Renamed, key: str, value: Any) -> Any:
    try:
        return rule.convert(value)
    except ConfigError as error:
        raise ConfigError(f"override {key!r}: {error}") from error


def _may_be_new(node: Any, part: str, depth: int) -> bool:
    """Whether a section may be missing from the tree, or None; `bind` knows a component's sections.

    The top-level sections are all written out, and a key that resembles an existing one is a typo.
    """
    return depth > 0 and isinstance(node, dict) and not did_you_mean(part, map(str, node))


def _step(node: Any, part: str, where: str, *, new: bool = False) -> str | int:
    """Returns `part` as a key or index of `node`; `new` allows a key that is not there yet."""
    if isinstance(node, dict):
        if part.isdecimal() and "type" in node:
            raise ConfigError(f"{where} is one {node['type']}, not a list: leave out {part!r}")
        if part in node or new:
            return part
        raise ConfigError(f"{where} has no {part!r}.{did_you_mean(part, map(str, node))}")
    if isinstance(node, list):
        if part.isdecimal() and int(part) < len(node):
            return int(part)
        indices = f"0 to {len(node) - 1}" if node else "but it is empty"
        raise ConfigError(
            f"{where} is a list of {len(node)}: expected an index, {indices}, got {part!r}"
        )
    raise ConfigError(f"{where} is {node!r}, which has no keys to set")
