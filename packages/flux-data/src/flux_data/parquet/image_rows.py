"""Reads single images of parquet columns, without decoding the rest of the file."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flux_core.errors import DataError

from .arrow import footer_of, to_array, unreadable
from .row_groups import check_has
from .value_index import DAMAGE, ValueIndex, index_values

MAX_CACHED_BYTES = 256 << 20
"""The encoded images that stay in memory, per dataset and process."""

SMALL_GROUP_BYTES = 1 << 20
"""The images of a larger row group stay in memory only if those of the whole dataset do."""

LARGE_GROUP_BYTES = 32 << 20
"""Row groups beyond this are worth a hint: reading one image may take long."""

MAX_INDEXES = 2000
"""The row groups that stay indexed, in about 10 KB each."""

NEW = object()
"""Stands for a row group that has not been indexed."""

BATCH_ROWS = 4
"""How many images of such a row group are read at a time."""

Place = tuple[Path, str, int]
"""A file, a column and the number of a row group."""


class ImageRows:
    """Reads images by row; the row groups read last stay in memory, encoded as they are.

    Several threads may use it at once.
    """

    def __init__(self, all_bytes: Callable[[], int]) -> None:
        """Prepares for a dataset whose images have about `all_bytes()` bytes."""
        self._all_bytes = all_bytes
        self._fits: bool | None = None
        self._groups: OrderedDict[Place, pa.Array] = OrderedDict()
        self._cached_bytes = 0
        self._indexes: OrderedDict[Place, ValueIndex | object | None] = OrderedDict()
        self._walk: _Walk | None = None
        self._lock, self._walk_lock = threading.Lock(), threading.Lock()

    def read(self, path: Path, key: str, row: int) -> bytes | str | None:
        """Returns the image of a row: its bytes, or the path of its file if there are none.

        Raises:
            DataError: the file is damaged, lacks the column or the row, or has no images in it.
        """
        check_has(path, key)
        footer = footer_of(path)
        group = int(np.searchsorted(footer.starts, row, side="right")) - 1
        if not 0 <= row < footer.starts[-1]:
            raise DataError(f"{path}: {key}: expected row {row}, found {footer.starts[-1]} rows")
        place, within = (path, key, group), row - int(footer.starts[group])
        if self._keeps(place):
            return _value(self._group(place), within, f"{path}: {key}")
        data = self._indexed(place, within)
        if data is not None:
            return data
        with self._walk_lock:
            if self._walk is None or self._walk.place != place or within < self._walk.first:
                self._walk = _Walk(place)
            return self._walk.read(within)

    def _keeps(self, place: Place) -> bool:
        """Whether the row group is read as a whole, to stay in memory."""
        path, key, group = place
        size = int(footer_of(path).group_bytes([key])[group])
        if size <= SMALL_GROUP_BYTES:
            return True
        if self._fits is None:
            self._fits = self._all_bytes() <= MAX_CACHED_BYTES
        return self._fits

    def _indexed(self, place: Place, row: int) -> bytes | None:
        """Returns an image by the index of its row group; None if it must be read otherwise."""
        with self._lock:
            index = self._indexes.get(place, NEW)
        try:
            if index is NEW:
                path, key, group = place
                index = index_values(path, footer_of(path).metadata, group, f"{key}.bytes")
            data = index.read(row) if isinstance(index, ValueIndex) else None
        except DAMAGE:  # pyarrow says what is wrong, or reads it
            index = data = None
        with self._lock:
            self._indexes[place] = index
            self._indexes.move_to_end(place)
            while len(self._indexes) > MAX_INDEXES:
                self._indexes.popitem(last=False)
        return data

    def _group(self, place: Place) -> pa.Array:
        with self._lock:
            if place in self._groups:
                self._groups.move_to_end(place)
                return self._groups[place]
        images = _read_group(place)
        with self._lock:
            if place not in self._groups:
                self._groups[place] = images
                self._cached_bytes += images.nbytes
            while self._cached_bytes > MAX_CACHED_BYTES and len(self._groups) > 1:
                self._cached_bytes -= self._groups.popitem(last=False)[1].nbytes
        return images


class _Walk:
    """Reads a row group a few images at a time, forwards: no more than these are in memory."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.first = 0
        self._batches = _batches(place)
        self._images = pa.array([], pa.binary())

    def read(self, row: int) -> bytes | str | None:
        """Returns the image of a row of the group, not before `first`."""
        path, key, _ = self.place
        while row >= self.first + len(self._images):
            self.first += len(self._images)
            self._images = next(self._batches)
        return _value(self._images, row - self.first, f"{path}: {key}")


def _batches(place: Place) -> Iterator[pa.Array]:
    path, key, group = place
    try:
        with pq.ParquetFile(path, memory_map=True, metadata=footer_of(path).metadata) as file:
            for batch in file.iter_batches(
                BATCH_ROWS, row_groups=[group], columns=[key], use_threads=False
            ):
                yield batch.column(0)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from error


def _read_group(place: Place) -> pa.Array:
    path, key, group = place
    try:
        with pq.ParquetFile(path, memory_map=True, metadata=footer_of(path).metadata) as file:
            column = file.read_row_group(group, [key], use_threads=False).column(0)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from error
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _value(images: pa.Array, row: int, where: str) -> bytes | str | None:
    """Returns one value; an image is a struct {bytes, path}, as `datasets` writes it."""
    if not pa.types.is_struct(images.type):
        return to_array(pa.chunked_array([images.slice(row, 1)]), where)[0]
    names = [field.name for field in images.type]
    if "bytes" not in names:
        raise DataError(f"{where}: expected an image {{bytes, path}}, got {{{', '.join(names)}}}")
    data = images.field("bytes")[row].as_py()
    if data is None and "path" in names:
        return images.field("path")[row].as_py()
    return data
