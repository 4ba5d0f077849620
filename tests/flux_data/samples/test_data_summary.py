"""What a robot can be compared with: ranges, start poses, rate and cameras of the training set."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flux_core.bundle.checks import plain_object
from flux_core.transforms import RelativeActions
from flux_data.lerobot.dataset import open_lerobot
from flux_data.samples.group_statistics import grippers_of
from flux_data.samples.mixture import DistributedRepeatingDataset
from flux_data.samples.process_inputs import ProcessParquetInputs
from flux_data.samples.windows import ParquetDataset

from ..small_dataset import (
    ACTION,
    DIM,
    FPS,
    LENGTHS,
    STATE,
    TOP,
    WRIST,
    WRIST_SIZE,
    write_v21,
    write_v30,
)


def mixture(root: Path, *transforms: Any) -> DistributedRepeatingDataset:
    inputs = ProcessParquetInputs(parquet_keys=(STATE, "actions"), video_keys=(TOP, WRIST))
    dataset = ParquetDataset.Config(
        data_root_path=str(root),
        transforms=(inputs, *transforms),
        action_key=ACTION,
        action_window_size=4,
        window_start_idx=0,
    )
    config = DistributedRepeatingDataset.Config(
        datasets={"aloha": (dataset,)}, statistic_keys=(STATE, ACTION), name_mappings={}
    )
    return config.build()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("write", [write_v21, write_v30])
def test_the_numbers_are_numpys_in_robot_units(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path / "set")
    dataset = mixture(tmp_path / "set", RelativeActions(mask=(True,) * DIM))
    summary: Any = dataset.data_summary()["aloha"]
    facts = {"fps": FPS, "episodes": len(LENGTHS), "frames": sum(LENGTHS)}
    assert {key: summary[key] for key in facts} == facts
    values = open_lerobot(tmp_path / "set").columns([STATE, ACTION])
    firsts = np.cumsum((0, *LENGTHS[:-1]))
    for name, key in (("state", STATE), ("action", ACTION)):
        for part, rows in ((summary, values[key]), (summary["start"], values[key][firsts])):
            numbers = rows.astype(np.float64)
            assert part[name]["min"] == numbers.min(axis=0).tolist()
            assert part[name]["max"] == numbers.max(axis=0).tolist()
            expected = np.quantile(numbers, [0.01, 0.99], axis=0)
            np.testing.assert_array_equal([part[name]["q01"], part[name]["q99"]], expected)


@pytest.mark.parametrize("write", [write_v21, write_v30])
def test_cameras_are_summarised_from_their_frames(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path / "set")
    dataset = mixture(tmp_path / "set")
    cameras: Any = dataset.data_summary()["aloha"]["cameras"]
    assert list(cameras) == ["top", "wrist"]
    # So few frames that all are used.
    for number, camera in enumerate(cameras.values()):
        frames = [dataset.datasets[0].pictures(i)[number] for i in range(sum(LENGTHS))]
        assert camera["frames"] == len(frames)
        np.testing.assert_allclose(camera["mean"], np.mean(frames, axis=(0, 1, 2)), atol=1e-3)
        grey = [np.asarray(f, np.float64) @ [0.299, 0.587, 0.114] for f in frames]
        assert camera["contrast"] == pytest.approx(np.mean([g.std() for g in grey]), abs=1e-3)
        height, width = frames[0].shape[:2]
        shape = np.asarray(camera["thumbnail"]).shape
        assert shape[0] <= 24 and shape[1] <= 32 and shape[2] == 3
        assert shape[0] / shape[1] == pytest.approx(height / width, rel=0.1)
        small = Image.fromarray(frames[0]).resize((shape[1], shape[0]), Image.Resampling.BOX)
        np.testing.assert_array_equal(camera["thumbnail"], np.asarray(small))
    plain_object(texts=False)("data_summary", dataset.data_summary()["aloha"])


def test_starts_grippers_and_changes_are_summarised(tmp_path: Path) -> None:
    write_v21(tmp_path / "set")
    dataset = mixture(tmp_path / "set")
    summary: Any = dataset.data_summary()["aloha"]
    camera = summary["cameras"]["wrist"]
    assert (camera["height"], camera["width"]) == WRIST_SIZE
    firsts = [0, *np.cumsum(LENGTHS)[:-1].tolist()]
    assert dataset.datasets[0].first_samples().tolist() == firsts
    frames = [dataset.datasets[0].pictures(i)[1] for i in firsts]
    assert camera["start"]["frames"] == len(LENGTHS)
    np.testing.assert_allclose(camera["start"]["average"], np.mean(frames, axis=0), atol=0.51)
    # Every picture of this camera is brighter than the one before.
    assert camera["changing"] == 1.0 and camera["image_hz"] == FPS


def test_pictures_can_be_left_out(tmp_path: Path) -> None:
    write_v21(tmp_path / "set")
    dataset = mixture(tmp_path / "set")
    summaries: Any = [dataset.data_summary(pictures=each)["aloha"] for each in (True, False)]
    whole, left = (summary["cameras"]["top"] for summary in summaries)
    assert set(whole) - set(left) == {"thumbnail", "start"}
    assert {key: whole[key] for key in left} == left


def test_grippers_are_known_by_their_names() -> None:
    ranges = {
        "state": {"q01": [0.0, 0.1], "q99": [1.0, 0.9]},
        "action": {"q01": [0.0, 0.0], "q99": [1.0, 1.0]},
    }
    names = {"state": ("waist", "left_gripper"), "action": ("waist", "left_gripper")}
    assert grippers_of(ranges, names) == {
        "left_gripper": {
            "state": {"closed": 0.1, "open": 0.9},
            "action": {"closed": 0.0, "open": 1.0},
        }
    }


def test_frames_are_decoded_once_and_not_before_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_v21(tmp_path / "set")
    decoded: list[int] = []
    original = ParquetDataset.pictures
    monkeypatch.setattr(
        ParquetDataset, "pictures", lambda self, i: decoded.append(i) or original(self, i)
    )
    first = mixture(tmp_path / "set")
    assert not decoded
    summary = first.data_summary()
    assert len(decoded) == sum(LENGTHS) and first.data_summary() == summary
    assert mixture(tmp_path / "set").data_summary() == summary
    assert len(decoded) == sum(LENGTHS)


def test_a_video_that_cannot_be_decoded_leaves_the_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_v21(tmp_path / "set")
    dataset = mixture(tmp_path / "set")
    path = tmp_path / "set" / f"videos/chunk-000/{TOP}/episode_000001.mp4"
    path.write_bytes(path.read_bytes()[:200])
    with caplog.at_level(logging.WARNING, "flux.data"):
        summary = dataset.data_summary()["aloha"]
    assert summary["cameras"] == {} and summary["fps"] == FPS
    assert "the checkpoint gets no summary of the cameras" in caplog.text
    assert str(path) in caplog.text
