"""The windows of many frames, from which statistics are computed, are those of the samples."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from flux_data.samples.process_inputs import ProcessParquetInputs
from flux_data.samples.windows import ParquetDataset

from ..small_dataset import ACTION, LENGTHS, STATE, edit_column, write_lines, write_v21


def with_static_frames(root: Path) -> Path:
    write_v21(root)
    tasks = [{"task_index": 0, "task": "fold"}, {"task_index": 1, "task": "static"}]
    write_lines(root / "meta/tasks.jsonl", tasks)
    for episode, static in ((0, (3, 4)), (1, (0, 5))):
        edit_column(
            f"data/chunk-000/episode_{episode:06d}.parquet",
            "task_index",
            lambda values, static=static: [int(frame in static) for frame in range(len(values))],
        )(root)
    return root


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("supervised", [False, True])
@pytest.mark.parametrize("has_static", [False, True])
def test_windows_at_once_are_the_samples_windows(
    start: int, supervised: bool, has_static: bool, tmp_path: Path
) -> None:
    (with_static_frames if has_static else write_v21)(tmp_path)
    config = ParquetDataset.Config(
        data_root_path=str(tmp_path),
        transforms=(ProcessParquetInputs(parquet_keys=(STATE,), video_keys=()),),
        action_key=ACTION,
        action_window_size=4,
    )
    config = dataclasses.replace(
        config, window_start_idx=start, supervise_terminal_padding=supervised
    )
    (part,) = config.build().parts
    samples = [part.sample(index) for index in range(len(part))]
    assert {sample.position for sample in samples} == set(range(len(LENGTHS)))
    for position in range(len(LENGTHS)):
        own = [sample for sample in samples if sample.position == position]
        columns = part.source.episode(position, [STATE, ACTION])
        frames = np.asarray([sample.frame for sample in own])
        actions, masks = part.windows(columns, position, frames)
        np.testing.assert_array_equal(actions, [sample.actions for sample in own])
        np.testing.assert_array_equal(masks, [sample.action_masks for sample in own])
        converted = np.concatenate(list(part.converted_windows((), columns, position)))
        np.testing.assert_array_equal(converted, actions[masks])
