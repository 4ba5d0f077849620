"""Collects an episode frame by frame: videos are encoded at once, numbers kept in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flux_core.errors import DataError
from flux_core.robots import RobotSpec

from ..video.writer import CODEC_NAME, PIXEL_FORMAT, VideoWriter
from .dataset import VideoSegment
from .episode_stats import ImageStats
from .stored_columns import Features, narrowed, to_arrow
from .writer import Episode


def video_key(camera: str) -> str:
    """Returns a camera's feature name."""
    return f"observation.images.{camera}"


def vector_feature(names: tuple[str, ...]) -> dict[str, Any]:
    """Returns a vector's entry in the features of info.json."""
    return {"dtype": "float32", "shape": [len(names)], "names": list(names)}


def video_feature(height: int, width: int, fps: float) -> dict[str, Any]:
    """Returns the entry of a camera whose video `VideoWriter` writes."""
    return {
        "dtype": "video",
        "shape": [height, width, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": height,
            "video.width": width,
            "video.codec": CODEC_NAME,
            "video.pix_fmt": PIXEL_FORMAT,
            "video.is_depth_map": False,
            "video.fps": int(fps) if float(fps).is_integer() else fps,
            "video.channels": 3,
            "has_audio": False,
        },
    }


def depth_feature(height: int, width: int) -> dict[str, Any]:
    """Returns the entry of a depth camera whose maps are stored as PNG files of 16 bits."""
    return {
        "dtype": "image",
        "shape": [height, width, 1],
        "names": ["height", "width", "channels"],
        "info": {"is_depth_map": True},
    }


def robot_features(spec: RobotSpec, height: int, width: int) -> dict[str, Any]:
    """Returns the features of a robot's state, action and cameras, as info.json has them."""
    video = video_feature(height, width, spec.control_hz)
    return {
        "observation.state": vector_feature(spec.state_names or spec.joint_names),
        "action": vector_feature(spec.joint_names),
        **{video_key(camera): video for camera in spec.cameras},
    }


class EpisodeRecorder:
    """Records one episode, with its videos in `folder` for a writer to take. Use it in a `with`."""

    def __init__(self, folder: Path, fps: float, features: Features) -> None:
        """`features` are vectors and videos, as info.json describes them."""
        self._fps = fps
        self._rows: dict[str, list[NDArray[np.generic]]] = {}
        self._videos: dict[str, VideoWriter] = {}
        self._paths: dict[str, Path] = {}
        for key, feature in features.items():
            if feature["dtype"] == "video":
                self._paths[key] = folder / f"{key}.mp4"
                height, width, _ = feature["shape"]
                self._videos[key] = VideoWriter(self._paths[key], fps, height, width)
            else:
                self._rows[key] = []
        self._shapes = {key: tuple(features[key]["shape"]) for key in self._rows}
        self._stats = {key: ImageStats() for key in self._videos}

    def add(self, frame: Mapping[str, NDArray[np.generic]]) -> None:
        """Appends a frame: vectors, and images (height, width, 3) uint8.

        Raises:
            DataError: a feature is missing or has the wrong shape.
        """
        for key in (*self._rows, *self._videos):
            if key not in frame:
                raise DataError(
                    f"{key}: expected it in every frame, got {', '.join(frame) or 'nothing'}"
                )
        for key, rows in self._rows.items():
            if frame[key].shape != self._shapes[key]:
                raise DataError(
                    f"{key}: expected shape {self._shapes[key]}, got {frame[key].shape}"
                )
            rows.append(frame[key].copy())
        for key, video in self._videos.items():
            video.add(frame[key])
            self._stats[key].add(frame[key])

    def __enter__(self) -> EpisodeRecorder:
        return self

    def __exit__(self, *_: object) -> None:
        for video in self._videos.values():
            video.abandon()

    def close(self, task: str, **facts: object) -> Episode:
        """Finishes the videos and returns the episode."""
        for video in self._videos.values():
            video.close()
        columns = {
            key: narrowed(np.stack(rows), np.dtype(np.float32), key)
            for key, rows in self._rows.items()
        }
        length = len(next(iter(columns.values())))
        timestamp = (np.arange(length) / self._fps).astype(np.float32)
        arrays = {key: to_arrow(values) for key, values in columns.items()}
        return Episode(
            table=pa.table({**arrays, "timestamp": pa.array(timestamp)}),
            tasks=(task,) * length,
            videos={key: VideoSegment(path=path) for key, path in self._paths.items()},
            image_stats={key: stats.result() for key, stats in self._stats.items()},
            is_temporary=True,
            facts=facts,
        )
