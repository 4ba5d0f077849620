"""Mistakes in configs and datasets are reported in one line, without numpy's own errors."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flux_core.errors import ConfigError, DataError
from flux_core.transforms import NormalizeStatesAndActions, RelativeActions, ResizeImages
from flux_data.samples import stats_cache
from flux_data.samples.collate import DictCollator
from flux_data.samples.mixture import DistributedRepeatingDataset, EpochBatches
from flux_data.samples.process_inputs import ProcessParquetInputs
from flux_data.samples.windows import ParquetDataset

from ..small_dataset import (
    ACTION,
    DIM,
    LENGTHS,
    STATE,
    TOP,
    WRIST,
    edit_column,
    edit_info,
    edit_lines,
    features,
    put,
    write_v21,
)

RELATIVE = RelativeActions(mask=(True,) * DIM)
EPISODES = [f"data/chunk-000/episode_{episode:06d}.parquet" for episode in range(len(LENGTHS))]


@pytest.fixture(autouse=True)
def no_kept_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def good(tmp_path: Path) -> Path:
    write_v21(tmp_path / "good")
    return tmp_path / "good"


def config_of(
    root: Any, *extra: Any, cameras: tuple[str, ...] = (TOP,), **settings: Any
) -> ParquetDataset.Config:
    inputs = ProcessParquetInputs(parquet_keys=(STATE, "actions"), video_keys=cameras)
    transforms = (inputs, *extra, ResizeImages(height=16, width=16))
    defaults = {"action_key": ACTION, "action_window_size": 4, "window_start_idx": 0}
    root = str(root) if isinstance(root, Path) else root
    return ParquetDataset.Config(
        data_root_path=root, transforms=transforms, **{**defaults, **settings}
    )


def mixed(datasets: Any, **settings: Any) -> DistributedRepeatingDataset:
    return DistributedRepeatingDataset.Config(datasets=datasets, **settings).build()


def widen(root: Path, dims: int) -> None:
    """Gives states and actions `dims` dimensions; with one, rows hold numbers as in LeRobot."""
    shapes = {key: {**features()[key], "shape": [dims]} for key in (STATE, ACTION)}
    edit_info(features=features() | shapes)(root)
    kind = pa.float32() if dims == 1 else pa.list_(pa.float32())
    for name in EPISODES:
        for key in (STATE, ACTION):
            edit_column(
                name,
                key,
                lambda rows: [row[0] if dims == 1 else [*row, 0.0, 0.0][:dims] for row in rows],
                kind,
            )(root)


def test_missing_cameras_and_directories_are_reported(good: Path) -> None:
    with pytest.raises(ConfigError, match="video_keys: expected at least one, got none"):
        config_of(good, cameras=()).build()[0]
    with pytest.raises(ConfigError, match="data_root_path: expected at least one directory"):
        config_of(())


def test_a_sample_that_does_not_exist_is_an_index_error(good: Path) -> None:
    dataset, repeating = config_of(good).build(), mixed(config_of(good))
    for index in (-1, sum(LENGTHS)):
        with pytest.raises(IndexError, match=f"sample {index}: expected one of 21, counted from 0"):
            dataset[index]
    with pytest.raises(IndexError, match="draw -1: expected at least 0"):
        repeating[-1]


def test_datasets_of_different_dimensions_need_groups(good: Path, tmp_path: Path) -> None:
    write_v21(tmp_path / "wide")
    widen(tmp_path / "wide", 5)
    message = rf"dimensions of {STATE}: .* got 3 \({good}\) and 5 \({tmp_path}/wide\). Use a group"
    for datasets in (
        (config_of(good), config_of(tmp_path / "wide")),
        config_of((str(good), str(tmp_path / "wide"))),
    ):
        with pytest.raises(ConfigError, match=message):
            mixed(datasets)
    groups = mixed({"a": (config_of(good),), "b": (config_of(tmp_path / "wide"),)})
    samples = [groups[0], groups[len(groups) - 1]]
    with pytest.raises(
        DataError, match=r"'actions': .*\(4, 3\) in sample 0 .* \(4, 5\) in sample 1"
    ):
        DictCollator(keys=("images", "actions"))(samples)


def test_datasets_of_different_rates_need_groups(good: Path, tmp_path: Path) -> None:
    write_v21(tmp_path / "slow")
    edit_info(fps=5)(tmp_path / "slow")
    with pytest.raises(ConfigError, match=rf"fps: .* 10 \({good}\) and 5 \({tmp_path}/slow\)"):
        mixed((config_of(good), config_of(tmp_path / "slow")))
    mixed({"a": (config_of(good),), "b": (config_of(tmp_path / "slow"),)})


def test_relative_actions_without_a_window_are_refused(good: Path) -> None:
    with pytest.raises(DataError, match=f"{good}: expected frames with actions"):
        mixed(config_of(good, RELATIVE, window_start_idx=100))


@pytest.mark.parametrize("key", [TOP, WRIST])
def test_a_camera_has_no_statistics(key: str, good: Path) -> None:
    with pytest.raises(
        ConfigError, match=f"statistic_keys: '{key}': expected a feature of numbers"
    ):
        mixed(config_of(good), statistic_keys=(STATE, key))


def test_an_empty_batch_is_refused(good: Path) -> None:
    with pytest.raises(ConfigError, match="per_device_batch_size: expected at least 1, got 0"):
        EpochBatches(mixed(config_of(good)), 0)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -1.0])
def test_weights_are_finite(weight: float, good: Path) -> None:
    groups = {"a": (config_of(good),), "b": (config_of(good),)}
    for weights in ({"a": weight, "b": 1.0}, {"a": 1.0, "b": weight}):
        with pytest.raises(ConfigError, match="sampling_weights: expected positive numbers"):
            mixed(groups, sampling_weights=weights)


def test_a_group_without_samples_gets_no_weight(good: Path) -> None:
    groups = {"a": (config_of(good, window_start_idx=50),), "b": (config_of(good),)}
    with pytest.raises(ConfigError, match=r"sampling_weights.a: expected 0, .* got 0.5. Leave it"):
        mixed(groups, sampling_weights={"a": 0.5, "b": 0.5})
    dataset = mixed(groups, sampling_weights={"a": 0.0, "b": 0.5})
    assert [len(batch) for batch in EpochBatches(dataset, 4)] == [4] * 5


def test_a_robot_of_one_joint_has_vectors_of_one_number(good: Path) -> None:
    widen(good, 1)
    relative = RelativeActions(mask=(True,))
    dataset = mixed(
        config_of(good, relative, NormalizeStatesAndActions(state_dim=4, action_dim=4)),
        statistic_keys=(STATE, ACTION),
        name_mappings={STATE: ("proprio",), ACTION: ("action",)},
    )
    raw = dataset.datasets[0].raw_sample(0)
    assert raw.state.shape == raw.columns[STATE].shape == (1,) and raw.actions.shape == (4, 1)
    assert raw.columns["timestamp"].shape == ()
    sample = dataset[0]
    assert sample["states"].shape == (4,) and sample["actions"].shape == (4, 4)


def relative_count(root: Path) -> int:
    dataset = mixed(config_of(root, RELATIVE), statistic_keys=(STATE,))
    return dataset.stats["private"]["action"].count


def test_renaming_a_task_to_empty_recomputes_the_statistics(good: Path) -> None:
    edit_lines("meta/tasks.jsonl", lambda rows: rows.append({"task_index": 1, "task": "wipes"}))(
        good
    )
    edit_column(EPISODES[2], "task_index", lambda rows: [1] * len(rows))(good)
    before = relative_count(good)
    edit_lines("meta/tasks.jsonl", put(1, "task", "empty"))(good)
    assert relative_count(good) < before


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"stats": {"proprio": 3}}', "\0"])
def test_damaged_cached_statistics_are_recomputed(
    content: str, good: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = mixed(config_of(good)).stats
    (kept,) = stats_cache.cache_directory().glob("*")
    whole = kept.read_bytes()
    kept.write_text(content)
    assert mixed(config_of(good)).stats == expected
    assert f"{kept}: is damaged" in caplog.text
    assert kept.read_bytes() == whole


def test_a_frame_source_names_what_it_reads(good: Path) -> None:
    assert config_of(good).build().parts[0].frames.kinds == "videos"
    both = config_of(good, cameras=(WRIST, TOP)).build().parts[0]
    assert both.frames.kinds == "images and videos"
    assert dataclasses.replace(both.config).build().parts[0]._scalars == set()
    assert np.shape(both.sample(0).columns[STATE]) == (DIM,)
