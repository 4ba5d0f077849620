"""Finds the rows of episodes in data files by the numbers in the rows themselves."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flux_core.errors import DataError

from ..lerobot.arrow import first_line, read_columns

NUMBERS = ("episode_index", "task_index", "frame_index", "index")


@dataclass(frozen=True, kw_only=True)
class Run:
    """Consecutive rows of one file with the same `episode_index`.

    Attributes:
        path: the parquet file.
        first: the first row in the file.
        length: number of rows.
        states: the `episode_index` of the rows; -1 if it is no whole number.
        tasks: the different `task_index` values, in order; -1 stands for no whole number.
        frames_ascend: whether `frame_index` counts 0, 1, 2 and so on.
        first_index: `index` of the first row if it counts on from there, else None.
    """

    path: Path
    first: int
    length: int
    states: int
    tasks: tuple[int, ...]
    frames_ascend: bool
    first_index: int | None


def runs_of(path: Path) -> list[Run]:
    """Returns the runs of a data file, in the order of its rows.

    Raises:
        DataError: it is missing, cannot be read or lacks a column.
    """
    if not path.is_file():
        raise DataError(f"{path}: the parquet file is missing")
    try:
        names = pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as parquet ({first_line(error)})") from error
    required = [*NUMBERS[:2], *(name for name in NUMBERS[2:] if name in names)]
    columns = {key: _whole(values) for key, values in read_columns(path, required).items()}
    return list(_runs(path, columns["episode_index"], columns))


def _runs(path: Path, states: NDArray[np.int64], columns: dict[str, Any]) -> Iterator[Run]:
    if not len(states):
        return
    starts = [0, *(np.flatnonzero(np.diff(states)) + 1).tolist(), len(states)]
    for first, end in itertools.pairwise(starts):
        part = {key: values[first:end] for key, values in columns.items()}
        counted = np.arange(end - first)
        index = part.get("index")
        yield Run(
            path=path,
            first=first,
            length=end - first,
            states=int(states[first]),
            tasks=tuple(dict.fromkeys(part["task_index"].tolist())),
            frames_ascend=bool(np.array_equal(part.get("frame_index", counted), counted)),
            first_index=None
            if index is None or not np.array_equal(index - index[0], counted)
            else int(index[0]),
        )


def _whole(values: NDArray[Any]) -> NDArray[np.int64]:
    """Returns whole numbers, with -1 in place of anything else."""
    if values.ndim > 1 and values.shape[1:] == (1,):
        values = values.ravel()
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.number):
        return np.full(len(values), -1, np.int64)
    with np.errstate(invalid="ignore"):
        whole = np.where(np.isfinite(values), values, -1).astype(np.int64)
    return np.where((whole == values) & (whole >= 0), whole, -1)


def keep_the_order(listed: Sequence[int], states: Sequence[int]) -> bool:
    """Whether rows state the numbers that their episodes had before some were removed.

    Removing episodes only lowers the numbers of later ones, and keeps their order.
    """
    ascends = all(a < b for a, b in itertools.pairwise(states))
    return ascends and all(old >= new for old, new in zip(states, listed, strict=True))
