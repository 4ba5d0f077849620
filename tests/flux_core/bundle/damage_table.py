"""The table of damage: changes to a copy of the shipped policy, and the errors they cause."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .toy_bundle import edit, hash_again

Damage = Callable[[Path], object]


class Case(NamedTuple):
    name: str
    damage: Damage
    expected: str


CASES: list[Case] = []


def case(expected: str) -> Callable[[Damage], Damage]:
    """Adds a row: the damage to the bundle, and the error that it must cause."""

    def add(damage: Damage) -> Damage:
        CASES.append(Case(damage.__name__.strip("_"), damage, expected))
        return damage

    return add


def rows(make: Callable[[str], Damage], expected: dict[str, str]) -> None:
    """Adds one row for each file name."""
    for name, text in expected.items():
        CASES.append(Case(f"{make.__name__}-{name}", make(name), text))


def cut(name: str) -> Damage:
    return lambda path: os.truncate(path / name, (path / name).stat().st_size // 2)


def altered(name: str) -> Damage:
    def damage(path: Path) -> None:
        content = bytearray((path / name).read_bytes())
        content[len(content) // 2] ^= 1
        (path / name).write_bytes(content)

    return damage


def removed(name: str) -> Damage:
    return lambda path: (path / name).unlink()


def json_file(expected: str, name: str, file: str, change: Callable[[Any], object]) -> None:
    def damage(path: Path) -> None:
        data = json.loads((path / file).read_text())
        change(data)
        (path / file).write_text(json.dumps(data))
        hash_again(path)

    CASES.append(Case(name, damage, expected))


def hash_again_sparse(path: Path, name: str) -> None:
    found = subprocess.run(["sha256sum", path / name], capture_output=True, text=True, check=True)
    entry = {"sha256": found.stdout.split()[0], "bytes": (path / name).stat().st_size}
    edit(path, lambda data: data["files"].update({name: entry}))
