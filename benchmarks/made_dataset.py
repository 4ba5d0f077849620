"""Makes datasets of any size with pyarrow alone, for benchmarks of reading at scale."""

from __future__ import annotations

import functools
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

STATE, ACTION = "observation.state", "action"
CAMERA = "observation.images.cam_high"
COUNTERS = ("frame_index", "episode_index", "index", "task_index")
NUMBERS_PER_FILE = 200_000
"""Rows of a v3.0 file without images; LeRobot joins episodes up to 100 MB."""
EPISODES_PER_VIDEO = 100
"""Episodes of a v3.0 video."""
VIDEO_SIDE = 64
NUM_PICTURES = 16


@dataclass(frozen=True, kw_only=True)
class MadeDataset:
    """What to make: episodes of one length, whose joints swing and whose pictures are noisy.

    Attributes:
        version: 'v2.1' (a file per episode) or 'v3.0' (files of many episodes).
        episodes: how many.
        length: frames of each.
        dim: dimensions of the state and of the action.
        fps: frames per second.
        image: height and width of the camera's PNGs; None without a camera.
        videos: how many cameras are videos; all their files are links to one.
        rows_per_file: rows of a v3.0 file, as many whole episodes as fit.
        row_group: rows of a row group; None for pyarrow's default, in effect a file. LeRobot's
            recorder writes one row group per episode.
    """

    version: str
    episodes: int
    length: int
    dim: int = 14
    fps: int = 50
    image: tuple[int, int] | None = None
    videos: int = 0
    rows_per_file: int = NUMBERS_PER_FILE
    row_group: int | None = None

    @property
    def per_file(self) -> int:
        """Episodes of a data file."""
        return 1 if self.version == "v2.1" else max(self.rows_per_file // self.length, 1)

    @property
    def per_video(self) -> int:
        """Episodes of a video file."""
        return 1 if self.version == "v2.1" else min(EPISODES_PER_VIDEO, self.episodes)

    @property
    def video_keys(self) -> tuple[str, ...]:
        """The cameras that are videos."""
        return tuple(f"observation.images.video_{number}" for number in range(self.videos))


def write_dataset(root: Path, made: MadeDataset) -> None:
    """Writes the dataset into a new folder."""
    info = _info(made)
    stats: list[dict[str, Any]] = []
    for number, first in enumerate(range(0, made.episodes, made.per_file)):
        episodes = range(first, min(first + made.per_file, made.episodes))
        table = pa.concat_tables([_table(made, episode, stats) for episode in episodes])
        name = info["data_path"].format(
            episode_chunk=first // 1000, episode_index=first, chunk_index=0, file_index=number
        )
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, root / name, row_group_size=made.row_group or 1 << 20)
    (root / "meta").mkdir()
    (root / "meta" / "info.json").write_text(json.dumps(info))
    (_write_v21 if made.version == "v2.1" else _write_v30)(root, made, stats)
    if made.videos:
        _write_videos(root, made, info["video_path"])


def _info(made: MadeDataset) -> dict[str, Any]:
    vector = {"dtype": "float32", "shape": [made.dim], "names": None}
    one = {"shape": [1], "names": None}
    features: dict[str, Any] = {STATE: vector, ACTION: vector}
    if made.image is not None:
        features[CAMERA] = {"dtype": "image", "shape": [*made.image, 3], "names": None}
    video = {"dtype": "video", "shape": [VIDEO_SIDE, VIDEO_SIDE, 3], "names": None}
    features |= dict.fromkeys(made.video_keys, video)
    features["timestamp"] = {"dtype": "float32", **one}
    features |= {key: {"dtype": "int64", **one} for key in COUNTERS}
    v21 = "chunk-{episode_chunk:03d}/{0}episode_{episode_index:06d}"
    v30 = "{0}chunk-{chunk_index:03d}/file-{file_index:03d}"
    place = v21 if made.version == "v2.1" else v30
    camera = "{video_key}/"
    return {
        "codebase_version": made.version,
        "robot_type": "aloha",
        "fps": made.fps,
        "total_episodes": made.episodes,
        "total_frames": made.episodes * made.length,
        "total_tasks": 1,
        "chunks_size": 1000,
        "features": features,
        "data_path": f"data/{place.replace('{0}', '')}.parquet",
        "video_path": f"videos/{place.replace('{0}', camera)}.mp4",
    }


