"""Reads rows of parquet files a row group at a time.

A file is the unit in which LeRobot stores episodes, and a row group the unit in which parquet is
read. LeRobot's recorder writes one row group per episode, `datasets` one per 100 rows with images;
other programs write a whole file as one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError

from .arrow import footer_of, reading, to_array, worth_threads

BLOCK_BYTES = 1 << 20
"""Row groups are read together up to this size, so that few calls read all of a file."""

MAX_CACHED_BYTES = 64 << 20
"""The blocks that stay in memory; the last two do so whatever their size."""

Columns = dict[str, NDArray[Any]]


class RowGroups:
    """Reads columns of consecutive rows; the blocks read last stay in memory."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[tuple[Path, tuple[str, ...], int], Columns] = OrderedDict()
        self._cached_bytes = 0
        self._ends: dict[tuple[Path, tuple[str, ...]], NDArray[np.int64]] = {}

    def read(self, path: Path, keys: tuple[str, ...], rows: slice) -> Columns:
        """Returns rows of columns, each (rows,) or (rows, dim); rows beyond the end are left out.

        Raises:
            DataError: the file is damaged or lacks a column.
        """
        starts, ends = footer_of(path).starts, self._block_ends(path, keys)
        row_ends = starts[ends]
        first, last = min(rows.start, int(starts[-1])), min(rows.stop, int(starts[-1]))
        from_block = min(int(np.searchsorted(row_ends, first, side="right")), len(ends) - 1)
        to_block = max(int(np.searchsorted(row_ends, last, side="left")), from_block)
        parts: list[Columns] = []
        for number in range(from_block, to_block + 1):
            begin = int(row_ends[number - 1]) if number else 0
            within = slice(max(first - begin, 0), max(last - begin, 0))
            block = self._block(path, keys, number, ends)
            parts.append({key: values[within] for key, values in block.items()})
        if len(parts) > 1:
            return {key: np.concatenate([part[key] for part in parts]) for key in keys}
        # A copy: a view would keep the whole block in memory.
        return {key: values.copy() for key, values in parts[0].items()}

    def _block_ends(self, path: Path, keys: tuple[str, ...]) -> NDArray[np.int64]:
        """Returns the row group after the last of each block; at least one block."""
        if (path, keys) not in self._ends:
            total = np.cumsum(footer_of(path).group_bytes(keys))
            ends = [0] if not len(total) else list[int]()
            while len(total) and (not ends or ends[-1] < len(total)):
                before = int(total[ends[-1] - 1]) if ends else 0
                end = int(np.searchsorted(total, before + BLOCK_BYTES, side="right"))
                ends.append(max(end, (ends[-1] if ends else 0) + 1))
            self._ends[path, keys] = np.asarray(ends)
        return self._ends[path, keys]

    def _block(
        self, path: Path, keys: tuple[str, ...], number: int, ends: NDArray[np.int64]
    ) -> Columns:
        key = (path, keys, number)
        if key in self._blocks:
            self._blocks.move_to_end(key)
            return self._blocks[key]
        first = int(ends[number - 1]) if number else 0
        with reading(path) as file:
            for name in keys:
                check_has(path, name)
            groups = list(range(first, int(ends[number])))
            size = int(footer_of(path).group_bytes(keys)[groups].sum())
            table = file.read_row_groups(groups, list(keys), use_threads=worth_threads(size))
        columns = {name: to_array(table.column(name), f"{path}: {name}") for name in keys}
        self._blocks[key] = columns
        self._cached_bytes += num_bytes(columns)
        while self._cached_bytes > MAX_CACHED_BYTES and len(self._blocks) > 2:
            self._cached_bytes -= num_bytes(self._blocks.popitem(last=False)[1])
        return columns


def check_has(path: Path, key: str) -> None:
    """Refuses a column that a file lacks."""
    names = footer_of(path).names
    if key not in names:
        raise DataError(f"{path}: expected column {key!r}, got {', '.join(names)}")


def num_bytes(columns: Mapping[str, NDArray[Any]]) -> int:
    """Counts the bytes of columns; for images, numpy itself would count only references.

    A text or message counts as one byte per character or item: less than it takes.
    """
    return sum(
        sum(len(value) for value in values if value is not None)
        if values.dtype == object
        else values.nbytes
        for values in columns.values()
    )
