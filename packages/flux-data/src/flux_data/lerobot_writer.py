"""Writes LeRobot v2.1 datasets: an episode at a time, from any process, then the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flux_core.errors import DataError
from flux_core.robots import RobotSpec

from .video_writer import VideoWriter

CHUNKS_SIZE = 1000
DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What all episodes of a dataset share."""

    root: Path
    spec: RobotSpec
    cameras: tuple[str, ...]
    height: int
    width: int

    @property
    def fps(self) -> int:
        """Frames a second: one a control tick."""
        return round(self.spec.control_hz)

    def features(self) -> dict[str, Any]:
        """The `features` of info.json."""
        joints = {
            "dtype": "float32",
            "shape": [self.spec.action_dim],
            "names": list(self.spec.joint_names),
        }
        video = {
            "dtype": "video",
            "shape": [self.height, self.width, 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": self.height,
                "video.width": self.width,
                "video.codec": "h264",
                "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False,
                "video.fps": self.fps,
                "video.channels": 3,
                "has_audio": False,
            },
        }
        index = {"dtype": "int64", "shape": [1], "names": None}
        counters = ("frame_index", "episode_index", "index", "task_index")
        return {
            "observation.state": joints,
            "action": joints,
            **{video_key(camera): video for camera in self.cameras},
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
            **dict.fromkeys(counters, index),
        }

    def path(self, template: str, episode: int, **names: str) -> Path:
        """A file of one episode."""
        chunk = episode // CHUNKS_SIZE
        return self.root / template.format(episode_chunk=chunk, episode_index=episode, **names)


def video_key(camera: str) -> str:
    """The feature name of a camera."""
    return f"observation.images.{camera}"


class EpisodeWriter:
    """Collects one episode; its videos are written on the way, its table at the end."""

    def __init__(self, layout: Layout, episode: int, first_index: int) -> None:
        """`first_index` is the number of frames in all episodes before."""
        self._layout, self._episode, self._first_index = layout, episode, first_index
        self._rows: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        self._image_stats = {name: ImageStats() for name in layout.cameras}
        self._videos = {
            name: VideoWriter(
                layout.path(VIDEO_PATH, episode, video_key=video_key(name)),
                layout.fps,
                layout.height,
                layout.width,
            )
            for name in layout.cameras
        }

    def add(
        self,
        state: NDArray[np.float32],
        action: NDArray[np.float32],
        images: Mapping[str, NDArray[np.uint8]],
    ) -> None:
        """Appends one frame: what was seen, and what was then commanded.

        Raises:
            DataError: a camera is missing, or a value has another shape than the layout's.
        """
        for name, values in (("observation.state", state), ("action", action)):
            if values.shape != (self._layout.spec.action_dim,):
                dim = self._layout.spec.action_dim
                raise DataError(f"{name}: expected shape ({dim},), got {values.shape}")
        self._rows.append((state, action))
        for name, video in self._videos.items():
            if name not in images:
                raise DataError(f"no image of {name!r}. Given: {', '.join(images) or 'none'}")
            video.add(images[name])
            self._image_stats[name].add(images[name])

    def close(self) -> dict[str, Any]:
        """Writes the table and returns the episode's statistics."""
        for video in self._videos.values():
            video.close()
        columns = self._columns()
        path = self._layout.path(DATA_PATH, self._episode)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {key: to_arrow(value) for key, value in columns.items()}
        table = pa.table(arrays).replace_schema_metadata(_huggingface_schema(columns))
        pq.write_table(table, path, compression="snappy")
        stats = {key: column_stats(value) for key, value in columns.items()}
        return stats | {video_key(name): s.result() for name, s in self._image_stats.items()}

    def _columns(self) -> dict[str, NDArray[Any]]:
        count = len(self._rows)
        frames = np.arange(count, dtype=np.int64)
        return {
            "observation.state": np.stack([state for state, _ in self._rows]).astype(np.float32),
            "action": np.stack([action for _, action in self._rows]).astype(np.float32),
            "timestamp": (frames / self._layout.fps).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(count, self._episode, dtype=np.int64),
            "index": frames + self._first_index,
            "task_index": np.zeros(count, dtype=np.int64),
        }


