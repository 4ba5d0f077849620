"""The workspace: one version, exact pins, no uploads, no paths of a particular machine."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from .conftest import LONGEST_FIRST

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("flux-core", "flux-data", "flux-train", "flux-runtime")
VERSION = "2026.11.0"
MAKE_TARGETS = {
    "bench",
    "demo",
    "format",
    "help",
    "install",
    "lint",
    "sanitize",
    "test",
    "test-peers",
    "test-slow",
    "typecheck",
}


def _project(package: str) -> dict[str, Any]:
    text = (ROOT / "packages" / package / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["project"]


def _requirements(project: dict[str, Any]) -> list[str]:
    extras = project.get("optional-dependencies", {}).values()
    return [*project.get("dependencies", []), *(item for extra in extras for item in extra)]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_has_the_one_version(package: str) -> None:
    project = _project(package)
    assert project["name"] == package
    assert project["version"] == VERSION
    module = package.replace("-", "_")
    init = ROOT / "packages" / package / "src" / module / "__init__.py"
    assert f'__version__ = "{VERSION}"' in init.read_text(encoding="utf-8")


@pytest.mark.parametrize("package", PACKAGES)
def test_siblings_are_pinned_exactly(package: str) -> None:
    for requirement in _requirements(_project(package)):
        name = re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]
        if name in PACKAGES:
            assert requirement.endswith(f"=={VERSION}"), requirement


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_can_be_uploaded_and_each_is_typed_and_described(package: str) -> None:
    folder = ROOT / "packages" / package
    assert "Private :: Do Not Upload" in _project(package)["classifiers"]
    assert _project(package)["license"] == "Apache-2.0"
    assert (folder / "src" / package.replace("-", "_") / "py.typed").is_file()
    assert (folder / "README.md").read_text(encoding="utf-8").startswith(f"# {package}\n")


def test_the_constraints_pin_each_direct_requirement() -> None:
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    gpu_only = {"onnxruntime-gpu", "tensorrt-cu13", "tensorrt-cu13-bindings"}
    for package in PACKAGES:
        for requirement in _requirements(_project(package)):
            name = re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower()
            assert name in pinned | set(PACKAGES) | gpu_only, f"{package}: {requirement}"


def test_no_file_contains_a_path_of_a_machine(tracked_files: list[Path]) -> None:
    machine = re.compile(r"(?<![\w.-])/(work|farm|home/\w+|root|Users/\w+)/|" + "/tm" + r"p/\w")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in tracked_files
        for number, line in enumerate(_lines(path), 1)
        if machine.search(line)
    ]
    assert not found


def test_no_large_file_is_tracked_but_the_shipped_policies(tracked_files: list[Path]) -> None:
    policies = ROOT / "packages" / "flux-runtime" / "src" / "flux_runtime" / "policies"
    large = [path for path in tracked_files if path.stat().st_size > 1 << 20]
    assert [path for path in large if not path.is_relative_to(policies)] == []
    assert sum(path.stat().st_size for path in large) < 16 << 20


def test_make_help_lists_every_target() -> None:
    listed = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {line.split()[1] for line in listed.stdout.splitlines()} >= MAKE_TARGETS


def test_the_scripts_parse_and_ci_is_executable() -> None:
    scripts = [ROOT / ".ci" / "run", *sorted((ROOT / "scripts").rglob("*.sh"))]
    for script in scripts:
        subprocess.run(["bash", "-n", str(script)], check=True)
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_the_files_that_are_started_first_exist() -> None:
    assert [name for name in LONGEST_FIRST if not (ROOT / "tests" / name).is_file()] == []


@pytest.mark.parametrize(
    ("environments", "lint", "test", "status", "said"),
    [
        (0, 0, 0, 0, []),
        (0, 2, 0, 2, ["ci: error: make lint failed"]),
        (0, 0, 5, 5, ["ci: error: make test failed"]),
        (0, 2, 1, 1, ["ci: error: make lint failed", "ci: error: make test failed"]),
        (2, 0, 0, 2, ["ci: error: make robot-environments failed"]),
        (0, 0, 124, 124, ["ci: error: make test was stopped: the limit is 2400 s for everything"]),
    ],
)
def test_ci_fails_if_lint_or_the_tests_fail_and_ends_with_pytests_summary(
    tmp_path: Path, environments: int, lint: int, test: int, status: int, said: list[str]
) -> None:
    closing = "= 2 passed, 1 skipped in 3.45s ="
    make = tmp_path / "make"
    make.write_text(
        f'#!/bin/sh\nif [ "$1" = lint ]; then exit {lint}; fi\n'
        f'if [ "$1" = robot-environments ]; then exit {environments}; fi\necho "{closing}"\n'
        f"echo 'make: Error' >&2\nexit {test}\n"
    )
    make.chmod(0o755)
    done = subprocess.run(
        [ROOT / ".ci" / "run"],
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status
    assert done.stdout.splitlines() == [closing, "make: Error", *said, closing]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return []
