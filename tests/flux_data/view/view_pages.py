"""A small dataset for `flux-data view`, and how to read its page."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flux_data.view import write_view

from ...browser import Node, data_of

STATE, ACTION = "observation.state", "action"
CAMERAS = {"top": (24, 32), "wrist": (48, 40)}
LENGTHS = (5, 12, 7)
EVIL = "<script>alert(1)</script> & </script><!--<script> \"fold\" 'it'"
Edit = Callable[[int, dict[str, np.ndarray]], None]
LEVEL = 20
"""How much brighter each frame of the small dataset is than the one before."""


def write_dataset(
    root: Path, *, task: str = "fold", with_cameras: bool = True, edit: Edit = lambda *_: None
) -> Path:
    """Three episodes with two cameras as PNG files in the tables; frames grow brighter."""
    cameras = CAMERAS if with_cameras else {}
    names = {"motors": ["shoulder", "gripper"]}
    numbers = {"dtype": "float32", "shape": [2], "names": names}
    counter = {"dtype": "int64", "shape": [1], "names": None}
    features = {
        STATE: numbers,
        ACTION: numbers,
        **{
            f"observation.images.{camera}": {"dtype": "image", "shape": [*size, 3]}
            for camera, size in cameras.items()
        },
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        "task_index": counter,
    }
    info = {
        "codebase_version": "v2.1",
        "robot_type": "tiny",
        "fps": 10,
        "chunks_size": 1000,
        "data_path": "data/episode_{episode_index:06d}.parquet",
        "features": features,
    }
    for folder in ("meta", "data"):
        (root / folder).mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps(info))
    write_lines(root / "meta" / "tasks.jsonl", [{"task_index": 0, "task": task}])
    episodes = [{"episode_index": i, "tasks": [task], "length": n} for i, n in enumerate(LENGTHS)]
    write_lines(root / "meta" / "episodes.jsonl", episodes)
    random = np.random.default_rng(0)
    for index, length in enumerate(LENGTHS):
        values = {
            key: random.normal(size=(length, 2)).astype(np.float32) for key in (STATE, ACTION)
        }
        edit(index, values)
        columns: dict[str, Any] = {key: list(rows) for key, rows in values.items()}
        for camera, size in cameras.items():
            pictures = [
                png(np.full((*size, 3), frame * LEVEL, np.uint8)) for frame in range(length)
            ]
            columns[f"observation.images.{camera}"] = [{"bytes": b, "path": ""} for b in pictures]
        columns["timestamp"] = (np.arange(length) / 10).astype(np.float32)
        columns["task_index"] = np.zeros(length, np.int64)
        pq.write_table(pa.table(columns), root / "data" / f"episode_{index:06d}.parquet")
    return root


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def png(image: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    return data.getvalue()


def curves_of(page: Node, episode: int, kind: str) -> np.ndarray:
    block = data_of(page, f"episode-{episode}")
    return np.frombuffer(base64.b64decode(block[kind]), "<f4").reshape(block["frames"], -1)


def real_page(shared_data: Path, version: str, folder: Path) -> tuple[Path, Path]:
    """A shared dataset and its page, with pictures of episode 2."""
    root = shared_data / "lerobot" / version
    if not root.is_dir():
        pytest.skip(f"{root} is missing")
    page = folder / "view.html"
    write_view(root, page, episodes="2-2")
    return root, page
