"""Observations out of a dataset, as a robot would have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError

from .lerobot.dataset import open_lerobot
from .lerobot.recorder import video_key
from .samples.process_inputs import dataset_inputs
from .samples.windows import DatasetPart, ParquetDataset

STATE = "observation.state"


def observations(dataset: str, cameras: Sequence[str], count: int) -> dict[str, NDArray[Any]]:
    """Reads `count` samples, evenly spread over those of training, so over all episodes.

    Args:
        dataset: a LeRobot directory.
        cameras: names without `observation.images.`.
        count: how many.

    Returns:
        `images.CAMERA` (count, height, width, 3) uint8 RGB as recorded, `state` (count, state_dim)
        float32 (the feature `observation.state`), and `task` (count,) text.

    Raises:
        DataError: a camera is missing, there are fewer samples, or a file cannot be read.
    """
    inputs = dataset_inputs((STATE,), tuple(video_key(camera) for camera in cameras))
    config = ParquetDataset.Config(data_root_path=dataset, transforms=(inputs,), action_key=STATE)
    part = DatasetPart(open_lerobot(dataset), config, ())
    if not 1 <= count <= len(part):
        raise DataError(f"{dataset}: expected 1 to {len(part)} samples, as it has, got {count}")
    samples = [part.sample(int((i + 0.5) * len(part) / count)) for i in range(count)]
    return {
        **{
            f"images.{camera}": np.stack([inputs.picture(s, video_key(camera)) for s in samples])
            for camera in cameras
        },
        "state": np.stack([sample[STATE] for sample in samples]).astype(np.float32),
        "task": np.array([sample["task_description"] for sample in samples]),
    }
