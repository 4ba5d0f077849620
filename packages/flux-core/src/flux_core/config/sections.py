"""Reading sections of another project's config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import ConfigError


def part_of(section: Mapping[str, Any], key: str, path: str) -> Mapping[str, Any]:
    """Returns the section under `key`; empty if there is none."""
    part = section.get(key)
    if part is not None and not isinstance(part, Mapping):
        raise ConfigError(f"{path}.{key}: expected a dict, got {part!r}")
    return part or {}


def check_known(section: Mapping[str, Any], known: Iterable[str], path: str, owner: str) -> None:
    """Refuses keys that `owner`, a class of another project, does not have."""
    for key in section:
        if key not in known:
            raise ConfigError(f"{path}.{key}: {owner} has no field {key!r}")


def check_type(section: Mapping[str, Any], known: Iterable[str], path: str) -> str:
    """Returns the section's `type`, which must be one of `known`."""
    name = section.get("type")
    if not isinstance(name, str) or name not in known:
        expected = " or ".join(map(repr, known))
        raise ConfigError(f"{path}.type: expected {expected}, got {name!r}")
    return name
