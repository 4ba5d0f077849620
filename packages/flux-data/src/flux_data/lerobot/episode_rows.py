"""Finds the rows of an episode: the one place in which every reader looks for them.

A row says itself to which episode it belongs (`episode_index`), which frame it is (`frame_index`)
and which row of the whole dataset (`index`). The metadata says where an episode's rows are: v2 has
one file per episode, v3.0 a file and the absolute index of the first row. Rows are read only where
these agree, so that no episode gets the rows of another.

In v3.0 the name of the file may be stale: programs that moved episodes to other files did not
always write so. LeRobot reads by the absolute index alone, and so does this module.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError

from ..parquet.arrow import constant_of, footer_of, read_present

logger = logging.getLogger("flux.data")

FRAMES_OFF = 0.5
"""The tolerance of times, in frames: a frame farther away is a different one."""

EPISODE, FRAME = "episode_index", "frame_index"

MAX_PLACES = 3
"""A message names so many places of an episode's rows."""

NOT_KNOWN = -1
"""Stands for a number that the file does not have."""


@dataclass(frozen=True, kw_only=True)
class RowSpan:
    """Consecutive rows of one parquet file."""

    path: Path
    first: int
    length: int

    @property
    def rows(self) -> slice:
        """The rows as a slice."""
        return slice(self.first, self.first + self.length)


@dataclass(frozen=True, kw_only=True)
class FileRuns:
    """The runs of rows with equal `episode_index` in one file, in the order of the file.

    Attributes:
        path: the file.
        num_rows: how many rows it has.
        episodes: the episode of each run; None if the file has no such column.
        first: the first row of each run.
        length: the number of rows of each run.
        index: the `index` of each run's first row, or NOT_KNOWN.
        frame: the `frame_index` of each run's first row, or NOT_KNOWN.
        last_frame: the `frame_index` of each run's last row, or NOT_KNOWN.
        broken: the first row of each run, counted from its start, whose `frame_index` is out of
            order or contradicts its `timestamp`; NOT_KNOWN if there is none.
    """

    path: Path
    num_rows: int
    episodes: NDArray[Any] | None
    first: NDArray[np.int64]
    length: NDArray[np.int64]
    index: NDArray[Any]
    frame: NDArray[Any]
    last_frame: NDArray[Any]
    broken: NDArray[np.int64]

    def of(self, episode: int) -> list[int]:
        """Returns the runs of an episode."""
        if self.episodes is None:
            return []
        return np.flatnonzero(self.episodes == episode).tolist()

    def span(self, run: int) -> RowSpan:
        """Returns the rows of a run."""
        return RowSpan(path=self.path, first=int(self.first[run]), length=int(self.length[run]))


def scan_runs(path: Path, fps: float) -> FileRuns:
    """Reads the columns of a file that number its rows, and returns its runs.

    Raises:
        DataError: the file cannot be read.
    """
    num_rows, columns = read_present(path, (EPISODE, FRAME, "index"))
    return runs_of(path, fps, num_rows, columns)


def runs_of(path: Path, fps: float, num_rows: int, columns: Mapping[str, NDArray[Any]]) -> FileRuns:
    """Returns the runs of a file, given those of its columns that number its rows."""
    columns = {key: _flat(values) for key, values in columns.items()}
    episodes = columns.get(EPISODE)
    first = np.zeros(min(num_rows, 1), np.int64)
    if episodes is not None and num_rows:
        first = np.flatnonzero(np.concatenate(([True], episodes[1:] != episodes[:-1])))
    last = np.append(first[1:], num_rows)[: len(first)] - 1
    unknown = np.full(len(first), NOT_KNOWN)
    frames, index = columns.get(FRAME), columns.get("index")
    return FileRuns(
        path=path,
        num_rows=num_rows,
        episodes=None if episodes is None else episodes[first],
        first=first,
        length=last - first + 1,
        index=unknown if index is None else index[first],
        frame=unknown if frames is None else frames[first],
        last_frame=unknown if frames is None else frames[last],
        broken=unknown if frames is None else _broken(path, fps, frames, first),
    )


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    """Returns a column of numbers as (rows,); some programs store lists of one number."""
    return values if values.ndim == 1 else values[:, 0]


