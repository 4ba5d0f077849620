"""Depth is known however it is marked, and is never taken for a camera with colours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flux_core.errors import DataError
from flux_data.info import dataset_info
from flux_data.lerobot.dataset import open_lerobot
from flux_data.lerobot.metadata import is_depth_map
from flux_data.samples.process_inputs import ProcessParquetInputs
from flux_data.samples.windows import ParquetDataset
from flux_data.video.reader import VideoReader

from ..coded_commands import check_rows, run, train_or_refuse
from ..coded_dataset import ACTION, DEPTH, STATE, Camera, CodedDataset, plain
from ..small_dataset import edit_info

MARKS = (
    ("info", "is_depth_map"),
    ("info", "video.is_depth_map"),
    ("video_info", "video.is_depth_map"),
)
KINDS = ("depth video", "depth image")


def with_depth(kind: str, mark: tuple[str, str], version: str = "v3.0") -> CodedDataset:
    camera = Camera(key=DEPTH, kind=kind, mark=mark)  # type: ignore[arg-type]
    return plain(version, lengths=(3, 2), cameras=(Camera(), camera))  # type: ignore[arg-type]


def sample_of(root: Path, camera: str) -> object:
    inputs = ProcessParquetInputs(parquet_keys=(STATE, "actions"), video_keys=(camera,))
    config = ParquetDataset.Config(
        data_root_path=str(root), transforms=(inputs,), action_key=ACTION, window_start_idx=0
    )
    return config.build()[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mark", MARKS, ids=".".join)
def test_depth_is_kept_shown_and_no_camera(
    kind: str, mark: tuple[str, str], tmp_path: Path
) -> None:
    dataset = with_depth(kind, mark)
    root = dataset.write(tmp_path / "ds")
    info = dataset_info(root)
    assert (info["cameras"], info["depth_cameras"]) == (["top"], ["top_depth"])
    trained = train_or_refuse(dataset, root)
    assert not trained.is_refused, trained.error
    with pytest.raises(DataError, match=f"{DEPTH}: expected a camera with colours, got a depth"):
        sample_of(root, DEPTH)
    found = run("validate", root)
    assert not found.is_refused, found.error
    for version in ("v2.1", "v3.0"):
        assert not run("convert", root, "--to", version, "--out", tmp_path / version).is_refused
        check_rows(dataset.rows(), tmp_path / version)
        found = run("validate", tmp_path / version)
        assert not found.is_refused, found.error
    page = tmp_path / "page.html"
    assert not run("view", root, "--out", page).is_refused
    assert "Depth maps</dt><dd>1, not shown" in page.read_text()
    packed = run("pack", root, "--size", 16)
    assert not packed.is_refused, packed.error
    assert not list(root.rglob(f"flux_frames/**/{DEPTH}/*"))


@pytest.mark.parametrize("kind", KINDS)
def test_depth_that_is_not_marked_is_refused_as_a_camera_by_its_content(
    kind: str, tmp_path: Path
) -> None:
    dataset = with_depth(kind, MARKS[0])
    root = dataset.write(tmp_path / "ds")
    features = open_lerobot(root).info["features"]
    edit_info(features={**features, DEPTH: {**features[DEPTH], "info": None}})(root)
    assert not open_lerobot(root).depth_keys
    with pytest.raises(DataError, match="got a depth map|a depth map\\?") as error:
        sample_of(root, DEPTH)
    assert ".mp4" in str(error.value) or DEPTH in str(error.value)
    assert run("validate", root).is_refused
    if kind == "depth video":
        path = next(root.rglob(f"{DEPTH}/**/*.mp4"))
        assert VideoReader().is_depth(path)


@pytest.mark.parametrize(
    ("more", "is_depth"),
    [
        ({}, False),
        ({"info": None, "video_info": {}}, False),
        ({"info": {"video.is_depth_map": False, "video.pix_fmt": "yuv420p"}}, False),
        ({"info": {"video.pix_fmt": "gray"}}, False),
        ({"info": {"video.pix_fmt": "yuv420p10le"}}, False),
        ({"info": {"video.pix_fmt": "gray12le"}}, True),
        ({"info": {"pix_fmt": "gray16be"}}, True),
        ({"video_info": {"video.pix_fmt": "gray10le"}}, True),
        ({"video_info": {"is_depth_map": True}}, True),
        ({"is_depth_map": True}, True),
        ({"info": {"is_depth_map": True}, "dtype": "float32"}, False),
    ],
)
def test_what_counts_as_a_mark_of_depth(more: Mapping[str, Any], is_depth: bool) -> None:
    feature = {"dtype": "video", "shape": [48, 64, 1], "names": None, **more}
    assert is_depth_map(feature) == is_depth
