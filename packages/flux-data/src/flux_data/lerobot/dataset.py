"""A LeRobot dataset on disk, v2.0, v2.1 or v3.0: its metadata, numeric columns and videos.

Opening reads only metadata. Columns are read on demand, one episode at a time, and kept as arrays;
no dictionaries are made for single rows.
"""

from __future__ import annotations

import logging
import re
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError

from ..parquet.arrow import footer_of, read_columns, read_present
from ..parquet.image_rows import ImageRows
from ..parquet.row_groups import RowGroups, num_bytes
from ..repairable import hint, naming_repair
from .episode_rows import RowSpan, SharedFiles, numbering_of, rows_of_own_file
from .locations import local_root
from .metadata import (
    NO_NUMBERS,
    check_info,
    is_depth_map,
    json_rows,
    order_of_episodes,
    read_info,
    read_table,
    table_rows,
    text_rows,
    texts_of,
)
from .state_action import check_known

logger = logging.getLogger("flux.data")

MAX_CACHED_BYTES = 512 << 20

Columns = Mapping[str, NDArray[np.generic]]
EpisodeKey = tuple[int, tuple[str, ...]]
"""An episode's position and the names of its columns."""


@dataclass(frozen=True, kw_only=True)
class VideoSegment:
    """The file that holds one camera's video of an episode, and the time at which it begins."""

    path: Path
    start_s: float = 0.0


