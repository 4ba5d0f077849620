"""Carries tables of texts to another dataset, with the columns that hold numbers of their rows.

One dataset keeps its tables and numbers as they are. When several are merged, the first one's
tables keep their numbers, the others' rows are added, and the numbers of their columns change.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError

from ..lerobot.dataset import LeRobotDataset, LeRobotV3
from ..lerobot.metadata import NAMELESS, file_rows, read_table
from ..lerobot.reference_tables import TASK, ReferenceTable, reference_tables, tasks_file
from ..lerobot.stored_columns import write_text_table

TextRow = Mapping[str, Any]
"""A row of a table: its number, its text, and whatever else it says."""


@dataclass(frozen=True, kw_only=True)
class NewNumbers:
    """The new numbers of one dataset's columns that refer to tables.

    Attributes:
        columns: column -> the name of its table.
        numbers: table -> old number -> new number; a table that keeps its numbers is left out.
        added: table -> the numbers that only the other datasets' tables have.
        uncertain: columns that may refer to a table whose numbers change.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    added: Mapping[str, frozenset[int]] = field(default_factory=dict)
    uncertain: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, key: str, numbers: NDArray[Any], where: str) -> NDArray[Any]:
        """Returns the new numbers of a column.

        Raises:
            DataError: a number is not in the table, or nothing says whether it is one of it.
        """
        if key in self.uncertain:
            raise DataError(
                f"{where}: its numbers may refer to {self.uncertain[key]}, which is numbered anew. "
                "List the column as an annotation in meta/modality.json if they do; rename it if "
                "they do not"
            )
        table = self.columns.get(key, "")
        mapping, added = self.numbers.get(table), self.added.get(table, frozenset())
        if mapping is None:
            # A number without a text must not get that of another dataset.
            bad, how = np.isin(numbers.ravel(), list(added)), "to which the others' rows are added"
        else:
            bad, how = ~np.isin(numbers.ravel(), list(mapping)), "which is numbered anew"
        for frame in np.flatnonzero(bad)[:1]:
            raise DataError(
                f"{where}: frame {frame}: expected a number of the table of {table}s, {how}, got "
                f"{numbers.ravel()[frame]}"
            )
        if mapping is None:
            return numbers
        old = np.array(sorted(mapping), np.int64)
        new = np.array([mapping[number] for number in old], np.int64)
        return new[np.searchsorted(old, numbers)]


@dataclass(frozen=True, kw_only=True)
class MergedTables:
    """The tables of the new dataset.

    Attributes:
        tasks: the rows of the tasks.
        numbers: the new numbers of each source.
        files: other files by their place in the dataset, with what writes them.
        handled: the names of all files of the sources that these replace.
    """

    tasks: Sequence[TextRow]
    numbers: Sequence[NewNumbers]
    files: Mapping[str, Callable[[Path], object]]
    handled: frozenset[str]


def whole_tables(source: LeRobotDataset, version: str) -> MergedTables:
    """Keeps the tables of one dataset: their files, and the numbers of their rows.

    Raises:
        DataError: the other version cannot express the table of tasks.
    """
    table = ReferenceTable(name=TASK, path=tasks_file(source), texts=source.tasks, columns=())
    rows = text_rows_of(table, TASK)
    files: dict[str, Callable[[Path], object]] = {}
    if isinstance(source, LeRobotV3) == (version == "v3.0"):
        files[f"meta/{table.path.name}"] = partial(shutil.copyfile, table.path)
    elif version == "v2.1":
        check_expressible(table.path, rows)
    return MergedTables(tasks=rows, numbers=[NewNumbers()], files=files, handled=frozenset())


def merged_tables(sources: Sequence[LeRobotDataset]) -> MergedTables:
    """Joins the tables of datasets with the same features.

    Raises:
        DataError: a table cannot be read, one dataset lacks it, or two say different things of the
            same text.
    """
    tables = [{table.name: table for table in reference_tables(source)} for source in sources]
    numbers: list[dict[str, Mapping[int, int]]] = [{} for _ in sources]
    added: list[dict[str, frozenset[int]]] = [{} for _ in sources]
    files: dict[str, Callable[[Path], object]] = {}
    tasks: list[TextRow] = []
    for name in dict.fromkeys(name for found in tables for name in found):
        parts = [
            _part(found, name, source, tables)
            for found, source in zip(tables, sources, strict=True)
        ]
        rows, maps = _joined(name, parts)
        every = {int(row[f"{name}_index"]) for row in rows}
        for mapping, found, more in zip(maps, numbers, added, strict=True):
            if any(old != new for old, new in mapping.items()):
                found[name] = mapping
            more[name] = frozenset(every - {*mapping})
        if name == TASK:
            tasks = rows
        else:
            files[f"meta/{parts[0].path.name}"] = _writing(parts[0], name, rows)
    return MergedTables(
        tasks=tasks,
        numbers=[
            _new_numbers(*of_source) for of_source in zip(tables, numbers, added, strict=True)
        ],
        files=files,
        handled=frozenset(f"meta/{t.path.name}" for found in tables for t in found.values()),
    )


