"""Parquet columns as numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flux_core.errors import DataError


def read_columns(path: Path, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Reads columns of one file, each (rows,) or (rows, dim).

    Raises:
        DataError: the file is damaged, or lacks a column.
    """
    try:
        table = pq.read_table(path, columns=list(keys), memory_map=True)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: cannot be read as parquet ({reason})") from error
    for key in keys:
        if key not in table.schema.names:
            raise DataError(f"{path}: has no column {key!r}; it has {_names(path)}")
    return {key: to_array(table.column(key), f"{path}: {key}") for key in keys}


def _names(path: Path) -> str:
    return ", ".join(pq.read_schema(path).names)


def to_array(column: pa.ChunkedArray, where: str) -> NDArray[Any]:
    """A column as (rows,) or, for lists of equal length, (rows, dim)."""
    chunk = column.combine_chunks()
    if isinstance(chunk, pa.ChunkedArray):  # several chunks, or none
        chunk = pa.concat_arrays(chunk.chunks) if chunk.num_chunks else pa.array([], chunk.type)
    if pa.types.is_struct(chunk.type):  # an image: {bytes, path}
        chunk = chunk.field("bytes")
    if not (pa.types.is_fixed_size_list(chunk.type) or pa.types.is_list(chunk.type)):
        return chunk.to_numpy(zero_copy_only=False)
    values = chunk.flatten().to_numpy(zero_copy_only=False)
    if len(chunk) == 0:
        return values.reshape(0, 0)
    if len(values) % len(chunk) or not _is_even(chunk, len(values) // len(chunk)):
        raise DataError(f"{where}: its rows differ in length")
    return values.reshape(len(chunk), -1)


def _is_even(chunk: pa.Array, length: int) -> bool:
    if pa.types.is_fixed_size_list(chunk.type):
        return chunk.null_count == 0
    return bool(np.all(np.diff(chunk.offsets.to_numpy()) == length))
