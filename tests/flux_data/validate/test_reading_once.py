"""`flux-data validate` reads each file once: a dataset may have thousands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flux_data.validate.rows import validate

from .. import small_dataset as small


@pytest.mark.parametrize("write", [small.write_v21, small.write_v30])
def test_rows_and_footers_are_read_once_however_many_episodes_and_checks(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LeRobot's recorder writes a row group per episode: its footers take long to read."""
    write(tmp_path)
    files = sorted((tmp_path / "data").rglob("*.parquet"))
    footers: list[Path] = []
    reads: list[object] = []
    read_metadata, read_row_groups = pq.read_metadata, pq.ParquetFile.read_row_groups

    def count_footers(path: Path) -> pq.FileMetaData:
        footers.append(Path(path))
        return read_metadata(path)

    def count_reads(self: pq.ParquetFile, *args: Any, **rest: Any) -> pa.Table:
        reads.append(args)
        return read_row_groups(self, *args, **rest)

    monkeypatch.setattr(pq, "read_metadata", count_footers)
    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", count_reads)
    assert not validate(tmp_path, decode=False)
    assert sorted(path for path in footers if path in files) == files
    assert len(reads) == len(files)