def _new_numbers(
    tables: Mapping[str, ReferenceTable],
    numbers: Mapping[str, Mapping[int, int]],
    added: Mapping[str, frozenset[int]],
) -> NewNumbers:
    return NewNumbers(
        columns={key: name for name, table in tables.items() for key in table.columns}
        | {"task_index": TASK},
        numbers=numbers,
        added=added,
        uncertain={
            key: str(table.path)
            for name, table in tables.items()
            if name in numbers
            for key in table.maybe
        },
    )


def _part(
    tables: Mapping[str, ReferenceTable],
    name: str,
    source: LeRobotDataset,
    every: Sequence[Mapping[str, ReferenceTable]],
) -> ReferenceTable:
    if name in tables:
        return tables[name]
    other = next(found[name] for found in every if name in found)
    raise DataError(
        f"{source.root}: expected a table meta/{other.path.name}, to which "
        f"{', '.join(other.columns)} refers as in {other.path}, found none"
    )


def _joined(
    name: str, parts: Sequence[ReferenceTable]
) -> tuple[list[TextRow], list[Mapping[int, int]]]:
    """Returns the rows of all tables, and how each one's numbers change."""
    rows = list(text_rows_of(parts[0], name))
    place_of: dict[str, int] = {}
    for place, row in enumerate(rows):
        place_of.setdefault(row[name], place)
    key = f"{name}_index"
    maps: list[Mapping[int, int]] = [{int(row[key]): int(row[key]) for row in rows}]
    for part in parts[1:]:
        mapping: dict[int, int] = {}
        for row in text_rows_of(part, name):
            place = place_of.setdefault(row[name], len(rows))
            if place == len(rows):
                number = max((int(each[key]) for each in rows), default=-1) + 1
                rows.append({**row, key: number})
            else:
                rows[place] = _same(rows[place], row, key, part)
            mapping[int(row[key])] = int(rows[place][key])
        maps.append(mapping)
    return rows, maps


def _same(ours: TextRow, theirs: TextRow, key: str, part: ReferenceTable) -> TextRow:
    """Joins what two tables say of a text."""
    for name, value in theirs.items():
        if name != key and None not in (value, ours.get(name)) and value != ours[name]:
            raise DataError(
                f"{part.path}: {name} of {theirs[part.name]!r}: expected {ours[name]!r}, as in the "
                f"first dataset, got {value!r}"
            )
    return {**{k: v for k, v in theirs.items() if v is not None}, **ours}


def text_rows_of(table: ReferenceTable, name: str) -> list[TextRow]:
    """Returns the rows of a table, with the text called like the table, and all other columns."""
    if table.path.suffix != ".parquet":
        return [row for _, row in file_rows(table.path)]
    stored = read_table(table.path)
    texts = list(table.texts.values())
    # The text may be pandas' index, which has no name or another one.
    same = [k for k in stored.column_names if k != name and stored[k].to_pylist() == texts]
    hidden = same if name in stored.column_names else [k for k in same if k == NAMELESS] or same[:1]
    rest = stored.drop_columns([*{*hidden, name} & {*stored.column_names}])
    numbers, key = list(table.texts), f"{name}_index"
    return [
        {key: number, name: text, **{k: v for k, v in row.items() if k != key}}
        for number, text, row in zip(numbers, texts, rest.to_pylist(), strict=True)
    ]


def check_expressible(path: Path, rows: Sequence[TextRow]) -> None:
    """Refuses values of a table that JSON, in which v2.1 keeps the tasks, cannot express.

    Raises:
        DataError: it names the column.
    """
    for key, value in ((key, value) for row in rows for key, value in row.items()):
        try:
            json.dumps(value)
        except TypeError:
            raise DataError(
                f"{path}: {key}: expected a value that v2.1's JSON can express, got "
                f"{type(value).__name__}. Remove or convert the column"
            ) from None


def _writing(like: ReferenceTable, name: str, rows: Sequence[TextRow]) -> Callable[[Path], object]:
    """Returns what writes a table in the format of another one."""

    def write_lines(path: Path) -> None:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")

    def write_table(path: Path) -> None:
        write_text_table(path, name, rows)

    return write_table if like.path.suffix == ".parquet" else write_lines
