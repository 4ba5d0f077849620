"""`meta/modality.json`, with which NVIDIA's datasets name the parts of a state and of an action.

A config may use its names (`state.left_arm`, `action.gripper`, `video.front`,
`annotation.human.task_description`) wherever it names a column. They are looked up when a dataset
is opened; from then on there are only columns, and parts of columns (`observation.state[0:7]`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_core.config import did_you_mean
from flux_core.errors import DataError

from .lerobot.metadata import is_count, json_object
from .lerobot.state_action import ACTION, STATE, base_of

FILE = Path("meta") / "modality.json"
_COLUMNS = {"state": STATE, "action": ACTION}
"""Kind of key -> the column whose part it is, unless it names another one."""
_KINDS = (*_COLUMNS, "video", "annotation")


@dataclass(frozen=True)
class Modality:
    """What the file says.

    Attributes:
        columns: name, such as `state.left_arm`, -> column, or part of one.
        path: the file, for messages.
    """

    columns: Mapping[str, str]
    path: Path

    def column_of(self, name: str) -> str:
        """Returns the column, or part of one, that a name stands for.

        Raises:
            DataError: the file has no such name.
        """
        if name not in self.columns:
            known = ", ".join(self.columns)
            raise DataError(
                f"{self.path}: no key {name!r}.{did_you_mean(name, self.columns)} It has: {known}"
            )
        return self.columns[name]


def read_modality(root: Path) -> Modality | None:
    """Reads the file of a dataset; None if it has none.

    Raises:
        DataError: an entry is malformed.
    """
    path = root / FILE
    if not path.is_file():
        return None
    content = json_object(path)
    columns: dict[str, str] = {}
    for kind in _KINDS:
        entries = content.get(kind, {})
        if not isinstance(entries, dict):
            raise DataError(f"{path}: {kind}: expected an object, got {entries!r:.60}")
        for key, entry in entries.items():
            name, where = f"{kind}.{key}", f"{path}: {kind}.{key}"
            if not isinstance(entry, dict):
                raise DataError(f"{where}: expected an object, got {entry!r:.60}")
            default = _COLUMNS.get(kind, key if kind == "video" else name)
            column = _text(entry, "original_key", default, where)
            columns[name] = column + (_span(entry, where) if kind in _COLUMNS else "")
    return Modality(columns, path)


def resolved(name: str, root: Path, features: Mapping[str, Any]) -> str:
    """Returns the column, or part of one, that a name stands for; a column's own name stays.

    Args:
        name: of a column of the dataset, or of `modality.json`.
        root: the dataset.
        features: those of `info.json`.

    Raises:
        DataError: it looks like a name of `modality.json`, which has no such name.
    """
    is_modality = name.partition(".")[0] in _KINDS and base_of(name) not in features
    modality = read_modality(root) if is_modality else None
    return name if modality is None else modality.column_of(name)


def _text(entry: Mapping[str, Any], key: str, default: str, where: str) -> str:
    value = entry.get(key)
    if value is None:
        return default
    if not isinstance(value, str) or not value:
        raise DataError(f"{where}.{key}: expected a column's name, got {value!r:.60}")
    return value


def _span(entry: Mapping[str, Any], where: str) -> str:
    start, end = entry.get("start"), entry.get("end")
    if not is_count(start, 0) or not is_count(end, 1) or start >= end:
        raise DataError(
            f"{where}: expected start and end, whole numbers with start < end, got {start!r} and "
            f"{end!r}"
        )
    return f"[{start}:{end}]"
