"""The table of what a run trains on."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from flux_core.transforms import ResizeImages
from flux_data.samples.mixture import DistributedRepeatingDataset
from flux_data.samples.pack import pack_dataset
from flux_data.samples.process_inputs import ProcessParquetInputs
from flux_data.samples.windows import ParquetDataset
from flux_train.run_plan import data_table

from ..flux_data.small_dataset import STATE, TOP, write_v21

RESIZE = ResizeImages(height=16, width=16)


def table_of(root: Path) -> str:
    inputs = ProcessParquetInputs(parquet_keys=(STATE,), video_keys=(TOP,))
    member = ParquetDataset.Config(data_root_path=str(root), transforms=(inputs, RESIZE))
    console = Console(file=io.StringIO(), width=120)
    console.print(data_table(DistributedRepeatingDataset.Config(datasets=member).build()))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_says_whether_a_frame_cache_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_v21(tmp_path / "set")
    table = table_of(tmp_path / "set")
    assert "frames from" in table and "videos" in table
    pack_dataset(tmp_path / "set", RESIZE)
    assert "cache 16x16" in table_of(tmp_path / "set")
