"""Columns in the types that info.json declares, and what other programs read beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flux_core.errors import DataError

from ..parquet.arrow import to_array
from .metadata import Feature

SMALLEST_STEP = 1e-4
"""Rows that differ by this much must still differ in a narrower float."""

MAX_LOSS = 0.5
"""A value that moves by this much is another one, however large: a count, a clock's second."""

MAX_TIME_LOSS = 0.05
"""How far a time may move in a narrower float, in periods."""

REMEDY = "Correct its dtype in meta/info.json"

Features = Mapping[str, Feature]


def is_numeric(feature: Mapping[str, Any]) -> bool:
    """Whether a feature is a number or a vector, and so has statistics."""
    return is_vector(feature) and feature["dtype"] != "bool"


def is_vector(feature: Mapping[str, Any]) -> bool:
    """Whether a feature is a number, a truth value, or a vector of them."""
    return len(feature["shape"]) == 1 and number_type(feature["dtype"]) is not None


def number_type(dtype: str) -> np.dtype[Any] | None:
    """Returns numpy's type for a dtype of info.json; None for text, pictures and others."""
    try:
        found = np.dtype(dtype)
    except TypeError:
        return None
    return found if found.kind in "biuf" else None


def to_arrow(values: NDArray[Any]) -> pa.Array:
    """Converts (frames,) or (frames, dim) to the type in which LeRobot stores it."""
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def stored(
    column: pa.ChunkedArray, feature: Mapping[str, Any], where: str, *, fps: float | None = None
) -> pa.Array | pa.ChunkedArray:
    """Converts a column to LeRobot's only form: vectors are lists of fixed size.

    Text, pictures and columns of other dtypes are returned unchanged.

    Args:
        column: its values.
        feature: what info.json says of it.
        where: the file, the episode and the column, for messages.
        fps: the rate, if the column holds times.

    Raises:
        DataError: a value cannot be held by the declared dtype, or the dimensions differ.
    """
    if feature["dtype"] == "string":
        return column if _is_list_of_texts(column.type) else _text(column, where)
    if not is_vector(feature):
        return column
    shape, dtype = list(feature["shape"]), np.dtype(feature["dtype"])
    if column.null_count:
        frame = int(np.flatnonzero(np.asarray(column.is_null()))[0])
        raise DataError(f"{where}: frame {frame}: expected {dtype}, got no value")
    values = to_array(column, where)
    if values.dtype.kind not in "biuf":
        raise DataError(f"{where}: frame 0: expected {dtype}, got {values.ravel()[0]!r:.40}")
    values = narrowed(values, dtype, where, fps)
    width = 1 if values.ndim == 1 else values.shape[1]
    if width != shape[0]:
        raise DataError(f"{where}: expected {shape[0]} dimensions (info.json), got {width}")
    return to_arrow(values.reshape(-1) if shape == [1] else values.reshape(len(values), width))


