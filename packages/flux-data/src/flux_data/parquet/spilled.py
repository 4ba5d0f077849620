"""Encoded images that wait on the disk, not in memory, until they become a column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

MAX_CHUNK_BYTES = 1 << 30
"""Arrow counts the bytes of a chunk in 31 bits."""

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""How LeRobot stores an image in a parquet file."""


class SpilledImages:
    """Appends encoded images to a file, and makes a column of them that is mapped from it."""

    def __init__(self, path: Path) -> None:
        """Creates the file."""
        self._path = path
        self._file = path.open("wb")
        self._sizes: list[int] = []
        self._last = b""

    def add(self, data: bytes) -> None:
        """Appends an image."""
        self._file.write(data)
        self._sizes.append(len(data))
        self._last = data

    def repeat(self) -> None:
        """Appends the last image again."""
        self.add(self._last)

    def close(self) -> None:
        """Closes the file; does nothing if it is closed already."""
        self._file.close()

    def column(self) -> pa.ChunkedArray:
        """Returns all images as a column of {bytes, path}; the file must be closed."""
        content = pa.memory_map(str(self._path)).read_buffer()
        chunks: list[Any] = []
        first = begin = 0
        ends = np.cumsum(self._sizes, dtype=np.int64)
        while first < len(ends):
            last = int(np.searchsorted(ends, begin + MAX_CHUNK_BYTES, side="right"))
            last = max(last, first + 1)
            offsets = np.concatenate(([0], ends[first:last] - begin)).astype(np.int32)
            size = int(offsets[-1])
            values = pa.Array.from_buffers(
                pa.binary(), last - first, [None, pa.py_buffer(offsets), content.slice(begin, size)]
            )
            paths = pa.nulls(last - first, pa.string())
            chunks.append(pa.StructArray.from_arrays([values, paths], fields=list(IMAGE)))
            first, begin = last, begin + size
        return pa.chunked_array(chunks, IMAGE)
