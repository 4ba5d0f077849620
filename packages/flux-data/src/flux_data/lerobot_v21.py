"""A LeRobot v2.1 dataset on disk: its metadata, and its numeric columns as arrays."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flux_core.errors import DataError

SUPPORTED_VERSION = "v2.1"
REQUIRED_INFO = ("fps", "features", "data_path", "chunks_size")


@dataclass(frozen=True, kw_only=True)
class EpisodeInfo:
    """One line of `meta/episodes.jsonl`."""

    index: int
    length: int


class LeRobotV21:
    """Reads `meta/` at once and the parquet columns once, when they are asked for."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.info = self._read_info()
        self.episodes = [
            EpisodeInfo(index=line["episode_index"], length=line["length"])
            for line in self._read_lines("episodes.jsonl")
        ]
        if not self.episodes:
            raise DataError(f"{self.root}: the dataset has no episodes")
        self.tasks = {line["task_index"]: line["task"] for line in self._read_lines("tasks.jsonl")}

    @property
    def fps(self) -> float:
        """Frames a second."""
        return float(self.info["fps"])

    @property
    def video_keys(self) -> tuple[str, ...]:
        """Features stored as video."""
        features = self.info["features"]
        return tuple(key for key, feature in features.items() if feature["dtype"] == "video")

    @cached_property
    def episode_starts(self) -> NDArray[np.int64]:
        """First row of every episode, and the number of rows at the end."""
        return np.concatenate(([0], np.cumsum([episode.length for episode in self.episodes])))

    def columns(self, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Reads whole columns, (frames,) or (frames, dim), in the order of the episodes."""
        missing = [key for key in keys if key not in self.info["features"]]
        if missing:
            available = ", ".join(self.info["features"])
            raise DataError(f"{self.root}: no feature {missing[0]!r}. It has: {available}")
        tables = [self._read_table(episode, list(keys)) for episode in self.episodes]
        return {key: np.concatenate([to_array(t.column(key)) for t in tables]) for key in keys}

    def video_path(self, video_key: str, episode_index: int) -> Path:
        """Where the video of one camera and episode lies."""
        return self.root / self.info["video_path"].format(
            episode_chunk=episode_index // self.info["chunks_size"],
            video_key=video_key,
            episode_index=episode_index,
        )

    def _read_table(self, episode: EpisodeInfo, keys: list[str]) -> pa.Table:
        path = self.root / self.info["data_path"].format(
            episode_chunk=episode.index // self.info["chunks_size"], episode_index=episode.index
        )
        if not path.is_file():
            raise DataError(f"{path}: the parquet file of episode {episode.index} is missing")
        table = pq.read_table(path, columns=keys)
        if table.num_rows != episode.length:
            raise DataError(
                f"{path}: expected {episode.length} rows (meta/episodes.jsonl), "
                f"got {table.num_rows}"
            )
        return table

    def _read_info(self) -> dict[str, Any]:
        path = self.root / "meta" / "info.json"
        if not path.is_file():
            raise DataError(f"{path}: not found. Is {str(self.root)!r} a LeRobot dataset?")
        info = json.loads(path.read_text())
        version = info.get("codebase_version")
        if version != SUPPORTED_VERSION:
            raise DataError(f"{path}: expected codebase_version {SUPPORTED_VERSION}, got {version}")
        absent = [key for key in REQUIRED_INFO if key not in info]
        if absent:
            raise DataError(f"{path}: the key {absent[0]!r} is missing")
        return info

    def _read_lines(self, name: str) -> list[dict[str, Any]]:
        path = self.root / "meta" / name
        if not path.is_file():
            raise DataError(f"{path}: not found")
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def to_array(column: pa.ChunkedArray) -> NDArray[Any]:
    """A parquet column as (frames,) or, for lists, (frames, dim)."""
    chunk = column.combine_chunks()
    if isinstance(chunk, pa.ChunkedArray):  # an empty or still chunked column
        chunk = pa.concat_arrays(chunk.chunks)
    if pa.types.is_fixed_size_list(chunk.type) or pa.types.is_list(chunk.type):
        values = chunk.flatten().to_numpy(zero_copy_only=False)
        return values.reshape(len(chunk), -1)
    return chunk.to_numpy(zero_copy_only=False)
