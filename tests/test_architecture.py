"""Who may import whom: docs/architecture.md, enforced."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ROOT / "packages"
MAX_LINES = 600

# package -> the siblings it may import
ALLOWED: dict[str, set[str]] = {
    "flux_core": set(),
    "flux_data": {"flux_core"},
    "flux_train": {"flux_core", "flux_data"},
    "flux_runtime": {"flux_core"},
}
# The parts of a package that may need torch; `()` is none, and "" the whole package.
MAY_NEED_TORCH: dict[str, tuple[str, ...]] = {
    "flux_core": ("models/",),
    "flux_data": ("samples/resize.py",),
    "flux_train": ("",),
    "flux_runtime": ("export",),
}


def _source(package: str) -> Path:
    return PACKAGES / package.replace("_", "-") / "src" / package


def _modules(package: str) -> Iterator[tuple[str, ast.Module]]:
    """Yields each module's path inside its package, and its syntax tree."""
    source = _source(package)
    for path in sorted(source.rglob("*.py")):
        yield path.relative_to(source).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def _imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yields the top-level name and the line of every absolute import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0], node.lineno


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_the_siblings_it_may(package: str) -> None:
    forbidden = ALLOWED.keys() - ALLOWED[package] - {package}
    found = [
        f"{package}/{path}:{line} imports {name}"
        for path, tree in _modules(package)
        for name, line in _imports(tree)
        if name in forbidden
    ]
    assert not found


@pytest.mark.parametrize("package", MAY_NEED_TORCH)
def test_torch_is_imported_only_where_it_may_be_needed(package: str) -> None:
    allowed = MAY_NEED_TORCH[package]
    found = [
        f"{package}/{path}:{line} imports torch"
        for path, tree in _modules(package)
        if not path.startswith(allowed)
        for name, line in _imports(tree)
        if name == "torch"
    ]
    assert not found


def test_siblings_are_imported_absolutely_and_neighbours_relatively() -> None:
    found = [
        f"{package}/{path}:{line} imports its own package by its full name"
        for package in ALLOWED
        for path, tree in _modules(package)
        for name, line in _imports(tree)
        if name == package and not path.endswith(("__main__.py", "_worker.py"))
    ]
    assert not found


def test_importing_core_and_runtime_loads_no_torch() -> None:
    heavy = ("torch", "transformers", "onnxruntime", "mujoco", "av", "flux_data", "flux_train")
    program = (
        "import sys, flux_core, flux_runtime\n"
        f"print(*[name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_pybind11_stays_in_the_bindings() -> None:
    cpp = ROOT / "cpp"
    found = [
        str(path.relative_to(ROOT))
        for path in cpp.rglob("*")
        if path.suffix in {".cpp", ".hpp", ".h", ".cu"}
        and "bindings" not in path.relative_to(cpp).parts
        and "pybind11" in path.read_text(encoding="utf-8")
    ]
    assert not found


def test_no_source_file_is_longer_than_the_limit(tracked_files: list[Path]) -> None:
    sources = [path for path in tracked_files if path.suffix in {".py", ".cpp", ".hpp", ".h"}]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources}
    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}


def test_no_module_is_called_utils_or_helpers() -> None:
    names = {"utils.py", "helpers.py", "util.py", "misc.py", "common.py"}
    assert [path for path in PACKAGES.rglob("*.py") if path.name in names] == []
