"""`meta/modality.json`, with which NVIDIA's datasets name the parts of a state and of an action.

A config may use its names (`state.left_arm`, `action.gripper`, `video.front`,
`annotation.human.task_description`) wherever it names a column. They are looked up when a dataset
is opened; from then on there are only columns, and parts of columns (`observation.state[0:7]`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flux_core.config import did_you_mean
from flux_core.errors import DataError
from flux_core.transforms import ROTATION_TYPES, StateKeyRule, rotation_type_of

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
        rotations: name -> its `rotation_type`, where it has one.
        relative: the names of what is a change, not a place (`"absolute": false`).
    """

    columns: Mapping[str, str]
    path: Path
    rotations: Mapping[str, str] = field(default_factory=dict)
    relative: frozenset[str] = frozenset()

    def column_of(self, name: str) -> str:
        """Returns the column, or part of one, that a name stands for.

        Raises:
            DataError: the file has no such name, or calls it a rotation that NVIDIA does not know.
        """
        if name not in self.columns:
            known = ", ".join(self.columns)
            raise DataError(
                f"{self.path}: no key {name!r}.{did_you_mean(name, self.columns)} It has: {known}"
            )
        rotation = self.rotations.get(name)
        if rotation not in (None, *ROTATION_TYPES):
            raise DataError(
                f"{self.path}: {name}.rotation_type: expected one of {', '.join(ROTATION_TYPES)}, "
                f"got {rotation!r:.60}"
            )
        return self.columns[name]

    def check_rotations(self, names: Sequence[str], keys: Sequence[StateKeyRule]) -> None:
        """Refuses rules that convert from another rotation than the file says.

        Args:
            names: of the state's parts, such as `state.eef_rotation`.
            keys: the rule of each key, such as `("eef_rotation", 4, "quaternion_to_rotation_6d")`.

        Raises:
            DataError: it names the key.
        """
        for key, _, rule in keys:
            name, wanted = f"state.{key}", rotation_type_of(rule)
            stated = self.rotations.get(name)
            if name in names and None not in (wanted, stated) and wanted != stated:
                raise DataError(
                    f"{self.path}: {name}.rotation_type: expected {wanted!r}, from which "
                    f"state_keys converts it, got {stated!r}"
                )


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
    rotations: dict[str, str] = {}
    relative: set[str] = set()
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
            if kind in _COLUMNS and entry.get("rotation_type") is not None:
                rotations[name] = entry["rotation_type"]
            if kind == "action" and entry.get("absolute", True) is False:
                relative.add(name)
    return Modality(columns, path, rotations, frozenset(relative))


def resolved(name: str, root: Path, features: Mapping[str, Any]) -> str:
    """Returns the column, or part of one, that a name stands for; a column's own name stays.

    Args:
        name: of a column of the dataset, or of `modality.json`.
        root: the dataset.
        features: those of `info.json`.

    Raises:
        DataError: it looks like a name of `modality.json`, which has no such name.
    """
    modality = modality_of((name,), root, features)
    return name if modality is None else modality.column_of(name)


def modality_of(names: Sequence[str], root: Path, features: Mapping[str, Any]) -> Modality | None:
    """Reads the file if one of the names may come from it; names of columns never do.

    Raises:
        DataError: an entry is malformed.
    """
    is_needed = any(n.partition(".")[0] in _KINDS and base_of(n) not in features for n in names)
    return read_modality(root) if is_needed else None


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
