"""A LeRobot dataset on disk, v2.0, v2.1 or v3.0: its metadata, numeric columns and videos.

Opening reads metadata alone. Columns are read an episode at a time, when they are asked for, and
kept as arrays; there are no dictionaries of single rows.
"""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flux_core.errors import DataError

from .arrow import read_columns
from .locations import local_root

REQUIRED_INFO = ("fps", "features", "data_path")
MAX_CACHED_BYTES = 512 << 20

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class VideoSegment:
    """Where the video of one camera and episode lies: a file, and when in it the episode begins."""

    path: Path
    start_s: float = 0.0


class LeRobotDataset(ABC):
    """One dataset directory; episodes are counted by their position, 0 .. num_episodes - 1."""

    versions: ClassVar[tuple[str, ...]]

    def __init__(self, root: Path, info: dict[str, Any]) -> None:
        self.root, self.info = root, info
        self.tasks: dict[int, str] = self._read_tasks()
        self.episode_indices, self.lengths = self._read_episodes()
        if not len(self.lengths):
            raise DataError(f"{root}: the dataset has no episodes")
        self.episode_starts = np.concatenate(([0], np.cumsum(self.lengths)))
        self._cache: OrderedDict[tuple[int, tuple[str, ...]], Columns] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()

    @abstractmethod
    def _read_tasks(self) -> dict[int, str]:
        """task_index -> text."""

    @abstractmethod
    def _read_episodes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Index and length of every episode."""

    @abstractmethod
    def _read_episode(self, position: int, keys: Sequence[str]) -> Columns:
        """The columns of one episode."""

    @abstractmethod
    def data_file(self, position: int) -> Path:
        """The parquet file that holds an episode."""

    @abstractmethod
    def video(self, video_key: str, position: int) -> VideoSegment:
        """Where the video of one camera and episode lies."""

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return len(self.lengths)

    @property
    def num_frames(self) -> int:
        """Number of rows of all episodes."""
        return int(self.episode_starts[-1])

    @property
    def fps(self) -> float:
        """Frames a second."""
        return float(self.info["fps"])

    @property
    def video_keys(self) -> tuple[str, ...]:
        """Features stored as video."""
        return self._features_of("video")

    @property
    def image_keys(self) -> tuple[str, ...]:
        """Features stored as single images in the parquet files."""
        return self._features_of("image")

    def _features_of(self, dtype: str) -> tuple[str, ...]:
        features = self.info["features"]
        return tuple(key for key, feature in features.items() if feature["dtype"] == dtype)

    def check_features(self, keys: Sequence[str]) -> None:
        """Refuses the first key that the dataset lacks."""
        for key in keys:
            if key not in self.info["features"]:
                available = ", ".join(self.info["features"])
                raise DataError(f"{self.root}: no feature {key!r}. It has: {available}")

    def episode(self, position: int, keys: Sequence[str]) -> Columns:
        """Columns of one episode, (length,) or (length, dim); kept for the next time."""
        with self._lock:
            return self._episode(position, tuple(keys))

    def _episode(self, position: int, keys: tuple[str, ...]) -> Columns:
        key = (position, keys)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        columns = self._read_episode(position, keys)
        for name, values in columns.items():
            if len(values) != self.lengths[position]:
                raise DataError(
                    f"{self.data_file(position)}: episode {self.episode_indices[position]}, "
                    f"{name}: expected {self.lengths[position]} rows (the metadata), "
                    f"got {len(values)}"
                )
        self._cache[key] = columns
        self._cached_bytes += _num_bytes(columns)
        while self._cached_bytes > MAX_CACHED_BYTES and len(self._cache) > 1:
            self._cached_bytes -= _num_bytes(self._cache.popitem(last=False)[1])
        return columns

    def columns(self, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Whole columns, (frames,) or (frames, dim), in the order of the episodes."""
        self.check_features(keys)
        parts = [self._read_episode(i, keys) for i in range(self.num_episodes)]
        return {key: np.concatenate([part[key] for part in parts]) for key in keys}

    def locate(self, row: int) -> tuple[int, int]:
        """Episode position and frame within it of a row of the whole dataset."""
        position = int(np.searchsorted(self.episode_starts, row, side="right")) - 1
        return position, row - int(self.episode_starts[position])

    def __getstate__(self) -> dict[str, Any]:
        """A worker process starts with an empty cache."""
        return {**self.__dict__, "_cache": OrderedDict(), "_cached_bytes": 0, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = {**state, "_lock": threading.Lock()}


def _num_bytes(columns: Columns) -> int:
    return sum(values.nbytes for values in columns.values())


class LeRobotV2(LeRobotDataset):
    """One parquet file and one video a camera for every episode."""

    versions = ("v2.0", "v2.1")

    def _read_tasks(self) -> dict[int, str]:
        return {line["task_index"]: line["task"] for line in _json_lines(self.root, "tasks.jsonl")}

    def _read_episodes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        lines = _json_lines(self.root, "episodes.jsonl")
        pairs = [(line["episode_index"], line["length"]) for line in lines]
        index_and_length = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
        return index_and_length[:, 0], index_and_length[:, 1]

    def data_file(self, position: int) -> Path:
        """The episode's own file."""
        return self.root / self.info["data_path"].format(**self._place(position))

    def video(self, video_key: str, position: int) -> VideoSegment:
        """The episode's own video."""
        name = self.info["video_path"].format(video_key=video_key, **self._place(position))
        return VideoSegment(path=self.root / name)

    def _place(self, position: int) -> dict[str, int]:
        index = int(self.episode_indices[position])
        return {"episode_index": index, "episode_chunk": index // self.info["chunks_size"]}

    def _read_episode(self, position: int, keys: Sequence[str]) -> Columns:
        path = self.data_file(position)
        if not path.is_file():
            index = self.episode_indices[position]
            raise DataError(f"{path}: the parquet file of episode {index} is missing")
        return read_columns(path, keys)


class LeRobotV3(LeRobotDataset):
    """Many episodes a parquet file, many a video file."""

    versions = ("v3.0",)
    max_open_tables = 2

    def __init__(self, root: Path, info: dict[str, Any]) -> None:
        self._meta: dict[str, NDArray[Any]] = {}
        self._tables: OrderedDict[tuple[Path, tuple[str, ...]], Columns] = OrderedDict()
        super().__init__(root, info)

    def _read_tasks(self) -> dict[int, str]:
        path = self.root / "meta" / "tasks.parquet"
        table = _read_table(path)
        names = [name for name in table.schema.names if name != "task_index"]
        if "task_index" not in table.schema.names or not names:
            raise DataError(f"{path}: expected task_index and the task's text, got {names}")
        # The text is pandas' index: a nameless one in LeRobot 0.4, 'task' in 0.6.
        return dict(zip(table["task_index"].to_pylist(), table[names[0]].to_pylist(), strict=True))

    def _read_episodes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        folder = self.root / "meta" / "episodes"
        files = sorted(folder.glob("chunk-*/file-*.parquet"))
        if not files:
            raise DataError(f"{folder}: found no chunk-*/file-*.parquet")
        names = ["episode_index", "length", "data/chunk_index", "data/file_index"]
        names.append("dataset_from_index")
        for key in self.video_keys:
            parts = ("chunk_index", "file_index", "from_timestamp")
            names += [f"videos/{key}/{part}" for part in parts]
        columns = [read_columns(file, names) for file in files]
        meta = {name: np.concatenate([part[name] for part in columns]) for name in names}
        order = np.argsort(meta["episode_index"], kind="stable")
        self._meta = {name: values[order] for name, values in meta.items()}
        return self._meta["episode_index"], self._meta["length"]

    @cached_property
    def _first_rows(self) -> dict[Path, int]:
        """The dataset index at which each parquet file begins."""
        first: dict[Path, int] = {}
        for position, start in enumerate(self._meta["dataset_from_index"]):
            path = self.data_file(position)
            first[path] = min(first.get(path, int(start)), int(start))
        return first

    def data_file(self, position: int) -> Path:
        """The file that holds the episode, among others."""
        return self.root / self.info["data_path"].format(
            chunk_index=int(self._meta["data/chunk_index"][position]),
            file_index=int(self._meta["data/file_index"][position]),
        )

    def video(self, video_key: str, position: int) -> VideoSegment:
        """The joined video and the episode's start in it."""
        name = self.info["video_path"].format(
            video_key=video_key,
            chunk_index=int(self._meta[f"videos/{video_key}/chunk_index"][position]),
            file_index=int(self._meta[f"videos/{video_key}/file_index"][position]),
        )
        start_s = float(self._meta[f"videos/{video_key}/from_timestamp"][position])
        return VideoSegment(path=self.root / name, start_s=start_s)

    def _read_episode(self, position: int, keys: Sequence[str]) -> Columns:
        path = self.data_file(position)
        table = self._table(path, tuple(keys))
        start = int(self._meta["dataset_from_index"][position]) - self._first_rows[path]
        rows = slice(start, start + int(self.lengths[position]))
        return {key: values[rows] for key, values in table.items()}

    def _table(self, path: Path, keys: tuple[str, ...]) -> Columns:
        """A whole file's columns; the newest few stay."""
        if (path, keys) not in self._tables:
            if not path.is_file():
                raise DataError(f"{path}: the parquet file is missing")
            self._tables[path, keys] = read_columns(path, keys)
            while len(self._tables) > self.max_open_tables:
                self._tables.popitem(last=False)
        return self._tables[path, keys]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_tables": OrderedDict()}


LAYOUTS: tuple[type[LeRobotDataset], ...] = (LeRobotV2, LeRobotV3)


def open_lerobot(root: str | Path) -> LeRobotDataset:
    """Opens a dataset directory (or the local copy of a URL) of any known version.

    Raises:
        DataError: it is no dataset, of an unknown version, or its metadata is damaged.
    """
    folder = local_root(root)
    info = _read_info(folder)
    version = info.get("codebase_version")
    for layout in LAYOUTS:
        if version in layout.versions:
            return layout(folder, info)
    known = ", ".join(version for layout in LAYOUTS for version in layout.versions)
    raise DataError(
        f"{folder / 'meta' / 'info.json'}: expected codebase_version {known}, got {version}"
    )


def _read_info(root: Path) -> dict[str, Any]:
    path = root / "meta" / "info.json"
    if not path.is_file():
        raise DataError(f"{path}: not found. Is {str(root)!r} a LeRobot dataset?")
    try:
        info = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    absent = [key for key in REQUIRED_INFO if key not in info]
    if absent:
        raise DataError(f"{path}: the key {absent[0]!r} is missing")
    return info


def _json_lines(root: Path, name: str) -> list[dict[str, Any]]:
    path = root / "meta" / name
    if not path.is_file():
        raise DataError(f"{path}: not found")
    lines = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if line.strip():
            try:
                lines.append(json.loads(line))
            except ValueError as error:
                raise DataError(f"{path}:{number}: not JSON: {error}") from error
    return lines


def _read_table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as parquet ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
