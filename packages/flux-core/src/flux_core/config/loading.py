"""Config files: a `.py` is run, a `.json` is read; both become one tree of plain data."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import ConfigError
from .binding import unbind
from .overrides import apply_overrides
from .registry import dotted


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the sections of a config file as plain data, overrides applied.

    Args:
        path: a `.py` file, whose public values become the sections, or a resolved `.json`.
        overrides: 'runner.max_epochs=50' and the like.

    Raises:
        ConfigError: the file is missing, fails (named with its line), or holds something that is
            neither plain data nor a component's config.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file")
    if path.suffix == ".py":
        tree = _run(path)
    elif path.suffix == ".json":
        tree = _read_json(path)
    else:
        raise ConfigError(f"{path}: expected a .py or .json config, got {path.suffix!r}")
    return apply_overrides(tree, overrides)


def _run(path: Path) -> dict[str, Any]:
    """Runs the file in a separate namespace and keeps its public values."""
    namespace: dict[str, Any] = {"__name__": "__config__", "__file__": str(path)}
    try:
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), namespace)
    except (Exception, SystemExit) as error:
        line = _line_of(error, path)
        text = error.msg if isinstance(error, SyntaxError) else error
        message = " ".join(str(text).split())
        raise ConfigError(f"{path}:{line}: {type(error).__name__}: {message}") from error
    if "_base_" in namespace:
        raise ConfigError(f"{path}: `_base_` is not supported. Import the values that you need")
    return {
        name: _plain(value, name)
        for name, value in namespace.items()
        if not name.startswith("_") and not _is_machinery(value)
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected an object of sections, got {type(tree).__name__}")
    return tree


def _line_of(error: BaseException, path: Path) -> int | None:
    """The line of `path` that failed, however deep the error was raised."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)


def _is_machinery(value: object) -> bool:
    """Whether a value is an import, function or class, which a file uses to build its sections."""
    if is_dataclass(value):
        return isinstance(value, type)
    from_future = type(value).__module__ == "__future__"
    return from_future or callable(value) or isinstance(value, ModuleType)


def _plain(value: object, where: str) -> Any:
    """Turns configs into dicts and tuples into lists; shares nothing with `value`."""
    if is_dataclass(value) and not isinstance(value, type):
        return unbind(value)
    if isinstance(value, Mapping):
        return {
            _text_key(key, where): _plain(item, dotted(where, key)) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(item, dotted(where, index)) for index, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    raise ConfigError(
        f"{where}: expected plain data or a component's config, got {type(value).__name__}. "
        "Prefix a helper's name with '_' to keep it out of the config."
    )


def _text_key(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise ConfigError(f"{where}: expected text keys, got {key!r}")
    return key