class LeRobotDataset(ABC):
    """One dataset directory; an episode's position is 0 .. num_episodes - 1."""

    versions: ClassVar[tuple[str, ...]]
    places: ClassVar[dict[str, object]]
    """An example value for each name in the path templates of `info.json`."""

    def __init__(self, root: Path, info: Mapping[str, object]) -> None:
        self.root = root
        self.info = check_info(root / "meta" / "info.json", info, self.places)
        self.tasks: dict[int, str] = self._read_tasks()
        self.episode_indices, self.lengths = self._read_episodes()
        if not len(self.lengths):
            raise DataError(f"{root}: expected at least one episode, got none")
        self.episode_starts = np.concatenate(([0], np.cumsum(self.lengths)))
        self._cache: OrderedDict[EpisodeKey, Columns] = OrderedDict()
        self._good: set[EpisodeKey] = set()
        self._rows_of: dict[int, tuple[RowSpan, ...] | str] = {}
        self._cached_bytes = 0
        self._groups, self._images = RowGroups(), ImageRows(self.image_bytes)
        self._lock = threading.Lock()

    @abstractmethod
    def _read_tasks(self) -> dict[int, str]:
        """Returns task_index -> text."""

    @abstractmethod
    def _read_episodes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns the index and the length of every episode."""

    @abstractmethod
    def _find_rows(self, position: int) -> tuple[RowSpan, ...]:
        """Returns where an episode's rows are."""

    @abstractmethod
    def stated_rows(self, position: int) -> RowSpan | None:
        """Returns where the metadata says that an episode's rows are; None for a whole file."""

    @abstractmethod
    def stated_file(self, position: int) -> Path:
        """Returns the parquet file that the metadata names for an episode."""

    @abstractmethod
    def data_spans(self, position: int) -> tuple[RowSpan, ...]:
        """Returns what `rows` does, or what the metadata says if that is refused."""

    def data_file(self, position: int) -> Path:
        """Returns the parquet file that holds an episode, or its first rows."""
        return self.data_spans(position)[0].path

    def data_files(self) -> list[Path]:
        """Returns all data files, in the order of the episodes."""
        spans = (self.data_spans(position) for position in range(self.num_episodes))
        return list(dict.fromkeys(span.path for each in spans for span in each))

    @abstractmethod
    def video(self, video_key: str, position: int) -> VideoSegment:
        """Returns where one camera's video of an episode is."""

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
        """Frames per second."""
        return float(self.info["fps"])

    @property
    def video_keys(self) -> tuple[str, ...]:
        """Features stored as video."""
        return self._features_of("video")

    @property
    def image_keys(self) -> tuple[str, ...]:
        """Features stored as single images in the parquet files, except depth maps."""
        return tuple(key for key in self._features_of("image") if key not in self.depth_keys)

    @property
    def camera_keys(self) -> tuple[str, ...]:
        """Cameras with colours: videos, then single images."""
        videos = [key for key in self.video_keys if key not in self.depth_keys]
        return (*videos, *self.image_keys)

    @property
    def depth_keys(self) -> tuple[str, ...]:
        """Depth maps, as videos or as single images."""
        features = self.info["features"]
        return tuple(key for key, feature in features.items() if is_depth_map(feature))

    def _features_of(self, dtype: str) -> tuple[str, ...]:
        features = self.info["features"]
        return tuple(key for key, feature in features.items() if feature["dtype"] == dtype)

    def check_features(self, keys: Sequence[str]) -> None:
        """Refuses the first key that the dataset lacks."""
        check_known(self.info["features"], keys, str(self.root))

    def check_count(self) -> None:
        """Refuses a dataset that lists fewer episodes than it counts, as a killed recorder leaves.

        If the files of further episodes are there, the list was shortened, and a warning says so.

        Raises:
            DataError: info.json counts more episodes than the metadata lists and the files hold.
        """
        said = self.info.get("total_episodes", 0)
        if not isinstance(said, int) or said <= self.num_episodes:
            return
        message = (
            f"{self.root / 'meta' / 'info.json'}: total_episodes: expected {self.num_episodes}, as "
            f"listed, got {said}"
        )
        if not self._has_more_files():
            raise DataError(f"{message}. {hint(self.root)}")
        logger.warning("%s. The files of the other episodes are there, but not read", message)

    def _has_more_files(self) -> bool:
        """Whether there are files of the first episode that is not listed."""
        return False

    def episode(self, position: int, keys: Sequence[str]) -> Columns:
        """Returns columns of one episode, (length,) or (length, dim), and caches them.

        Raises:
            DataError: a file cannot be read, a value is missing or not finite, times do not
                ascend, or the number of rows or dimensions differs from the metadata's.
        """
        key = (position, tuple(keys))
        with self._lock, naming_repair(self.root):
            columns = self._kept(key)
            if key not in self._good:
                self._check(position, columns)
                self._good.add(key)
        return columns

    def read_episode(self, position: int, keys: Sequence[str]) -> Columns:
        """Like `episode`, but without checking the values: for code that shows faults."""
        with self._lock:
            return self._kept((position, tuple(keys)))

    def rows(self, position: int) -> tuple[RowSpan, ...]:
        """Returns where an episode's rows are; several spans only if it is split over files.

        Raises:
            DataError: a file cannot be read, or its rows are not those of the episode.
        """
        if position not in self._rows_of:
            try:
                self._rows_of[position] = self._find_rows(position)
            except DataError as error:
                self._rows_of[position] = str(error)
        found = self._rows_of[position]
        if isinstance(found, str):
            raise DataError(found)
        return found

    def read_stated(self, position: int, keys: Sequence[str]) -> Columns:
        """Returns the rows that the metadata names, whatever episode they say they belong to.

        For code that looks for faults: anything else must use `episode` or `read_episode`.

        Raises:
            DataError: the file cannot be read, or the number of rows differs from the metadata's.
        """
        path, span = self._existing(position), self.stated_rows(position)
        rows = slice(0, int(footer_of(path).starts[-1])) if span is None else span.rows
        columns = self._groups.read(path, tuple(keys), rows)
        for name, values in columns.items():
            self._check_length(position, name, values)
        return columns

    def _kept(self, key: EpisodeKey) -> Columns:
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        latest = next(reversed(self._cache), (-1, ()))
        if latest[0] == key[0] and set(key[1]) <= set(latest[1]):
            return {name: self._cache[latest][name] for name in key[1]}
        columns = self._cache[key] = self._rows(*key)
        self._cached_bytes += num_bytes(columns)
        while self._cached_bytes > MAX_CACHED_BYTES and len(self._cache) > 1:
            oldest, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= num_bytes(dropped)
            self._good.discard(oldest)
        return columns

    def _rows(self, position: int, keys: Sequence[str]) -> Columns:
        spans = self.rows(position)
        parts = [self._groups.read(span.path, tuple(keys), span.rows) for span in spans]
        columns = parts[0]
        if len(parts) > 1:
            columns = {key: np.concatenate([part[key] for part in parts]) for key in columns}
        for name, values in columns.items():
            self._check_length(position, name, values)
        return columns

    def encoded_image(self, position: int, key: str, frame: int) -> bytes | str | None:
        """Returns one stored image: its encoded bytes, or the path of its file below `root`.

        Reads no more of the file than the row group that holds the image.

        Raises:
            DataError: the file cannot be read, or lacks the column or the rows.
        """
        for span in self.rows(position):
            if frame < span.length:
                return self._images.read(span.path, key, span.first + frame)
            frame -= span.length
        raise DataError(f"{self.where(position)}: expected frame {frame}, got no such row")

    def image_bytes(self) -> int:
        """Estimates the encoded size of all stored images, from the first data file."""
        footer = footer_of(self.stated_file(0))
        files = len({self.stated_file(position) for position in range(self.num_episodes)})
        return int(footer.group_bytes(self.image_keys).sum()) * files

    def _check_length(self, position: int, name: str, values: NDArray[np.generic]) -> None:
        if len(values) != self.lengths[position]:
            raise DataError(
                f"{self.where(position)}, {name}: expected {self.lengths[position]} rows (the "
                f"metadata), got {len(values)}"
            )

    def _existing(self, position: int) -> Path:
        """Returns the file that the metadata names, or refuses that it is missing."""
        path = self.stated_file(position)
        if not path.is_file():
            index = self.episode_indices[position]
            raise DataError(f"{path}: the parquet file of episode {index} is missing")
        return path

    def _check(self, position: int, columns: Columns) -> None:
        for name, values in columns.items():
            check_values(values, self.info["features"].get(name), f"{self.where(position)}, {name}")
        if "timestamp" in columns:
            check_ascending(columns["timestamp"], f"{self.where(position)}, timestamp")

    def where(self, position: int) -> str:
        """Returns the file and the episode, for messages."""
        return f"{self.data_file(position)}: episode {self.episode_indices[position]}"

    def columns(self, keys: Sequence[str]) -> dict[str, NDArray[np.generic]]:
        """Returns whole columns, (frames,) or (frames, dim), in the order of the episodes.

        Raises:
            DataError: as `episode`.
        """
        parts = list(self.episodes(keys))
        return {key: np.concatenate([part[key] for part in parts]) for key in keys}

    def episodes(self, keys: Sequence[str]) -> Iterator[Columns]:
        """Yields the columns of each episode in turn, without caching them.

        Raises:
            DataError: as `episode`.
        """
        self.check_features(keys)
        for position in range(self.num_episodes):
            with self._lock, naming_repair(self.root):
                columns = self._rows(position, keys)
                self._check(position, columns)
            yield columns

    def locate(self, row: int) -> tuple[int, int]:
        """Returns the episode position and the frame of a row of the whole dataset."""
        position = int(np.searchsorted(self.episode_starts, row, side="right")) - 1
        return position, row - int(self.episode_starts[position])

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the cache out: a worker process starts with an empty one."""
        empty = {"_cache": OrderedDict(), "_good": set(), "_cached_bytes": 0, "_lock": None}
        empty |= {"_groups": None, "_images": None}
        return {**self.__dict__, **empty}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())
        self._groups, self._images = RowGroups(), ImageRows(self.image_bytes)


def check_values(values: NDArray[Any], feature: Mapping[str, Any] | None, where: str) -> None:
    """Refuses a column whose dimensions differ from `feature`, or the first bad value.

    Images and texts are checked where they are used.
    """
    if feature is None or feature["dtype"] in NO_NUMBERS:
        return
    if not np.issubdtype(values.dtype, np.number) and values.dtype != np.bool_:
        raise DataError(f"{where}: expected {feature['dtype']}, got {type(values[0]).__name__}")
    expected, dims = int(np.prod(feature["shape"])), int(np.prod(values.shape[1:]))
    if dims != expected:
        raise DataError(f"{where}: expected {expected} dimensions (info.json), got {dims}")
    for place in np.argwhere(~np.isfinite(values))[:1]:
        raise DataError(
            f"{where}: frame {place[0]}: expected a finite value, got {values[tuple(place)]}"
        )


def check_ascending(times: NDArray[Any], where: str) -> None:
    """Refuses the first time that is not later than the one before."""
    for frame in np.flatnonzero(np.diff(times.ravel()) <= 0)[:1]:
        raise DataError(
            f"{where}: frame {frame + 1}: expected a later time than that of frame {frame}"
        )


class LeRobotV2(LeRobotDataset):
    """Stores one parquet file per episode, and one video per episode and camera."""

    versions = ("v2.0", "v2.1")
    places: ClassVar = {"episode_chunk": 0, "episode_index": 0, "video_key": "key"}

    def _read_tasks(self) -> dict[int, str]:
        return texts_of(json_rows(self.root, "tasks.jsonl"), "task")

    def _read_episodes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rows = json_rows(self.root, "episodes.jsonl")
        order = order_of_episodes(rows)
        lengths = np.asarray([row["length"] for _, row in rows], dtype=np.int64)
        return np.arange(len(order)), lengths[order]

    def stated_file(self, position: int) -> Path:
        """Returns the episode's own file."""
        return self.root / self.info["data_path"].format(**self._place(position))

    def data_spans(self, position: int) -> tuple[RowSpan, ...]:
        """Returns the episode's own file, which is not opened for that."""
        path, length = self.stated_file(position), int(self.lengths[position])
        return (RowSpan(path=path, first=0, length=length),)

    def _has_more_files(self) -> bool:
        place = self._place_of(self.num_episodes)
        return (self.root / self.info["data_path"].format(**place)).is_file()

    def stated_rows(self, position: int) -> None:
        """Returns None: all rows of the file."""

    def _find_rows(self, position: int) -> tuple[RowSpan, ...]:
        path = self._existing(position)
        _, columns = read_present(path, numbering_of(path))
        return (self._own_rows(position, path, columns),)

    def _own_rows(self, position: int, path: Path, columns: Columns) -> RowSpan:
        index, length = int(self.episode_indices[position]), int(self.lengths[position])
        return rows_of_own_file(path, index, length, self.fps, columns)

    def _rows(self, position: int, keys: Sequence[str]) -> Columns:
        if position in self._rows_of:
            return super()._rows(position, keys)
        path = self._existing(position)  # opened once for the rows and for what numbers them
        numbering = numbering_of(path)
        num_rows = int(footer_of(path).starts[-1])
        wanted = tuple(dict.fromkeys((*keys, *numbering)))
        columns = self._groups.read(path, wanted, slice(0, num_rows))
        own = {key: columns[key] for key in numbering}
        self._rows_of[position] = (self._own_rows(position, path, own),)
        return {key: columns[key] for key in keys}

    def video(self, video_key: str, position: int) -> VideoSegment:
        """Returns the episode's own video."""
        name = self.info["video_path"].format(video_key=video_key, **self._place(position))
        return VideoSegment(path=self.root / name)

    def _place(self, position: int) -> dict[str, int]:
        return self._place_of(int(self.episode_indices[position]))

    def _place_of(self, index: int) -> dict[str, int]:
        return {"episode_index": index, "episode_chunk": index // self.info["chunks_size"]}


class LeRobotV3(LeRobotDataset):
    """Stores many episodes per parquet file and per video file."""

    versions = ("v3.0",)
    places: ClassVar = {"chunk_index": 0, "file_index": 0, "video_key": "key"}

    def __init__(self, root: Path, info: Mapping[str, object]) -> None:
        self._meta: dict[str, NDArray[Any]] = {}
        super().__init__(root, info)

    def _read_tasks(self) -> dict[int, str]:
        path = self.root / "meta" / "tasks.parquet"
        return texts_of(text_rows(path, read_table(path), "task"), "task")

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
        for file, part in zip(files, columns, strict=True):
            _check_places(file, part)
        rows = [
            row
            for file, part in zip(files, columns, strict=True)
            for row in table_rows(file, {key: part[key] for key in ("episode_index", "length")})
        ]
        order = order_of_episodes(rows)
        meta = {name: np.concatenate([part[name] for part in columns]) for name in names}
        self._meta = {name: values[order] for name, values in meta.items()}
        return self._meta["episode_index"], self._meta["length"]

    @cached_property
    def _files(self) -> SharedFiles:
        return SharedFiles(
            root=self.root,
            pattern=re.sub(r"\{[^}]*\}", "*", self.info["data_path"]),
            fps=self.fps,
            episodes=self.episode_indices,
            lengths=self.lengths,
            from_index=self._meta["dataset_from_index"],
            stated_file=self.stated_file,
        )

    def _find_rows(self, position: int) -> tuple[RowSpan, ...]:
        return self._files.find(position)

    def stated_rows(self, position: int) -> RowSpan:
        """Returns the rows that `dataset_from_index` and `data/file_index` name."""
        return self._files.stated(position)

    def data_spans(self, position: int) -> tuple[RowSpan, ...]:
        """Returns the episode's rows, also if the file that the metadata names is stale."""
        try:
            return self.rows(position)
        except DataError:  # told when the rows are read
            return (self.stated_rows(position),)

    def stated_file(self, position: int) -> Path:
        """Returns the file that the metadata names for this episode and others."""
        return self.root / self.info["data_path"].format(
            chunk_index=int(self._meta["data/chunk_index"][position]),
            file_index=int(self._meta["data/file_index"][position]),
        )

    def video(self, video_key: str, position: int) -> VideoSegment:
        """Returns the joined video and the episode's start in it."""
        name = self.info["video_path"].format(
            video_key=video_key,
            chunk_index=int(self._meta[f"videos/{video_key}/chunk_index"][position]),
            file_index=int(self._meta[f"videos/{video_key}/file_index"][position]),
        )
        start_s = float(self._meta[f"videos/{video_key}/from_timestamp"][position])
        return VideoSegment(path=self.root / name, start_s=start_s)


def _check_places(path: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    """Refuses the first missing or negative number among those that locate an episode."""
    for name, values in columns.items():
        is_time = name.endswith("from_timestamp")
        if not np.issubdtype(values.dtype, np.number) or (
            not is_time and values.dtype.kind not in "iu" and np.isfinite(values).all()
        ):
            raise DataError(f"{path}: {name}: expected whole numbers, got {values.dtype}")
        for row in np.flatnonzero(~(np.isfinite(values) & (values >= 0)))[:1]:
            raise DataError(f"{path}: row {row}: {name}: expected 0 or more, got {values[row]}")


LAYOUTS: tuple[type[LeRobotDataset], ...] = (LeRobotV2, LeRobotV3)


def open_lerobot(root: str | Path) -> LeRobotDataset:
    """Opens a dataset directory (or the local copy of a URL) of any known version.

    Raises:
        DataError: it is not a dataset, its version is unknown, or its metadata is damaged.
    """
    folder = local_root(root)
    info = read_info(folder)
    version = info.get("codebase_version")
    for layout in LAYOUTS:
        if version in layout.versions:
            with naming_repair(folder):
                return layout(folder, info)
    known = ", ".join(version for layout in LAYOUTS for version in layout.versions)
    raise DataError(
        f"{folder / 'meta' / 'info.json'}: expected codebase_version {known}, got {version}"
    )
