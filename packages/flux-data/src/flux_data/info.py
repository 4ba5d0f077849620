"""A dataset at a glance."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from flux_core.norm_stats import compute_stats

from .lerobot import open_lerobot


def dataset_info(root: Path) -> dict[str, Any]:
    """What `flux-data info` tells."""
    source = open_lerobot(root)
    return {
        "codebase_version": source.info["codebase_version"],
        "num_episodes": source.num_episodes,
        "num_frames": source.num_frames,
        "fps": source.fps,
        "robot_type": source.info.get("robot_type"),
        "cameras": [
            key.removeprefix("observation.images.")
            for key in (*source.video_keys, *source.image_keys)
        ],
        "features": {
            key: {"dtype": feature["dtype"], "shape": feature["shape"]}
            for key, feature in source.info["features"].items()
        },
        "tasks": list(source.tasks.values()),
    }


def dataset_stats(root: Path) -> dict[str, dict[str, Any]]:
    """Exact statistics of every feature that is a number or a vector."""
    source = open_lerobot(root)
    keys = [
        key
        for key, feature in source.info["features"].items()
        if feature["dtype"] not in ("video", "image", "string", "bool")
    ]
    stats: dict[str, dict[str, Any]] = {}
    for key in keys:
        values = source.columns([key])[key]
        stats[key] = asdict(compute_stats(values.reshape(len(values), -1)))
    return stats
