"""Reads `--robot-config FILE`: what a robot's driver must know, such as its address.

Other options with such a file use it, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from flux_core.errors import MissingDependencyError, UsageError

OPTION = "--robot-config"
_YAML = (".yaml", ".yml")


def read_robot_config(path: Path | None, option: str = OPTION) -> dict[str, Any]:
    """Returns the entries of a JSON or YAML file; empty without one.

    Args:
        path: the file.
        option: that names it, for messages.

    Raises:
        UsageError: the file cannot be read, or is not a mapping with texts for keys.
        MissingDependencyError: PyYAML is needed and not installed.
    """
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"{option}: {path}: cannot be read ({reason})") from error
    found = _parsed(path, text, option)
    if not isinstance(found, Mapping):
        raise UsageError(f"{option}: {path}: expected a mapping, got {type(found).__name__}")
    for key in cast(Mapping[object, object], found):
        if not isinstance(key, str):
            raise UsageError(f"{option}: {path}: expected texts for keys, got {key!r:.60}")
    return dict(cast(Mapping[str, Any], found))


def _parsed(path: Path, text: str, option: str) -> object:
    if path.suffix == ".json":
        try:
            return json.loads(text)
        except ValueError as error:
            raise UsageError(f"{option}: {path}: not valid JSON ({error})") from error
    if path.suffix not in _YAML:
        raise UsageError(f"{option}: {path}: expected a .json, .yaml or .yml file")
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError(
            "PyYAML: not installed. Install it with: pip install PyYAML"
        ) from error
    try:
        return yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{option}: {path}: not valid YAML ({reason})") from error
