"""docs/remote.md names tests, options and metrics that exist."""

from __future__ import annotations

import ast
import re

import pytest

from ..documents import ROOT, help_of

PAGE = ROOT / "docs" / "remote.md"
FOLDERS = ("remote", "flux_runtime/serve", "flux_runtime/remote", "flux_runtime/wire")
NAMED = re.compile(r"`(\w+\.py)::(test_\w+)`")


def _tests_of(file: str) -> set[str]:
    """The tests of all files of this name in `FOLDERS`."""
    paths = [ROOT / "tests" / folder / file for folder in FOLDERS]
    return {
        node.name
        for path in paths
        if path.is_file()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_test_that_the_page_names_exists() -> None:
    named = NAMED.findall(PAGE.read_text(encoding="utf-8"))
    assert named
    assert [f"{file}::{name}" for file, name in named if name not in _tests_of(file)] == []


def test_every_option_that_the_page_names_exists() -> None:
    commands = (("serve",), ("run",), ("doctor",), ("replay",))
    shown = "\n".join(help_of(("flux-runtime", *path)) for path in commands)
    named = set(re.findall(r"`(--[a-z][a-z-]+)", PAGE.read_text(encoding="utf-8")))
    assert [name for name in sorted(named) if not re.search(rf"{name}\b(?!-)", shown)] == []


def test_every_metric_that_the_page_names_exists() -> None:
    pytest.importorskip("prometheus_client")
    from prometheus_client import generate_latest

    from flux_runtime.serve.metrics import Metrics

    server = ROOT / "packages" / "flux-runtime" / "src" / "flux_runtime" / "serve" / "server.py"
    metrics = Metrics()
    for name in re.findall(r'metrics\.watch\("(\w+)"', server.read_text(encoding="utf-8")):
        metrics.watch(name, name, lambda: 0.0)
    text = generate_latest(metrics.registry).decode()
    had = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    named = set(re.findall(r"`(flux_serve_\w+)`", PAGE.read_text(encoding="utf-8")))
    own = {name for name in had if name.startswith("flux_serve") and not name.endswith("_created")}
    assert named == own
