"""The table of docs/safety.md names tests that exist, and the reactions that the core has."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from ..documents import ROOT
from . import (
    test_faults_chunks,
    test_faults_commands,
    test_faults_processes,
    test_faults_sensors,
)

PAGE = ROOT / "docs" / "safety.md"
FOLDER = Path(__file__).parent
FEWEST_KINDS = 25
REACTION = re.compile(r"`([a-z_]+)`: ([a-z_]+)")


def _rows() -> list[list[str]]:
    section = PAGE.read_text().partition("\n## Faults and reactions\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in rows if row[0] != "kind"]


def _tests() -> set[str]:
    return {
        f"{path.name}::{node.name}"
        for path in FOLDER.glob("test_faults_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_the_table_has_enough_kinds_and_each_a_promise_and_figures() -> None:
    rows = _rows()
    assert len(rows) >= FEWEST_KINDS
    assert len({row[0] for row in rows}) == len(rows)
    for kind, _, promise, _, measured in rows:
        assert promise and measured, kind


def test_every_row_names_an_existing_test_and_every_test_has_a_row() -> None:
    named = {row[3].strip("`") for row in _rows()}
    assert named - _tests() == set()
    details = {
        "test_faults_sensors.py::test_the_recording_has_the_stamps_that_the_arm_received",
        "test_faults_versions.py::test_memory_that_is_not_ours_is_refused",
    }
    assert _tests() - named == details


def test_every_scenario_has_a_row() -> None:
    modules: Any = (
        *(test_faults_chunks, test_faults_commands),
        *(test_faults_processes, test_faults_sensors),
    )
    scenarios = {name for module in modules for name in module.SCENARIOS}
    assert scenarios - {row[0] for row in _rows()} == set()


def test_the_reactions_are_those_of_the_core() -> None:
    core: Any = pytest.importorskip("flux_runtime._core", reason="the C++ core was not built")
    reactions = {name: reaction for name, reaction, _ in core.FAULTS}
    stated = [REACTION.search(row[1]) for row in _rows()]
    wrong = [found[0] for found in stated if found and reactions.get(found[1]) != found[2]]
    assert wrong == []
