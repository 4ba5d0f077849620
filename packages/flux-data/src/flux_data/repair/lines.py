"""Reads damaged metadata: whatever can be read of it, with a note for the rest."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flux_core.errors import DataError

from ..lerobot.metadata import read_table
from .notes import Notes

EPISODE_INDEX = re.compile(rb'"episode_index"\s*:\s*(\d{1,9})\b')


@dataclass(frozen=True, kw_only=True)
class Line:
    """What the metadata says of one episode; `values` is empty if the line is damaged."""

    index: int
    file: str
    values: Mapping[str, Any] = field(default_factory=dict)


def episode_lines_v2(root: Path, notes: Notes) -> dict[int, list[Line]]:
    """Returns the lines of each episode in `episodes.jsonl`; a damaged one counts if it says which
    episode it is about, or is the last and so about the next."""
    path = root / "meta" / "episodes.jsonl"
    lines: dict[int, list[Line]] = {}
    damaged: list[tuple[int, bytes, bool]] = []
    content = path.read_bytes().splitlines() if path.is_file() else []
    for number, text in enumerate(content, start=1):
        values = _object(text)
        index = whole_number(values.get("episode_index")) if values else None
        if values and index is not None:
            line = Line(index=index, file=f"{path}:{number}", values=values)
            lines.setdefault(index, []).append(line)
        elif text.strip():
            damaged.append((number, text, number == len(content)))
    for number, text, is_last in damaged:
        found = EPISODE_INDEX.search(text)
        index = int(found[1]) if found else max(lines, default=-1) + 1 if is_last else None
        where = f"{path}:{number}"
        if index is None or index in lines:
            notes.corrected(where, "the line is damaged and names no further episode: removed")
        else:
            notes.corrected(where, "the line is damaged: written again from the files", index)
            lines[index] = [Line(index=index, file=where)]
    return lines


def episode_lines_v3(root: Path, notes: Notes) -> dict[int, list[Line]]:
    """Returns the rows of each episode in the tables of `meta/episodes` that can be read."""
    lines: dict[int, list[Line]] = {}
    for path in sorted((root / "meta" / "episodes").glob("chunk-*/file-*.parquet")):
        try:
            rows = read_table(path).to_pylist()
        except DataError as error:
            message = f"{_after_path(error)}: the episodes that it lists"
            notes.left_out(path, message)
            continue
        for number, values in enumerate(rows):
            index = whole_number(values.get("episode_index"))
            if index is None:
                got = values.get("episode_index")
                notes.left_out(path, f"row {number}: expected an episode_index, got {got!r}")
                continue
            line = Line(index=index, file=str(path), values=values)
            lines.setdefault(index, []).append(line)
    return lines


def json_lines(path: Path, notes: Notes) -> Iterator[dict[str, Any]]:
    """Yields the objects in a file of JSON lines; damaged lines are noted and left out."""
    for number, text in enumerate(path.read_bytes().splitlines(), start=1):
        values = _object(text)
        if values is not None:
            yield values
        elif text.strip():
            notes.corrected(f"{path}:{number}", "the line is damaged: removed")


def whole_number(value: object) -> int | None:
    """Returns a count of 0 or more; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return None
    return value


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _after_path(error: DataError) -> str:
    return str(error).partition(": ")[2]