def _is_list_of_texts(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    is_list = is_list or pa.types.is_fixed_size_list(kind)
    return is_list and kind.value_type in (pa.string(), pa.large_string())


def _text(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind):  # pandas' categories
        column = column.cast(kind.value_type)
        kind = column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise DataError(f"{where}: frame 0: expected string, got {column[0].as_py()!r:.40}")
    return column.cast(pa.string()) if pa.types.is_null(kind) else column


def narrowed(
    values: NDArray[Any], dtype: np.dtype[Any], where: str, fps: float | None = None
) -> NDArray[Any]:
    """Converts numbers to a dtype that can hold them; floats may be rounded, but not merged.

    Raises:
        DataError: it names the first frame whose value would change.
    """
    if values.dtype == dtype:
        return values
    with np.errstate(all="ignore"):
        found = values.astype(dtype)
        changed = _changed(values, found, fps)
    changed = changed.any(axis=tuple(range(1, changed.ndim)))
    for frame in np.flatnonzero(changed)[:1]:
        before, after = (_shown(part[frame]) for part in (values, found))
        raise DataError(
            f"{where}: frame {frame}: expected a value that {dtype} (info.json) can hold, got "
            f"{before}, which would become {after}. {REMEDY}"
        )
    return found


def _shown(value: Any) -> str:
    numbers = np.atleast_1d(value).tolist()
    text = ", ".join(repr(x) for x in numbers[:8]) + (", ..." if len(numbers) > 8 else "")
    return f"[{text}]" if np.ndim(value) else text


def _changed(before: NDArray[Any], after: NDArray[Any], fps: float | None) -> NDArray[np.bool_]:
    """Returns which values differ after the conversion `before` -> `after`."""
    source, target = before.dtype.kind, after.dtype.kind
    if source == "b":
        return np.zeros(before.shape, bool)
    if target == "b":
        return (before != 0) & (before != 1)
    if target in "iu":
        limits = np.iinfo(after.dtype)
        if source == "f":
            fits = (before >= float(limits.min)) & (before < float(limits.max) + 1)
            return ~(fits & (before == np.floor(before)))
        return (before < limits.min) | (before > limits.max)
    if source in "iu":
        fits = np.isfinite(after) & (np.abs(after.astype(np.float64)) < 2.0**63)
        return ~fits | (np.where(fits, after, 0).astype(before.dtype) != before)
    return _merged(before, after, fps)


def _merged(before: NDArray[Any], after: NDArray[Any], fps: float | None) -> NDArray[np.bool_]:
    """Finds floats that a narrower float cannot tell from the row before, or not hold at all."""
    moved = np.abs(after.astype(before.dtype) - before)
    changed = np.isfinite(before) & ~(moved < MAX_LOSS)
    steps = np.abs(np.diff(before, axis=0))
    changed[1:] |= (steps >= SMALLEST_STEP) & (after[1:] == after[:-1])
    if fps is not None:
        changed |= moved > MAX_TIME_LOSS / fps
    return changed


def huggingface_schema(
    features: Features, schema: pa.Schema | None = None, known: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Returns the table metadata that tells Hugging Face `datasets` of vectors and images.

    Args:
        features: those of info.json.
        schema: the table's types, for columns whose dtype `datasets` does not know.
        known: what the metadata of the source says of such columns.
    """
    found: dict[str, Any] = {}
    for key, feature in features.items():
        shape, dtype = list(feature["shape"]), feature["dtype"]
        if dtype == "video":
            continue
        scalar = {"dtype": dtype, "_type": "Value"}
        if dtype == "image":
            found[key] = {"_type": "Image"}
        elif number_type(dtype) is None and (dtype != "string" or shape != [1]):
            kind = None if schema is None else schema.field(key).type
            found[key] = (known or {}).get(key) or described(kind)
        elif shape == [1] or dtype == "string":
            found[key] = scalar
        elif len(shape) == 1:
            found[key] = {"feature": scalar, "length": shape[0], "_type": "Sequence"}
        else:
            found[key] = {"shape": shape, "dtype": dtype, "_type": f"Array{len(shape)}D"}
    return {"huggingface": json.dumps({"info": {"features": found}})}


def described(kind: pa.DataType | None) -> Any:
    """Returns how `datasets` describes an arrow type of texts, numbers, lists and structs."""
    if kind is not None and pa.types.is_struct(kind):
        return {field.name: described(field.type) for field in kind}
    if kind is not None and (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return [described(kind.value_type)]
    if kind is not None and pa.types.is_fixed_size_list(kind):
        value = described(kind.value_type)
        return {"feature": value, "length": kind.list_size, "_type": "Sequence"}
    names = {pa.float64(): "float64", pa.float32(): "float32", None: "null"}
    return {"dtype": names.get(kind, str(kind)), "_type": "Value"}


def pandas_index(index: str, column: str, others: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the table metadata that makes the text column pandas' index."""

    def described_column(name: str, kind: str, numpy_type: str) -> dict[str, Any]:
        return {
            "name": name,
            "field_name": name,
            "pandas_type": kind,
            "numpy_type": numpy_type,
            "metadata": None,
        }

    return {
        "index_columns": [index],
        "column_indexes": [],
        "columns": [
            described_column(column, "int64", "int64"),
            *(described_column(name, "unicode", "object") for name in others),
            described_column(index, "unicode", "object"),
        ],
        "pandas_version": "2.0.0",
    }


def fact_column(values: Sequence[Any]) -> pa.Array:
    """Makes a column of facts, as JSON if their types do not fit: 'x' and 5, or {}."""
    try:
        column = pa.array(values)
        pq.write_table(pa.table({"fact": column}), pa.BufferOutputStream())
    except (pa.ArrowException, OverflowError):
        texts = [
            None if v is None else json.dumps(v, ensure_ascii=False, default=str) for v in values
        ]
        return pa.array(texts, pa.string())
    return column


def write_text_table(path: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a parquet file whose text is pandas' index."""
    key = f"{name}_index"
    others = [k for k in dict.fromkeys(k for row in rows for k in row) if k not in (key, name)]
    table = pa.table(
        {
            key: pa.array([row[key] for row in rows], pa.int64()),
            **{other: fact_column([row.get(other) for row in rows]) for other in others},
            name: pa.array([row[name] for row in rows], pa.string()),
        }
    )
    index = {"pandas": json.dumps(pandas_index(name, key, others))}
    pq.write_table(table.replace_schema_metadata(index), path)