def write_metadata(
    layout: Layout, task: str, episodes: Sequence[Mapping[str, Any]], stats: Sequence[Any]
) -> None:
    """Writes `meta/`; each of `episodes` has at least episode_index, tasks and length."""
    meta = layout.root / "meta"
    meta.mkdir(parents=True, exist_ok=True)
    count = len(episodes)
    info = {
        "codebase_version": "v2.1",
        "robot_type": layout.spec.name,
        "total_episodes": count,
        "total_frames": sum(int(episode["length"]) for episode in episodes),
        "total_tasks": 1,
        "total_videos": count * len(layout.cameras),
        "total_chunks": -(-count // CHUNKS_SIZE),
        "chunks_size": CHUNKS_SIZE,
        "fps": layout.fps,
        "splits": {"train": f"0:{count}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": layout.features(),
    }
    lines = [
        {"episode_index": episode["episode_index"], "stats": episode_stats}
        for episode, episode_stats in zip(episodes, stats, strict=True)
    ]
    write_lines(meta / "tasks.jsonl", [{"task_index": 0, "task": task}])
    write_lines(meta / "episodes.jsonl", episodes)
    write_lines(meta / "episodes_stats.jsonl", lines)
    # Last, so that an interrupted dataset is not taken for a whole one.
    (meta / "info.json").write_text(json.dumps(info, indent=4) + "\n")


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Writes JSON lines."""
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def to_arrow(values: NDArray[Any]) -> pa.Array:
    """(frames,) or (frames, dim) as LeRobot stores it."""
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def column_stats(values: NDArray[Any]) -> dict[str, list[Any]]:
    """Statistics of a column over the episode, as lists of `dim` numbers."""
    data = np.atleast_2d(values.T).T
    return {
        "min": data.min(axis=0).tolist(),
        "max": data.max(axis=0).tolist(),
        "mean": data.mean(axis=0, dtype=np.float64).tolist(),
        "std": data.std(axis=0, dtype=np.float64).tolist(),
        "count": [len(data)],
    }


class ImageStats:
    """Statistics of a video, frame by frame, so that no image is kept."""

    def __init__(self) -> None:
        self._frames = self._pixels = 0
        self._sum = np.zeros(3)
        self._sum_of_squares = np.zeros(3)
        self._min = np.full(3, 255, dtype=np.uint8)
        self._max = np.zeros(3, dtype=np.uint8)

    def add(self, image: NDArray[np.uint8]) -> None:
        """Counts one (height, width, 3) uint8 frame."""
        pixels = image.reshape(-1, 3)
        values = pixels.astype(np.float32)  # sums of whole numbers, rounded far below 1e-6
        self._frames += 1
        self._pixels += len(pixels)
        self._sum += values.sum(axis=0, dtype=np.float64)
        self._sum_of_squares += np.einsum("pc,pc->c", values, values, dtype=np.float64)
        self._min = np.minimum(self._min, pixels.min(axis=0))
        self._max = np.maximum(self._max, pixels.max(axis=0))

    def result(self) -> dict[str, Any]:
        """Returns per-channel statistics, (3, 1, 1) in [0, 1], and the number of frames."""
        mean = self._sum / self._pixels
        variance = np.maximum(self._sum_of_squares / self._pixels - mean**2, 0.0)
        values = {"min": self._min, "max": self._max, "mean": mean, "std": np.sqrt(variance)}
        shaped = {key: (value / 255.0).reshape(3, 1, 1).tolist() for key, value in values.items()}
        return {**shaped, "count": [self._frames]}


def _huggingface_schema(columns: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Returns the table's metadata by which Hugging Face `datasets` knows fixed-size rows."""
    features: dict[str, Any] = {}
    for key, values in columns.items():
        scalar = {"dtype": str(values.dtype), "_type": "Value"}
        row = {"feature": scalar, "length": values.shape[-1], "_type": "Sequence"}
        features[key] = scalar if values.ndim == 1 else row
    return {"huggingface": json.dumps({"info": {"features": features}})}
