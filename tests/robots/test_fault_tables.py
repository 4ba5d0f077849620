"""The tables of faults of robots in docs name tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

FOLDER = Path(__file__).parent
PAGES = (FOLDER.parents[1] / "docs").glob("*.md")
NAMED = re.compile(r"`((?:\w+/)+\w+\.py)::(test_\w+)`")


def test_every_test_that_a_table_names_exists() -> None:
    named = {found for page in PAGES for found in NAMED.findall(page.read_text(encoding="utf-8"))}
    assert named
    missing = [f"{path}::{name}" for path, name in sorted(named) if name not in _tests(path)]
    assert missing == []


def _tests(path: str) -> set[str]:
    """The tests of a file below tests/robots."""
    tree = ast.parse((FOLDER / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
