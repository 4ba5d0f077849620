"""Finds, joins and names the columns that hold the robot's state and its actions.

Beside a whole column, `observation.state[0:7]` names its first seven dimensions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.config import did_you_mean
from flux_core.errors import ConfigError, DataError

from .metadata import NO_NUMBERS, flat_names

STATE, ACTION = "observation.state", "action"
"""LeRobot's names; they also identify the two quantities, whatever their columns are called."""

_PART = re.compile(r"(?P<column>.+)\[(?P<start>\d+):(?P<end>\d+)\]")

_USUAL = {
    STATE: (STATE, "observation.states", "state", "states"),
    ACTION: (ACTION, "actions"),
}


def usual_columns(features: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Recognises the columns of the state and of the actions by their names.

    LeRobot's names take precedence over openpi's (`state`, `actions`). If a dataset has neither,
    the vectors whose names begin with such a name and a dot are taken together, in the metadata's
    order: AgiBot's `actions.joint.position` and `actions.effector.position`.

    Returns:
        STATE and ACTION with their columns; a quantity without columns is left out.
    """
    found = {what: _usual(features, names) for what, names in _USUAL.items()}
    return {what: columns for what, columns in found.items() if columns}


def _usual(features: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    numbers = [key for key, feature in features.items() if feature["dtype"] not in NO_NUMBERS]
    for name in names:
        if name in numbers:
            return (name,)
    for name in names:
        if below := tuple(key for key in numbers if key.startswith(f"{name}.")):
            return below
    return ()


def base_of(column: str) -> str:
    """Returns the whole column: `observation.state` of `observation.state[0:7]`."""
    found = _PART.fullmatch(column)
    return column if found is None else found["column"]


def bases_of(columns: Iterable[str]) -> list[str]:
    """Returns the whole columns that have to be read, each once."""
    return list(dict.fromkeys(map(base_of, columns)))


def _dimensions_of(column: str) -> slice:
    found = _PART.fullmatch(column)
    return slice(None) if found is None else slice(int(found["start"]), int(found["end"]))


def check_columns(features: Mapping[str, Any], columns: Sequence[str], where: str) -> None:
    """Refuses columns that cannot be joined into one vector.

    Args:
        features: those of `info.json`.
        columns: their names.
        where: the dataset and the config key that names them, for the message.

    Raises:
        DataError: a column is missing, or has fewer dimensions than a part of it.
        ConfigError: a column does not hold numbers, or two differ in dtype.
    """
    check_known(features, bases_of(columns), where)
    dtypes = {key: features[base_of(key)]["dtype"] for key in columns}
    for key, dtype in dtypes.items():
        if dtype in NO_NUMBERS:
            raise ConfigError(f"{where}: {key!r}: expected a feature of numbers, got {dtype}")
        if dtype != dtypes[columns[0]]:
            raise ConfigError(
                f"{where}: expected columns of one dtype, got {dtypes[columns[0]]} "
                f"({columns[0]!r}) and {dtype} ({key!r}). Store them with one dtype"
            )
        part, width = _dimensions_of(key), int(np.prod(features[base_of(key)]["shape"]))
        if part.stop is not None and not part.start < part.stop <= width:
            raise DataError(
                f"{where}: {key!r}: expected a part of the {width} dimensions of {base_of(key)!r}"
            )


def check_apart(columns: Sequence[str], where: str) -> None:
    """Refuses overlapping parts of one column, because an action cannot have two values.

    Raises:
        DataError: it names both.
    """
    for place, key in enumerate(columns):
        for other in columns[:place]:
            ours, theirs = _dimensions_of(key), _dimensions_of(other)
            if base_of(key) != base_of(other):
                continue
            first, last = max(ours.start or 0, theirs.start or 0), min(_end(ours), _end(theirs))
            if first < last:
                raise DataError(
                    f"{where}: expected each dimension once, got dimension {first} of "
                    f"{base_of(key)!r} in {other!r} and in {key!r}"
                )


def _end(part: slice) -> float:
    return float("inf") if part.stop is None else part.stop


def check_known(features: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    """Refuses the first key that is not a feature.

    Raises:
        DataError: it names the nearest feature, and lists them all.
    """
    for key in keys:
        if key not in features:
            available = ", ".join(features)
            raise DataError(
                f"{where}: no feature {key!r}.{did_you_mean(key, features)} It has: {available}"
            )


def width_of(features: Mapping[str, Any], columns: Sequence[str]) -> int:
    """Returns the total dimensions of the columns, as stated in the metadata."""
    return sum(
        len(range(int(np.prod(features[base_of(key)]["shape"])))[_dimensions_of(key)])
        for key in columns
    )


def joined(
    values: Mapping[str, NDArray[Any]], columns: Sequence[str], rows: Any = slice(None)
) -> NDArray[Any]:
    """Returns rows of the columns side by side, (..., dim); those of a single one unchanged."""
    parts = [_rows_of(values, key, rows) for key in columns]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def _rows_of(values: Mapping[str, NDArray[Any]], column: str, rows: Any) -> NDArray[Any]:
    if column in values:
        return values[column][rows]
    return values[base_of(column)][rows][..., _dimensions_of(column)]


def dimension_names(
    features: Mapping[str, Any], columns: Mapping[str, Sequence[str]] | None = None
) -> dict[str, tuple[str, ...]]:
    """Names each dimension of the state and of the actions.

    Args:
        features: those of `info.json`.
        columns: quantity -> its columns; default: those of `usual_columns`.

    Returns:
        quantity -> the names in `info.json`, column after column. A quantity without names takes
        the other's if the dimensions match; otherwise its dimensions are numbered.
    """
    columns = usual_columns(features) if columns is None else columns
    dims = {what: width_of(features, keys) for what, keys in columns.items()}
    given = {what: _given_names(features, keys) for what, keys in columns.items()}
    names = {}
    for what, dim in dims.items():
        others = [labels for labels in given.values() if len(labels) == dim]
        are_alike = len(set(dims.values())) == 1
        word = "" if are_alike else f"{what.removeprefix('observation.')} "
        numbered = tuple(f"{word}{number}" for number in range(dim))
        names[what] = given[what] or next(iter(others), numbered)
    return names


def _given_names(features: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of all columns; among several, nameless ones are numbered."""
    labels = {
        key: tuple(flat_names(features[base_of(key)].get("names")))[_dimensions_of(key)]
        for key in columns
    }
    labels = {
        key: names if len(names) == width_of(features, [key]) else ()
        for key, names in labels.items()
    }
    if len(columns) == 1:
        return labels[columns[0]]
    joined_labels = [label for names in labels.values() for label in names]
    is_unique = len(set(joined_labels)) == len(joined_labels)
    out: list[str] = []
    for key, short in zip(columns, _short_names(columns), strict=True):
        numbered = tuple(f"{short} {number}" for number in range(width_of(features, [key])))
        named = labels[key] if is_unique else tuple(f"{short} {label}" for label in labels[key])
        out += named or numbered
    return tuple(out)


def _short_names(columns: Sequence[str]) -> list[str]:
    """Returns the column names without the dotted parts with which all of them begin or end."""
    parts = [key.split(".") for key in columns]
    shortest = min(len(each) for each in parts)
    first = min(_num_shared(parts), shortest - 1)
    last = min(_num_shared([each[:first:-1] for each in parts]), shortest - first - 1)
    return [".".join(each[first : len(each) - last]) for each in parts]


def _num_shared(parts: Sequence[Sequence[str]]) -> int:
    """Returns how many leading elements all lists share."""
    are_equal = [len(set(each)) == 1 for each in zip(*parts, strict=False)]
    return [*are_equal, False].index(False)
