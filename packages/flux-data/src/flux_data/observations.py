"""Reads observations from a dataset in the form in which a robot has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError

from .lerobot.dataset import LeRobotDataset, open_lerobot
from .lerobot.recorder import video_key
from .lerobot.state_action import STATE, usual_columns
from .samples.process_inputs import dataset_inputs
from .samples.windows import DatasetPart, ParquetDataset


def observations(
    dataset: str,
    cameras: Mapping[str, str | None],
    count: int,
    state: Sequence[str] | None = None,
) -> dict[str, NDArray[Any]]:
    """Reads `count` samples, spread evenly over all samples of the dataset.

    Args:
        dataset: a LeRobot directory.
        cameras: name -> the dataset's column; None for `observation.images.NAME`, or for NAME if
            the dataset has only that column.
        count: number of samples.
        state: the state's columns; default: those of `usual_columns`.

    Returns:
        `images.CAMERA` (count, height, width, 3) uint8 RGB as recorded, `state` (count, state_dim)
        float32, and `task` (count,) text.

    Raises:
        DataError: a column is missing, there are fewer samples, or a file cannot be read.
    """
    source = open_lerobot(dataset)
    columns = {camera: key or camera_column(source, camera) for camera, key in cameras.items()}
    state = tuple(state or usual_columns(source.info["features"]).get(STATE, (STATE,)))
    inputs = dataset_inputs(("states",), tuple(columns.values()))
    config = ParquetDataset.Config(
        data_root_path=dataset, transforms=(inputs,), action_key=state, state_key=state
    )
    part = DatasetPart(source, config, ())
    if not 1 <= count <= len(part):
        raise DataError(f"{dataset}: expected 1 to {len(part)} samples, got {count}")
    samples = [part.sample(int((i + 0.5) * len(part) / count)) for i in range(count)]
    return {
        **{
            f"images.{camera}": np.stack([part.frames.picture(s, key) for s in samples])
            for camera, key in columns.items()
        },
        "state": np.stack([sample.state for sample in samples]).astype(np.float32),
        "task": np.array([sample.task for sample in samples]),
    }


def camera_column(source: LeRobotDataset, camera: str) -> str:
    """Returns a camera's column: LeRobot's `observation.images.NAME`, or NAME alone."""
    features = source.info["features"]
    is_plain = camera in features and video_key(camera) not in features
    return camera if is_plain else video_key(camera)
