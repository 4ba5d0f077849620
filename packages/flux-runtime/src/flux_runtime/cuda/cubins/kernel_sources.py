"""The signatures of the kernels, read from their sources, because this needs no Triton."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

KERNELS = "flux_runtime.cuda.kernels"
"""The package of the kernels that are shipped."""


@dataclass(frozen=True, kw_only=True)
class KernelSource:
    """Where a kernel is, and what it takes.

    Attributes:
        name: of the function.
        module: that it is in, as it is imported.
        parameters: that are not constants, in order: what a launch passes.
        constants: the names of the `tl.constexpr` parameters.
        not_specialized: parameters of which no property is compiled into the kernel
            (`do_not_specialize` of `triton.jit`).
        has_product: whether it multiplies matrices (`tl.dot`), itself or in a function it calls.
    """

    name: str
    module: str
    parameters: tuple[str, ...]
    constants: tuple[str, ...]
    not_specialized: frozenset[str]
    has_product: bool


@cache
def kernel_sources(package: str = KERNELS) -> Mapping[str, KernelSource]:
    """Returns the kernels of a package by name.

    A kernel is a function of one of the package's modules that is decorated with `triton.jit` and
    whose name does not begin with an underscore; the others are called by kernels.
    """
    functions: dict[str, tuple[str, ast.FunctionDef, ast.expr]] = {}
    for path in _files(package):
        module = package if path.stem == "__init__" else f"{package}.{path.stem}"
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and (decorator := _jit(node)) is not None:
                assert node.name not in functions, f"two functions are called {node.name}"
                functions[node.name] = (module, node, decorator)
    calls = {name: _called(node) for name, (_, node, _) in functions.items()}

    def has_product(name: str, seen: frozenset[str] = frozenset()) -> bool:
        deeper = (called for called in calls[name] if called in calls and called not in seen)
        return "dot" in calls[name] or any(has_product(one, seen | {name}) for one in deeper)

    return {
        name: _read(name, module, node, decorator, has_product(name))
        for name, (module, node, decorator) in functions.items()
        if not name.startswith("_")
    }


@cache
def kernels_sha256(package: str = KERNELS) -> str:
    """Returns a hash of all sources of a package, and of the settings that they are compiled with.

    Equal kernels may be in files that differ in their comments only; they are compiled again.
    """
    digest = hashlib.sha256()
    for path in (*_files(package), Path(__file__).with_name("compile_worker.py")):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _files(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    assert spec and spec.submodule_search_locations, f"{package} is not a package"
    return sorted(Path(spec.submodule_search_locations[0]).glob("*.py"))


def _jit(node: ast.FunctionDef) -> ast.expr | None:
    """Returns the decorator `triton.jit`, with or without arguments; None if there is none."""
    for decorator in node.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        if ast.unparse(called) == "triton.jit":
            return decorator
    return None


def _read(
    name: str, module: str, node: ast.FunctionDef, decorator: ast.expr, has_product: bool
) -> KernelSource:
    arguments = node.args
    assert not (arguments.posonlyargs or arguments.kwonlyargs or arguments.vararg), name
    is_constant = {
        one.arg: one.annotation is not None and ast.unparse(one.annotation) == "tl.constexpr"
        for one in arguments.args
    }
    keywords = decorator.keywords if isinstance(decorator, ast.Call) else []
    listed = [one.value for one in keywords if one.arg == "do_not_specialize"]
    return KernelSource(
        name=name,
        module=module,
        parameters=tuple(one for one, constant in is_constant.items() if not constant),
        constants=tuple(one for one, constant in is_constant.items() if constant),
        not_specialized=frozenset(ast.literal_eval(listed[0]) if listed else ()),
        has_product=has_product,
    )


def _called(node: ast.FunctionDef) -> set[str]:
    """Returns the names of all functions that are called."""
    found: set[str] = set()
    for call in ast.walk(node):
        if isinstance(call, ast.Call):
            function = call.func
            found |= {function.id} if isinstance(function, ast.Name) else set()
            found |= {function.attr} if isinstance(function, ast.Attribute) else set()
    return found
