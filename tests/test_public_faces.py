"""The public faces: everything that a package exports exists, is documented and is typed.

Only a `Sample` may hold values of any type: the data and the transforms decide which keys it has.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest

from flux_core.transforms.base import Sample

PACKAGES = ("flux_core", "flux_data", "flux_train", "flux_runtime")


def _exports() -> list[tuple[str, str]]:
    """Returns (package, name) of all exports that should have type annotations."""
    return [
        (package, name)
        for package in PACKAGES
        for name in importlib.import_module(package).__all__
        if name != "__version__"
    ]


EXPORTS = _exports()
SHOWN = ("__init__", "__call__", "__getitem__", "__iter__")


@pytest.mark.parametrize(("package", "name"), EXPORTS)
def test_an_export_exists_and_is_documented(package: str, name: str) -> None:
    exported = getattr(importlib.import_module(package), name)
    assert inspect.getdoc(exported)
    assert exported.__module__.startswith("flux_")


@pytest.mark.parametrize(("package", "name"), EXPORTS)
def test_an_exports_annotations_contain_no_any(package: str, name: str) -> None:
    found = dict(_annotations(getattr(importlib.import_module(package), name), name))
    assert found, f"{package}.{name} has no annotations"
    assert [f"{where}: {hint}" for where, hint in found.items() if _holds_any(hint)] == []


def _annotations(exported: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yields 'name.method(parameter)' and its type, for a function or a class's public members."""
    if isinstance(exported, FunctionType):
        yield from _of_function(exported, name)
    elif isinstance(exported, type):
        for base in reversed(exported.__mro__):
            if base.__module__.startswith("flux_"):
                yield from _of_class(base, name)
    else:  # an alias: `Policy = A | B`
        yield name, exported


def _of_class(owner: type, name: str) -> Iterator[tuple[str, Any]]:
    hints = _hints(owner)
    for field, hint in hints.items():
        if not field.startswith("_"):
            yield f"{name}.{field}", hint
    for attribute, value in vars(owner).items():
        if attribute.startswith("_") and attribute not in SHOWN:
            continue
        if attribute == "__init__" and dataclasses.is_dataclass(owner):
            continue
        for function in _functions(value):
            yield from _of_function(function, f"{name}.{attribute}", owner)


def _functions(value: Any) -> list[FunctionType]:
    """Returns the functions behind a method, a class method or a property."""
    if isinstance(value, property):
        return [part for part in (value.fget, value.fset) if isinstance(part, FunctionType)]
    if isinstance(value, cached_property):
        value = value.func
    value = inspect.unwrap(getattr(value, "__func__", value))
    return [value] if isinstance(value, FunctionType) else []


def _of_function(
    function: Callable[..., Any], name: str, owner: type | None = None
) -> Iterator[tuple[str, Any]]:
    for parameter, hint in _hints(function, owner).items():
        yield (f"{name}()" if parameter == "return" else f"{name}({parameter})"), hint


def _hints(annotated: Any, owner: type | None = None) -> dict[str, Any]:
    """Returns the annotations of a class or a function as types."""
    names = _namespace(sys.modules[annotated.__module__])
    scope = dict(vars(owner)) if owner else {}
    hints = typing.get_type_hints(annotated, names, scope)
    return {name: hints[name] for name in inspect.get_annotations(annotated)}


@cache
def _namespace(module: ModuleType) -> dict[str, Any]:
    """Returns a module's names, including those that it imports only for type checkers."""
    names = {name: object if value is Sample else value for name, value in vars(module).items()}
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            exec(compile(ast.Module(body=node.body, type_ignores=[]), "types", "exec"), names)
    return names


def _holds_any(hint: Any) -> bool:
    """Whether a type contains `Any`, ignoring the shapes of arrays."""
    if hint is Any:
        return True
    if isinstance(hint, list):  # the parameters of a Callable
        return any(map(_holds_any, hint))
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is np.ndarray:
        arguments = arguments[1:]
    return any(map(_holds_any, arguments))


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (Any, True),
        (dict[str, Any], True),
        (list[tuple[int, Any]] | None, True),
        (Callable[[Any], int], True),
        (np.typing.NDArray[Any], True),
        (np.typing.NDArray[np.float32], False),
        (Callable[[int], dict[str, object]], False),
        (type[int], False),
    ],
)
def test_any_is_found_at_any_depth(hint: object, expected: bool) -> None:
    assert _holds_any(hint) is expected
