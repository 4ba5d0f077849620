"""A dataset's summary and its exact statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .lerobot.dataset import open_lerobot
from .lerobot.metadata import NO_NUMBERS
from .lerobot.motion import Motion
from .lerobot.statistics import RunningStats
from .samples.frame_source import hint_at_slow_images


def dataset_info(root: Path) -> dict[str, Any]:
    """Returns what `flux-data info` prints."""
    source = open_lerobot(root)
    return {
        "codebase_version": source.info["codebase_version"],
        "num_episodes": source.num_episodes,
        "num_frames": source.num_frames,
        "fps": source.fps,
        "robot_type": source.info.get("robot_type"),
        "cameras": [_camera(key) for key in source.camera_keys],
        "depth_cameras": [_camera(key) for key in source.depth_keys],
        "features": {
            key: {"dtype": feature["dtype"], "shape": feature["shape"]}
            for key, feature in source.info["features"].items()
        },
        "tasks": list(source.tasks.values()),
        "hints": [hint] if (hint := hint_at_slow_images(source)) else [],
    }


def _camera(key: str) -> str:
    return key.removeprefix("observation.images.")


def dataset_stats(
    root: Path,
    advance: Callable[[int, int], None] = lambda done, total: None,
    *,
    has_motion: bool = False,
) -> dict[str, dict[str, Any]]:
    """Returns exact statistics of every feature that is a number or a vector.

    Args:
        root: the dataset.
        has_motion: whether vectors of floats also get `velocity`, `acceleration` and `jerk`.
        advance: called with the number of episodes read so far, and the number of all.
    """
    source = open_lerobot(root)
    running = {
        key: RunningStats(int(np.prod(feature["shape"])), source.num_frames)
        for key, feature in source.info["features"].items()
        if feature["dtype"] not in (*NO_NUMBERS, "bool")
    }
    motions = {
        key: Motion(int(feature["shape"][0]), source.num_frames, source.fps)
        for key, feature in source.info["features"].items()
        if has_motion and _is_float_vector(key, feature)
    }
    for done, columns in enumerate(source.episodes(list(running)), start=1):
        for key, values in columns.items():
            rows = values.reshape(len(values), -1).astype(np.float64)
            running[key].add(rows)
            if key in motions:
                motions[key].add(rows)
        advance(done, source.num_episodes)
    results = {key: asdict(each.result()) for key, each in running.items()}
    return {
        key: result | (motions[key].result() if key in motions else {})
        for key, result in results.items()
    }


def _is_float_vector(key: str, feature: Mapping[str, Any]) -> bool:
    is_vector = str(feature["dtype"]).startswith("float") and len(feature["shape"]) == 1
    return is_vector and key != "timestamp"
