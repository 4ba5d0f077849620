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
from flux_core.incomplete_file import why_incomplete


def read_columns(path: Path, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Reads columns of one file, each (rows,) or (rows, dim).

    Raises:
        DataError: the file is damaged or lacks a column.
    """
    names, table = _read(path, keys)
    for key in keys:
        if key not in names:
            raise DataError(f"{path}: expected column {key!r}, got {', '.join(names)}")
    return {key: to_array(table.column(key), f"{path}: {key}") for key in keys}


def read_present(path: Path, keys: Sequence[str]) -> tuple[int, dict[str, NDArray[Any]]]:
    """Returns the number of rows of one file, and those of the columns that it has.

    Raises:
        DataError: the file is damaged.
    """
    names, table = _read(path, keys)
    present = [key for key in keys if key in names]
    columns = {key: to_array(table.column(key), f"{path}: {key}") for key in present}
    return table.num_rows, columns


def _read(path: Path, keys: Sequence[str]) -> tuple[list[str], pa.Table]:
    """Returns the names of a file's columns, and those of `keys` that it has."""
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            names = file.schema_arrow.names
            return names, file.read([key for key in keys if key in names])
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from error


def to_array(column: pa.ChunkedArray, where: str) -> NDArray[Any]:
    """Converts a column to (rows,) or, for lists of equal length, (rows, dim).

    An image becomes its bytes, or the path of its file if the column holds no bytes. Lists of
    anything but numbers, such as messages, stay lists.
    """
    chunk = column.combine_chunks()
    if isinstance(chunk, pa.ChunkedArray):  # several chunks, or none
        chunk = pa.concat_arrays(chunk.chunks) if chunk.num_chunks else pa.array([], chunk.type)
    if pa.types.is_struct(chunk.type):
        return _images(chunk, where)
    if not _is_list(chunk.type):
        return chunk.to_numpy(zero_copy_only=False)
    if not _holds_numbers(chunk.type):
        lists = np.empty(len(chunk), object)
        lists[:] = chunk.to_pylist()
        return lists
    rows, values = len(chunk), chunk
    while _is_list(values.type):  # a matrix is a list of lists
        values = _inner(values, where)
    return values.to_numpy(zero_copy_only=False).reshape(rows, len(values) // max(rows, 1))


def _images(chunk: pa.Array, where: str) -> NDArray[Any]:
    """Reads structs {bytes, path}, the form in which `datasets` writes images."""
    names = [field.name for field in chunk.type]
    if "bytes" not in names:
        raise DataError(f"{where}: expected an image {{bytes, path}}, got {{{', '.join(names)}}}")
    images = chunk.field("bytes").to_numpy(zero_copy_only=False)
    if "path" in names and chunk.field("bytes").null_count:
        paths = chunk.field("path").to_numpy(zero_copy_only=False)
        images = np.where(chunk.field("bytes").is_null(), paths, images)
    return images


def _inner(chunk: pa.Array, where: str) -> pa.Array:
    """Returns the values of all rows, one after the other."""
    values = chunk.flatten()
    if chunk.null_count or (len(chunk) and not _is_even(chunk, len(values) / len(chunk))):
        raise DataError(f"{where}: expected rows of one length, got several")
    return values


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind)
    )


def _holds_numbers(kind: pa.DataType) -> bool:
    """Whether the innermost values of a list are numbers."""
    while _is_list(kind):
        kind = kind.value_type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return is_number or pa.types.is_boolean(kind) or pa.types.is_null(kind)


def _is_even(chunk: pa.Array, length: float) -> bool:
    if pa.types.is_fixed_size_list(chunk.type):
        return True
    return bool(np.all(np.diff(chunk.offsets.to_numpy()) == length))


def unreadable(path: Path, error: Exception) -> DataError:
    """Returns the error for a file that is not parquet, is cut, or is not there yet."""
    reason = why_incomplete(path) or first_line(error)
    return DataError(f"{path}: cannot be read as parquet ({reason})")


def first_line(error: Exception) -> str:
    """Returns the first line of an error's text, for a one-line message."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
