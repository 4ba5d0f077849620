"""Finds the rows of episodes in data files by the numbers in the rows themselves."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flux_core.errors import DataError

from ..lerobot.episode_rows import FRAMES_OFF, RowSpan
from ..parquet.arrow import read_columns, unreadable

REQUIRED = ("episode_index", "task_index")
COUNTED = ("frame_index", "index")

Order = Literal["right", "stale", "shuffled", "unclear"]
"""What `frame_index` and `timestamp` say together: the frames count 0, 1, 2 and so on; only the
times do; both do after sorting; or neither, which is left to those who judge times."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Consecutive rows with the same `episode_index`.

    Attributes:
        spans: where they are; several if they go on in the next file.
        states: the `episode_index` of the rows; -1 if it is no whole number.
        tasks: the different `task_index` values, in order; -1 stands for no whole number.
        order: whether the rows count the frames.
        first_frame: `frame_index` of the first row if it counts on from there, else None.
        first_index: `index` of the first row if it counts on from there, else None.
    """

    spans: tuple[RowSpan, ...]
    states: int
    tasks: tuple[int, ...]
    order: Order
    first_frame: int | None
    first_index: int | None

    @property
    def path(self) -> Path:
        """The file of the first row."""
        return self.spans[0].path

    @property
    def first(self) -> int:
        """The place of the first row in its file."""
        return self.spans[0].first

    @property
    def length(self) -> int:
        """Number of rows."""
        return sum(span.length for span in self.spans)

    def followed_by(self, other: Run) -> Run:
        """Returns this run with the rows of another one after it."""
        first_index, goes_on = self.first_index, other.first_frame == self.length
        is_counted = first_index is not None and other.first_index == first_index + self.length
        return replace(
            self,
            spans=(*self.spans, *other.spans),
            tasks=tuple(dict.fromkeys((*self.tasks, *other.tasks))),
            order="right" if self.order == "right" and goes_on else "unclear",
            first_index=first_index if is_counted else None,
        )


def runs_of(path: Path, fps: float) -> list[Run]:
    """Returns the runs of a data file, in the order of its rows.

    Raises:
        DataError: it is missing, cannot be read or lacks a column.
    """
    if not path.is_file():
        raise DataError(f"{path}: the parquet file is missing")
    try:
        names = pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from error
    keys = [*REQUIRED, *(key for key in (*COUNTED, "timestamp") if key in names)]
    columns = read_columns(path, keys)
    times = columns.pop("timestamp", np.full(len(columns["task_index"]), np.nan))
    numbers = {key: _whole(values) for key, values in columns.items()}
    is_time = np.issubdtype(times.dtype, np.number) and times.size == len(times)
    places = times.ravel() * fps if is_time else np.full(len(times), np.nan)
    return list(_runs(path, numbers, places))


def _runs(
    path: Path, numbers: Mapping[str, NDArray[np.int64]], places: NDArray[Any]
) -> Iterator[Run]:
    """Yields runs; `places` is the time of each row, in frames."""
    states = numbers["episode_index"]
    if not len(states):
        return
    starts = [0, *(np.flatnonzero(np.diff(states)) + 1).tolist(), len(states)]
    for first, end in itertools.pairwise(starts):
        part = {key: values[first:end] for key, values in numbers.items()}
        yield Run(
            spans=(RowSpan(path=path, first=first, length=end - first),),
            states=int(states[first]),
            tasks=tuple(dict.fromkeys(part["task_index"].tolist())),
            order=_order(part.get("frame_index"), places[first:end]),
            first_frame=_counted_from(part.get("frame_index")),
            first_index=_counted_from(part.get("index")),
        )


def _order(frames: NDArray[np.int64] | None, places: NDArray[Any]) -> Order:
    counted = np.arange(len(places))
    if frames is None or np.array_equal(frames, counted):
        return "right"
    if (np.abs(places - counted) <= FRAMES_OFF).all():
        return "stale"
    is_shuffled = np.array_equal(np.sort(frames), counted)
    return (
        "shuffled" if is_shuffled and (np.abs(places - frames) <= FRAMES_OFF).all() else "unclear"
    )


def _counted_from(values: NDArray[np.int64] | None) -> int | None:
    """Returns the first of numbers that ascend by one; None for others."""
    if values is None or (np.diff(values) != 1).any() or values[0] < 0:
        return None
    return int(values[0])


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