def _table(made: MadeDataset, episode: int, stats: list[dict[str, Any]]) -> pa.Table:
    """Returns an episode's rows, and appends its statistics to `stats`."""
    rng = np.random.default_rng(episode)
    frames = np.arange(made.length)
    phase, speed = rng.uniform(0, 6, made.dim), rng.uniform(0.5, 2, made.dim)
    states = np.sin(phase + frames[:, None] / made.fps * speed).astype(np.float32)
    actions = states + rng.normal(0, 0.01, states.shape).astype(np.float32)
    columns: dict[str, Any] = {
        STATE: states,
        ACTION: actions,
        "timestamp": (frames / made.fps).astype(np.float32),
        "frame_index": frames,
        "episode_index": np.full(made.length, episode),
        "index": frames + episode * made.length,
        "task_index": np.zeros(made.length, np.int64),
    }
    stats.append({key: _stats_of(values) for key, values in columns.items()})
    arrays = {
        key: pa.FixedSizeListArray.from_arrays(values.ravel(), made.dim)
        if values.ndim == 2
        else pa.array(values)
        for key, values in columns.items()
    }
    if made.image is not None:
        pictures = [{"bytes": png, "path": None} for png in _pngs(rng, made.length, made.image)]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        arrays[CAMERA] = pa.array(pictures, kind)
    return pa.table(arrays)


def _stats_of(values: np.ndarray) -> dict[str, Any]:
    data = values.reshape(len(values), -1).astype(np.float64)
    stats = {name: getattr(data, name)(axis=0).tolist() for name in ("min", "max", "mean", "std")}
    return {**stats, "count": [len(data)]}


@functools.cache
def _pictures(size: tuple[int, int]) -> list[bytes]:
    """Returns a few noisy PNGs, which compress to about the size of a real camera's."""
    rng, (rows, columns) = np.random.default_rng(0), np.indices(size)
    found: list[bytes] = []
    for frame in range(NUM_PICTURES):
        picture = np.stack([rows + 9 * frame, columns, rows + columns], axis=-1) // 2 % 240
        picture = picture + rng.integers(0, 4, (*size, 3))
        file = io.BytesIO()
        Image.fromarray(picture.astype(np.uint8)).save(file, "PNG", compress_level=1)
        found.append(file.getvalue())
    return found


def _pngs(rng: np.random.Generator, count: int, size: tuple[int, int]) -> Iterator[bytes]:
    """Yields PNGs that all differ: bytes after the end of the picture are ignored by decoders."""
    pictures = _pictures(size)
    for _ in range(count):
        yield pictures[int(rng.integers(len(pictures)))] + rng.bytes(16)


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_v21(root: Path, made: MadeDataset, stats: list[dict[str, Any]]) -> None:
    numbers = range(made.episodes)
    episodes = [{"episode_index": i, "length": made.length, "tasks": ["fold"]} for i in numbers]
    _write_lines(root / "meta" / "episodes.jsonl", episodes)
    _write_lines(root / "meta" / "tasks.jsonl", [{"task_index": 0, "task": "fold"}])
    lines = [{"episode_index": i, "stats": stats[i]} for i in numbers]
    _write_lines(root / "meta" / "episodes_stats.jsonl", lines)


def _write_v30(root: Path, made: MadeDataset, stats: list[dict[str, Any]]) -> None:
    numbers = np.arange(made.episodes)
    columns: dict[str, Any] = {
        "episode_index": numbers,
        "length": np.full(made.episodes, made.length),
        "tasks": [["fold"]] * made.episodes,
        "data/chunk_index": np.zeros(made.episodes, np.int64),
        "data/file_index": numbers // made.per_file,
        "dataset_from_index": numbers * made.length,
        "dataset_to_index": (numbers + 1) * made.length,
    }
    start_s = numbers % made.per_video * made.length / made.fps
    for key in made.video_keys:
        columns |= {
            f"videos/{key}/chunk_index": np.zeros(made.episodes, np.int64),
            f"videos/{key}/file_index": numbers // made.per_video,
            f"videos/{key}/from_timestamp": start_s,
            f"videos/{key}/to_timestamp": start_s + made.length / made.fps,
        }
    for key in stats[0]:
        for name in stats[0][key]:
            columns[f"stats/{key}/{name}"] = [each[key][name] for each in stats]
    folder = root / "meta" / "episodes" / "chunk-000"
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "file-000.parquet")
    tasks = pa.table({"task_index": [0], "task": ["fold"]})
    pq.write_table(tasks, root / "meta" / "tasks.parquet")


def _write_videos(root: Path, made: MadeDataset, template: str) -> None:
    """Writes one video and links all others to it."""
    from flux_data.video import VideoWriter

    original: Path | None = None
    places = [
        {"episode_index": i, "episode_chunk": i // 1000, "file_index": i // made.per_video}
        for i in range(0, made.episodes, made.per_video)
    ]
    for place in (place | {"video_key": key} for key in made.video_keys for place in places):
        path = root / template.format(chunk_index=0, **place)
        path.parent.mkdir(parents=True, exist_ok=True)
        if original is not None:
            os.link(original, path)
            continue
        writer = VideoWriter(path, made.fps, VIDEO_SIDE, VIDEO_SIDE)
        for frame in range(made.per_video * made.length):
            writer.add(np.full((VIDEO_SIDE, VIDEO_SIDE, 3), frame % 256, np.uint8))
        writer.close()
        original = path
