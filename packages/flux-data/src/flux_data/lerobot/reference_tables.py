"""Says which columns hold numbers that stand for texts of a table in `meta/`.

- `task_index` stands for the dataset's tasks.
- GR00T's `annotation.*` columns stand for texts among the tasks; `meta/modality.json` lists them.
- `X_index` stands for `meta/Xs.parquet` or `meta/Xs.jsonl`, as LeRobot's `subtask_index` does for
  `meta/subtasks.parquet`.

Whoever renumbers or drops a table must treat these columns with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dataset import LeRobotDataset, LeRobotV3
from .metadata import Row, file_rows, json_object, read_table, text_rows, texts_of

TASK = "task"
COUNTERS = ("frame_index", "episode_index", "index")
"""Columns whose names end in `index` and that number frames and episodes."""

MODALITY = "modality.json"
ANNOTATION = "annotation."
GROOT = "annotation.human."
"""Prefix of the annotations that GR00T's own datasets have, which number tasks."""


@dataclass(frozen=True, kw_only=True)
class ReferenceTable:
    """A table of texts in `meta/`, and the columns that hold numbers of its rows.

    Attributes:
        name: 'task' or 'subtask': the part of the column's name before `_index`.
        path: its file.
        texts: number -> text.
        columns: the features that hold its numbers.
        maybe: features that may hold its numbers, by their names; nothing else says so.
    """

    name: str
    path: Path
    texts: Mapping[int, str]
    columns: tuple[str, ...]
    maybe: tuple[str, ...] = ()

    def unknown(self, numbers: NDArray[Any]) -> NDArray[np.int64]:
        """Returns the rows of a column whose numbers the table lacks."""
        return np.flatnonzero(~np.isin(numbers.ravel(), list(self.texts)))


def reference_tables(source: LeRobotDataset) -> tuple[ReferenceTable, ...]:
    """Returns the dataset's tables, the tasks first.

    Raises:
        DataError: a table cannot be read.
    """
    features = source.info["features"]
    sure, maybe = _annotations(source.root, features)
    index = f"{TASK}_index"
    tasks = ReferenceTable(
        name=TASK,
        path=tasks_file(source),
        texts=source.tasks,
        columns=(*([index] if index in features else ()), *(key for key in sure if key != index)),
        maybe=maybe,
    )
    return (tasks, *_other_tables(source))


def tasks_file(source: LeRobotDataset) -> Path:
    """Returns the file that holds the dataset's tasks."""
    name = "tasks.parquet" if isinstance(source, LeRobotV3) else "tasks.jsonl"
    return source.root / "meta" / name


def table_file(root: Path, name: str) -> Path | None:
    """Returns the file of the table called `name` in the singular, or None if there is none."""
    plural = f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"
    for stem in (plural, f"{name}s", f"{name}es", name):
        for suffix in (".parquet", ".jsonl"):
            if (root / "meta" / f"{stem}{suffix}").is_file():
                return root / "meta" / f"{stem}{suffix}"
    return None


def _other_tables(source: LeRobotDataset) -> Iterator[ReferenceTable]:
    for key, feature in source.info["features"].items():
        name = key.removesuffix("_index").rpartition(".")[2]
        if not key.endswith("_index") or key in COUNTERS or name == TASK or not _is_number(feature):
            continue
        path = table_file(source.root, name)
        if path is not None:
            texts = texts_of(_rows_of(path, name), name)
            yield ReferenceTable(name=name, path=path, texts=texts, columns=(key,))


def _rows_of(path: Path, name: str) -> list[Row]:
    if path.suffix == ".parquet":
        return text_rows(path, read_table(path), name)
    return file_rows(path)


def _annotations(
    root: Path, features: Mapping[str, Any]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the annotations that number tasks, and those that may do so."""
    listed = _listed_annotations(root)
    named = [k for k, f in features.items() if k.startswith(ANNOTATION) and _is_number(f)]
    sure = [key for key in features if key in listed and _is_number(features[key])]
    sure += [key for key in named if key.startswith(GROOT) and key not in sure]
    return tuple(sure), tuple(key for key in named if key not in sure)


def _listed_annotations(root: Path) -> set[str]:
    """Returns the columns that `meta/modality.json` lists as annotations.

    An entry's name follows `annotation.`, unless its `original_key` names another column.
    """
    path = root / "meta" / MODALITY
    listed = json_object(path).get("annotation") if path.is_file() else None
    found: set[str] = set()
    for name, entry in listed.items() if isinstance(listed, Mapping) else ():
        other = entry.get("original_key") if isinstance(entry, Mapping) else None
        found.add(other if isinstance(other, str) else f"{ANNOTATION}{name}")
    return found


def _is_number(feature: Mapping[str, Any]) -> bool:
    """Whether a feature is one whole number per frame."""
    is_whole = feature["dtype"].startswith(("int", "uint"))
    return is_whole and list(feature["shape"]) in ([], [1])
