"""Single values of a column of bytes: those that pyarrow reads, however they are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flux_data.parquet import value_index
from flux_data.parquet.value_index import DAMAGE, index_values

DELTAS = {
    "use_dictionary": ["number"],
    "column_encoding": {"images.top.bytes": "DELTA_BYTE_ARRAY"},
}
SMALL_PAGES = {"data_page_size": 1000, "dictionary_pagesize_limit": 5000, "write_batch_size": 7}
STORED: dict[str, dict[str, Any]] = {
    "as by default": {},
    "without a dictionary": {"use_dictionary": False},
    "not compressed": {"compression": "none"},
    "pages of version 2": {"data_page_version": "2.0"},
    "small pages, a dictionary that becomes full": SMALL_PAGES,
    "small pages of version 2": {
        "data_page_version": "2.0",
        "use_dictionary": False,
        **SMALL_PAGES,
    },
    "with a page index": {"write_page_index": True},
}


def values(seed: int, *, size: int, has_nulls: bool, has_twins: bool) -> list[bytes | None]:
    rng = np.random.default_rng(seed)
    found: list[bytes | None] = [rng.bytes(int(rng.integers(0, size))) for _ in range(60)]
    if has_twins:
        found = [found[int(rng.integers(15))] for _ in found]
    return [None if has_nulls and rng.random() < 0.2 else value for value in found]


def write(path: Path, images: list[bytes | None], **options: Any) -> pq.FileMetaData:
    structs = [{"bytes": data, "path": "x.png"} for data in images]
    table = pa.table({"number": range(len(images)), "images.top": structs})
    pq.write_table(table, path, row_group_size=23, **options)
    return pq.read_metadata(path)


def read_all(path: Path, metadata: pq.FileMetaData) -> list[bytes | None]:
    found: list[bytes | None] = []
    for group in range(metadata.num_row_groups):
        index = index_values(path, metadata, group, "images.top.bytes")
        found += [index.read(row) for row in range(metadata.row_group(group).num_rows)]
    return found


@pytest.mark.parametrize("options", STORED.values(), ids=STORED)
@pytest.mark.parametrize("size", [20, 3000, 150_000])
@pytest.mark.parametrize("has_nulls", [False, True])
def test_values_are_those_that_were_written(
    options: dict[str, Any], size: int, has_nulls: bool, tmp_path: Path
) -> None:
    for has_twins in (False, True) if size == 20 else (False,):
        images = values(size, size=size, has_nulls=has_nulls, has_twins=has_twins)
        metadata = write(tmp_path / "a.parquet", images, **options)
        assert read_all(tmp_path / "a.parquet", metadata) == images


@pytest.mark.parametrize(
    "options", [{"compression": "zstd"}, DELTAS], ids=["another compression", "another encoding"]
)
def test_what_is_stored_in_another_way_is_left_to_pyarrow(
    options: dict[str, Any], tmp_path: Path
) -> None:
    images = values(0, size=500, has_nulls=False, has_twins=False)
    metadata = write(tmp_path / "a.parquet", images, **options)
    with pytest.raises(value_index.NotSupported):
        read_all(tmp_path / "a.parquet", metadata)


def test_a_stream_that_compresses_well_is_left_to_pyarrow(tmp_path: Path) -> None:
    images: list[bytes | None] = [bytes(range(30, 90)) * 999 + bytes([n]) for n in range(40)]
    metadata = write(tmp_path / "a.parquet", images, use_dictionary=False)
    with pytest.raises(value_index.NotSupported, match="many elements"):
        read_all(tmp_path / "a.parquet", metadata)


def test_damage_is_an_error_or_changes_only_bytes_of_values(tmp_path: Path) -> None:
    """Never a crash, an endless loop or a value of another length without a word."""
    path = tmp_path / "a.parquet"
    images = values(0, size=6, has_nulls=True, has_twins=False)
    metadata = write(path, images)
    whole, rng, failed = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(200):
        data = bytearray(whole)
        data[int(rng.integers(len(whole) // 2))] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        try:
            read_all(path, metadata)
        except DAMAGE:
            failed += 1
    assert failed > 20
    path.write_bytes(whole[:100])
    with pytest.raises(DAMAGE):
        read_all(path, metadata)
