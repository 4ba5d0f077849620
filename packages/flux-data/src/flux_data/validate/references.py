"""Checks the columns whose numbers stand for texts of a table in `meta/`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from flux_core.errors import DataError

from ..lerobot.dataset import LeRobotDataset
from ..lerobot.reference_tables import TASK, ReferenceTable, reference_tables, table_file
from .fault import Fault, episode_fault

SUBTASK = "subtask"
"""LeRobot's own name: a column of that name always has a table."""


class ReferenceChecks:
    """Compares columns of numbers with their tables, one episode after the other."""

    def __init__(self, source: LeRobotDataset) -> None:
        self._source = source
        self._tables: Sequence[ReferenceTable] = ()
        self._faults = list(self._read())

    def table_faults(self) -> Iterator[Fault]:
        """Yields the faults of the tables themselves."""
        yield from self._faults

    def episode_faults(
        self, position: int, path: Path, columns: Mapping[str, NDArray[Any]]
    ) -> Iterator[Fault]:
        """Yields the first unknown number of each column of an episode."""
        for table in self._tables:
            for key in (key for key in table.columns if key in columns):
                values = columns[key].ravel()
                for frame in table.unknown(values)[:1]:
                    message = (
                        f"{key}: frame {frame}: expected a known {table.name}, got {values[frame]}"
                    )
                    kind = "task_index" if table.name == TASK else "reference"
                    yield episode_fault(self._source, position, kind, path, message, int(frame))

    def _read(self) -> Iterator[Fault]:
        source = self._source
        try:
            self._tables = reference_tables(source)
        except DataError as error:
            file, _, message = str(error).partition(": ")
            yield Fault(kind="table", file=file, where="", message=message)
        for key in source.info["features"]:
            is_subtask = key.rpartition(".")[2] == f"{SUBTASK}_index"
            if is_subtask and table_file(source.root, SUBTASK) is None:
                path = source.root / "meta" / f"{SUBTASK}s.parquet"
                message = f"{key}: expected the table that its numbers stand for, found none"
                yield Fault(kind="table_missing", file=str(path), where=key, message=message)