def _broken(
    path: Path, fps: float, frames: NDArray[Any], first: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Returns the first bad row of each run, counted from its start; NOT_KNOWN if all are good.

    Frames count 0, 1, 2. An episode from which frames were removed has gaps: it is good if its
    times have them too.
    """
    rows = np.arange(len(frames))
    run_of = np.searchsorted(first, rows, side="right") - 1
    number = rows - first[run_of]
    bad = np.zeros(len(frames), np.bool_)
    bad[1:] = (frames[1:] <= frames[:-1]) & (number[1:] > 0)
    if (frames != number).any():
        _, columns = read_present(path, ("timestamp",))
        times = _flat(columns.get("timestamp", np.full(len(frames), np.nan)))
        has_time = np.abs(times * fps - frames) <= FRAMES_OFF
        bad |= (frames != number) & ~has_time
    found = np.full(len(first), NOT_KNOWN)
    rows = np.flatnonzero(bad)[::-1]  # the first of each run is written last
    found[run_of[rows]] = number[rows]
    return found


def numbering_of(path: Path) -> tuple[str, ...]:
    """Returns the columns to read for `rows_of_own_file`.

    Raises:
        DataError: the file cannot be read.
    """
    # Reading one column fewer counts: a dataset may have thousands of files.
    is_known = constant_of(path, EPISODE) is not None
    wanted = (FRAME,) if is_known else (EPISODE, FRAME)
    return tuple(key for key in wanted if key in footer_of(path).names)


def rows_of_own_file(
    path: Path, episode: int, length: int, fps: float, columns: Mapping[str, NDArray[Any]]
) -> RowSpan:
    """Returns the rows of an episode that has a file of its own.

    Args:
        path: the file.
        episode: the episode's index.
        length: its number of rows, as the metadata says.
        fps: frames per second.
        columns: those of `numbering_of`, whole.

    Raises:
        DataError: the rows are not those of the episode.
    """
    num_rows, constant = int(footer_of(path).starts[-1]), constant_of(path, EPISODE)
    if constant is not None:
        columns = {**columns, EPISODE: np.full(num_rows, constant)}
    runs = runs_of(path, fps, num_rows, columns)
    where = f"{path}: episode {episode}"
    if runs.num_rows != length:
        raise DataError(f"{where}: expected {length} rows (the metadata), got {runs.num_rows}")
    for run, found in enumerate([] if runs.episodes is None else runs.episodes):
        if found != episode:
            raise DataError(
                f"{where}: episode_index: row {runs.first[run]}: expected {episode}, got {found}. "
                "These are the rows of another episode"
            )
    _check_frames(where, [(runs, 0)])
    return RowSpan(path=path, first=0, length=length)


@dataclass(kw_only=True)
class SharedFiles:
    """Finds the rows of episodes that share files (v3.0).

    Attributes:
        root: the dataset.
        pattern: matches its data files, below `root`.
        fps: frames per second.
        episodes: the index of each episode, by position.
        lengths: the number of rows of each episode.
        from_index: the absolute index of each episode's first row, as the metadata says.
        stated_file: returns the file that the metadata names for an episode.
    """

    root: Path
    pattern: str
    fps: float
    episodes: NDArray[np.int64]
    lengths: NDArray[np.int64]
    from_index: NDArray[np.int64]
    stated_file: Callable[[int], Path]
    _scanned: dict[Path, FileRuns] = field(default_factory=dict)
    _first_of: dict[Path, int] = field(default_factory=dict)
    _offsets: dict[Path, int] = field(default_factory=dict)
    _has_warned: bool = False

    def find(self, position: int) -> tuple[RowSpan, ...]:
        """Returns the rows of an episode; several spans only if it is split over files.

        Raises:
            DataError: a file cannot be read, or rows and metadata contradict each other.
        """
        stated, length = self.stated_file(position), int(self.lengths[position])
        if stated.is_file():
            runs = self._runs(stated)
            if runs.episodes is None:
                return (self.stated(position),)
            own = [(runs, run) for run in runs.of(int(self.episodes[position]))]
            is_whole = len(own) == 1 and runs.length[own[0][1]] == length
            if is_whole and self._has_index(position, *own[0]):
                return self._checked(position, own)
        return self._found_elsewhere(position)

    def stated(self, position: int) -> RowSpan:
        """Returns the rows that the metadata names, whatever these rows say themselves."""
        path = self.stated_file(position)
        first = int(self.from_index[position]) - self._first_index(path)
        return RowSpan(path=path, first=first, length=int(self.lengths[position]))

    def _found_elsewhere(self, position: int) -> tuple[RowSpan, ...]:
        """Looks for the rows in all data files, as the stated one lacks them."""
        stated, length = self.stated_file(position), int(self.lengths[position])
        own = [
            (runs, run)
            for path in self._files()
            for runs in [self._runs(path)]
            for run in runs.of(int(self.episodes[position]))
        ]
        whole = [(runs, run) for runs, run in own if runs.length[run] == length]
        right = [each for each in whole if self._has_index(position, *each)]
        if not right and _are_split(own) and sum(int(r.length[i]) for r, i in own) == length:
            right = own if self._has_index(position, *own[0]) else []
        elif len(right) > 1:
            raise DataError(
                f"{self._where(position)}: expected its rows once, got them at {_places(right)}"
            )
        if right:
            spans = self._checked(position, right)
            self._warn(position, spans)
            return spans
        if not own and not stated.is_file():
            index = self.episodes[position]
            raise DataError(f"{stated}: the parquet file of episode {index} is missing")
        raise DataError(f"{self._where(position)}: {self._reason(position, own, whole)}")

    def _reason(
        self,
        position: int,
        own: Sequence[tuple[FileRuns, int]],
        whole: Sequence[tuple[FileRuns, int]],
    ) -> str:
        """Says why the rows with an episode's number cannot be its rows."""
        length, start = int(self.lengths[position]), int(self.from_index[position])
        found = sum(int(runs.length[run]) for runs, run in own)
        if whole:
            runs, run = whole[0]
            return (
                f"dataset_from_index: expected {self._absolute(runs, run)}, where the rows with "
                f"episode_index {self.episodes[position]} begin, got {start}"
            )
        if found != length:
            return f"expected {length} rows (the metadata), got {found}"
        return f"expected consecutive rows, got {len(own)} pieces, at {_places(own)}"

    def _checked(self, position: int, own: Sequence[tuple[FileRuns, int]]) -> tuple[RowSpan, ...]:
        _check_frames(self._where(position), own)
        return tuple(runs.span(run) for runs, run in own)

    def _has_index(self, position: int, runs: FileRuns, run: int) -> bool:
        """Whether a run begins at the absolute index that the metadata names.

        The `index` of its first row says so, or else its place among all rows of the dataset, or
        among those of its file: not all programs renumber `index` when they move rows.
        """
        start = int(self.from_index[position])
        if runs.index[run] == start or self._absolute(runs, run) == start:
            return True
        is_stated = runs.path == self.stated_file(position)
        return is_stated and start - self._first_index(runs.path) == int(runs.first[run])

    def _absolute(self, runs: FileRuns, run: int) -> int:
        """Returns the place of a run's first row among the rows of all files, in their order."""
        if not self._offsets:
            total = 0
            for path in self._files():
                self._offsets[path], total = total, total + self._runs(path).num_rows
        return self._offsets.get(runs.path, 0) + int(runs.first[run])

    def _first_index(self, path: Path) -> int:
        """Returns the smallest absolute index that the metadata names for a file."""
        if not self._first_of:
            for position, start in enumerate(self.from_index.tolist()):
                file = self.stated_file(position)
                self._first_of[file] = min(self._first_of.get(file, start), start)
        return self._first_of[path]

    def _files(self) -> list[Path]:
        return sorted(self.root.glob(self.pattern))

    def _runs(self, path: Path) -> FileRuns:
        if path not in self._scanned:
            self._scanned[path] = scan_runs(path, self.fps)
        return self._scanned[path]

    def _where(self, position: int) -> str:
        return f"{self.stated_file(position)}: episode {self.episodes[position]}"

    def _warn(self, position: int, found: Sequence[RowSpan]) -> None:
        if self._has_warned:
            return
        self._has_warned = True
        stated = self.stated_file(position).relative_to(self.root)
        logger.warning(
            "%s: meta/episodes names a file that does not hold all of an episode's rows (episode "
            "%d: %s instead of %s). The rows are read from where their index says",
            self.root,
            self.episodes[position],
            stated,
            " and ".join(str(span.path.relative_to(self.root)) for span in found),
        )


def _places(own: Sequence[tuple[FileRuns, int]]) -> str:
    places = [f"row {runs.first[run]} of {runs.path.name}" for runs, run in own[:MAX_PLACES]]
    more = [f"{len(own) - MAX_PLACES} more"] if len(own) > MAX_PLACES else []
    return " and ".join([*places, *more])


def _are_split(own: Sequence[tuple[FileRuns, int]]) -> bool:
    """Whether runs continue each other over the end of one file and the start of the next."""
    for (runs, run), (following, other) in itertools.pairwise(own):
        is_last = int(runs.first[run] + runs.length[run]) == runs.num_rows
        if not is_last or following.first[other] != 0 or runs.path == following.path:
            return False
    return len(own) > 1


def _check_frames(where: str, own: Sequence[tuple[FileRuns, int]]) -> None:
    """Refuses rows that are not in the order of their frames."""
    before, last = 0, NOT_KNOWN
    for runs, run in own:
        row = int(runs.broken[run])
        if before and row == NOT_KNOWN and runs.frame[run] <= last != NOT_KNOWN:
            row = 0
        if row != NOT_KNOWN:
            raise DataError(
                f"{where}: frame_index: row {before + row}: expected {before + row}, or a later "
                "frame whose timestamp agrees, got another. Rows are missing, twice or in another "
                "order"
            )
        before, last = before + int(runs.length[run]), runs.last_frame[run]
