"""Parquet columns as numpy arrays."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flux_core.errors import DataError
from flux_core.incomplete_file import why_incomplete

THREADS_FROM_BYTES = 8 << 20


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
    with reading(path) as file:
        names = file.schema_arrow.names
        present = [key for key in keys if key in names]
        size = int(footer_of(path).group_bytes(present).sum())
        return names, file.read(present, use_threads=worth_threads(size))


@contextlib.contextmanager
def reading(path: Path) -> Iterator[pq.ParquetFile]:
    """Opens a parquet file; its footer is read only if it is not among those read last.

    Raises:
        DataError: the file is missing or damaged; also for errors while it is open.
    """
    try:
        with pq.ParquetFile(path, memory_map=True, metadata=footer_of(path).metadata) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from error


def worth_threads(num_bytes: int) -> bool:
    """Whether threads decode so much faster than one does; they take time to start."""
    return num_bytes > THREADS_FROM_BYTES


@dataclass(frozen=True, kw_only=True, eq=False)
class Footer:
    """What the end of a parquet file says about it.

    Attributes:
        metadata: its row groups and columns.
        names: its columns.
        starts: the first row of each row group, and the number of all rows.
    """

    metadata: pq.FileMetaData
    names: tuple[str, ...]
    starts: NDArray[np.int64]
    _sizes: dict[tuple[str, ...], NDArray[np.int64]] = field(default_factory=dict)

    def group_bytes(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Returns the size of some columns in each row group, in bytes, uncompressed."""
        wanted = tuple(sorted(set(keys)))
        if wanted not in self._sizes:
            places = [
                i
                for i in range(self.metadata.num_columns)
                if self.metadata.schema.column(i).path.startswith(tuple(f"{k}." for k in wanted))
                or self.metadata.schema.column(i).path in wanted
            ]
            groups = (self.metadata.row_group(i) for i in range(self.metadata.num_row_groups))
            sizes = [sum(g.column(i).total_uncompressed_size for i in places) for g in groups]
            self._sizes[wanted] = np.asarray(sizes, dtype=np.int64)
        return self._sizes[wanted]


def constant_of(path: Path, key: str) -> object:
    """Returns the value that a column has in every row, if the footer says so; otherwise None.

    Raises:
        DataError: the file is missing or damaged.
    """
    metadata = footer_of(path).metadata
    places = [i for i in range(metadata.num_columns) if metadata.schema.column(i).path == key]
    if not places or not metadata.num_rows:
        return None
    found: set[object] = set()
    for group in range(metadata.num_row_groups):
        stats = metadata.row_group(group).column(places[0]).statistics
        if stats is None or not stats.has_min_max or stats.null_count:
            return None
        found |= {stats.min, stats.max}
    return found.pop() if len(found) == 1 else None


def footer_of(path: Path) -> Footer:
    """Reads a file's footer; those read last stay in memory until their file changes.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        stat = path.stat()
        return _footer(path, stat.st_size, stat.st_mtime_ns)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from error


@functools.lru_cache(maxsize=8)
def _footer(path: Path, size: int, time_ns: int) -> Footer:
    del size, time_ns  # only tell whether the file has changed
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    return Footer(
        metadata=metadata,
        names=tuple(metadata.schema.to_arrow_schema().names),
        starts=np.concatenate(([0], np.cumsum(groups))).astype(np.int64),
    )


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
