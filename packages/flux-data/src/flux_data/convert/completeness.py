"""Refuses a dataset of which a copy would leave something out."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flux_core.errors import DataError

from ..lerobot.dataset import LeRobotDataset
from ..parquet.arrow import unreadable

REPAIR = "`flux-data repair` writes a dataset of what is there"


def check_complete(source: LeRobotDataset) -> None:
    """Refuses rows of no listed episode, and episodes that only info.json counts.

    Raises:
        DataError: there are some, or a data file cannot be read.
    """
    _check_totals(source)
    rows: Counter[Path] = Counter()
    for position in range(source.num_episodes):
        for span in source.rows(position):
            rows[span.path] += span.length
    template = re.sub(r"\{[^}]*\}", "*", source.info["data_path"])
    for path in sorted({*source.root.glob(template), *rows}):
        try:
            found = pq.read_metadata(path).num_rows
        except (OSError, pa.ArrowException) as error:
            raise unreadable(path, error) from error
        if found > rows[path]:
            raise DataError(
                f"{path}: expected {rows[path]} rows (its episodes in the metadata), got {found}. "
                f"{REPAIR}"
            )


def _check_totals(source: LeRobotDataset) -> None:
    """Refuses more episodes or frames than are listed, as a recorder that was killed leaves."""
    counts = {"total_episodes": source.num_episodes, "total_frames": source.num_frames}
    for key, count in counts.items():
        said = source.info.get(key, count)
        if isinstance(said, int) and said > count:
            raise DataError(
                f"{source.root / 'meta' / 'info.json'}: {key}: expected {count}, as listed, got "
                f"{said}. {REPAIR}"
            )
