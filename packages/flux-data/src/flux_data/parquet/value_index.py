"""Finds single values of a column of bytes, so that reading one decompresses no others.

Programs write the images of a row group into one page, often as the dictionary, and pyarrow
decompresses and copies all of it for one image. Here a row group is indexed once: where each value
begins in the decompressed page, and where the blocks of its compression begin in the file. After
that, reading a value takes the blocks that hold it.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from . import pages
from .pages import Body, Fetch, NotSupported

MISSING = -1
"""The page of a value that is null."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ValueIndex:
    """Where each value of a row group is.

    Attributes:
        path: the file.
        bodies: the pages that hold values.
        page: (rows,) the index of each row's page, or MISSING.
        first: (rows,) the offset of its first byte in the page.
        length: (rows,) its bytes.
    """

    path: Path
    bodies: tuple[Body, ...]
    page: NDArray[np.int64]
    first: NDArray[np.int64]
    length: NDArray[np.int64]

    def read(self, row: int) -> bytes | None:
        """Returns the value of a row of the group; None if it is null.

        Raises:
            OSError, ArrowException: the file has changed or cannot be read.
        """
        if self.page[row] == MISSING:
            return None
        first = int(self.first[row])
        body = self.bodies[int(self.page[row])]
        with self.path.open("rb", buffering=0) as file:

            def fetch(begin: int, end: int) -> bytes:
                return os.pread(file.fileno(), end - begin, begin)

            return body.read(fetch, first, first + int(self.length[row]))


def index_values(path: Path, metadata: pq.FileMetaData, group: int, column: str) -> ValueIndex:
    """Indexes a column of bytes in a row group.

    Args:
        path: the file.
        metadata: its footer.
        group: the number of the row group.
        column: the path of the column in the schema, such as `observation.images.top.bytes`.

    Raises:
        NotSupported: the column is stored in another way than image columns are.
        OSError, ArrowException, LookupError, ValueError: the file is damaged.
    """
    place = _leaf(metadata, column)
    chunk, schema = metadata.row_group(group).column(place), metadata.schema.column(place)
    codecs = ("UNCOMPRESSED", "SNAPPY")
    if chunk.physical_type != "BYTE_ARRAY" or schema.max_repetition_level:
        raise NotSupported("not a column of bytes")
    if chunk.compression not in codecs:
        raise NotSupported(f"the compression {chunk.compression}")
    begin = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
        begin = min(begin, chunk.dictionary_page_offset)
    rows = metadata.row_group(group).num_rows
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        indexer = _Indexer(
            fetch=lambda first, last: data[first:last],
            is_compressed=chunk.compression == "SNAPPY",
            max_level=schema.max_definition_level,
            max_rows=rows,
        )
        while indexer.num_rows < rows:
            begin = indexer.add_page(begin)
    page, first, length = (np.concatenate(part) for part in zip(*indexer.rows, strict=True))
    if len(page) != rows:
        raise NotSupported("another number of rows than in the footer")
    return ValueIndex(
        path=path, bodies=tuple(indexer.bodies), page=page, first=first, length=length
    )


def _leaf(metadata: pq.FileMetaData, column: str) -> int:
    names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    if column not in names:
        raise NotSupported("no such column")
    return names.index(column)


@dataclass(kw_only=True)
class _Indexer:
    """Takes the pages of a column chunk in turn."""

    fetch: Fetch
    is_compressed: bool
    max_level: int
    max_rows: int

    def __post_init__(self) -> None:
        self.bodies: list[Body] = []
        self.rows: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]] = []
        self.num_rows = 0
        self._dictionary = np.zeros((2, 0), np.int64)

    def add_page(self, at: int) -> int:
        """Indexes the page at an offset, and returns the offset of the next."""
        header, begin = pages.page_header(self.fetch, at)
        kind, size, num_bytes = header[1], header[2], header[3]
        if min(size, num_bytes) < 0:
            raise NotSupported("a page of no size")
        if kind == pages.DICTIONARY_PAGE:
            if header[7][2] not in (pages.PLAIN, pages.PLAIN_DICTIONARY):
                raise NotSupported("an unknown encoding")
            self.bodies.append(self._body(begin, num_bytes, size, self.is_compressed))
            self._dictionary = self._plain(self.bodies[-1], 0, header[7][1])
        elif kind == pages.DATA_PAGE:
            body = self._body(begin, num_bytes, size, self.is_compressed)
            self._add_first_version(header[5], body)
        elif kind == pages.DATA_PAGE_V2:
            self._add_second_version(header[8], begin, num_bytes, size)
        return begin + num_bytes

    def _body(self, first: int, num_bytes: int, size: int, is_compressed: bool) -> Body:
        if is_compressed and size:
            return pages.snappy_body(self.fetch, first, num_bytes, size)
        return Body(first=first, size=size, blocks=None)

    def _add_first_version(self, header: dict[int, int], body: Body) -> None:
        levels, at = b"", 0
        if self.max_level:
            if header[3] != pages.RLE:
                raise NotSupported("an unknown encoding")
            length = int.from_bytes(body.read(self.fetch, 0, 4), "little")
            levels, at = body.read(self.fetch, 4, 4 + length), 4 + length
        self._add_rows(header[1], header[2], levels, body, at)

    def _add_second_version(
        self, header: dict[int, int], begin: int, num_bytes: int, size: int
    ) -> None:
        """The levels come first and are never compressed."""
        taken = header[5] + header[6]
        levels = self.fetch(begin + header[6], begin + taken)
        is_compressed = self.is_compressed and bool(header.get(7, True))
        body = self._body(begin + taken, num_bytes - taken, size - taken, is_compressed)
        self._add_rows(header[1], header[4], levels, body, 0)

    def _add_rows(self, count: int, encoding: int, levels: bytes, body: Body, at: int) -> None:
        if not 0 < count <= self.max_rows - self.num_rows:
            raise NotSupported("more values than rows")
        is_present = np.ones(count, np.bool_)
        if self.max_level:
            found = pages.hybrid(levels, self.max_level.bit_length(), count)
            is_present = found == self.max_level
        num_present = int(is_present.sum())
        page, first, length = (np.full(count, MISSING) for _ in range(3))
        if encoding in (pages.PLAIN_DICTIONARY, pages.RLE_DICTIONARY):
            indices = body.read(self.fetch, at, body.size)
            chosen = pages.hybrid(indices[1:], indices[0], num_present) if num_present else []
            page[is_present] = 0
            first[is_present], length[is_present] = self._dictionary[:, chosen]
        elif encoding == pages.PLAIN:
            self.bodies.append(body)
            page[is_present] = len(self.bodies) - 1
            first[is_present], length[is_present] = self._plain(body, at, num_present)
        else:
            raise NotSupported("an unknown encoding")
        self.rows.append((page, first, length))
        self.num_rows += count

    def _plain(self, body: Body, at: int, count: int) -> NDArray[np.int64]:
        """Returns (2, count), the first byte and the length of each value."""
        if not 0 <= count <= self.max_rows:
            raise NotSupported("more values than rows")
        found = np.zeros((2, count), np.int64)
        for number in range(count):
            length = int.from_bytes(body.read(self.fetch, at, at + 4), "little")
            found[:, number] = at + 4, length
            at += 4 + length
        if at > body.size:
            raise NotSupported("a value beyond the end of its page")
        return found


DAMAGE = (OSError, pa.ArrowException, LookupError, ValueError, TypeError, OverflowError)
"""What reading an index or a value raises if the file is damaged or stored in another way."""
