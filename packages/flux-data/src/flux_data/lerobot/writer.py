"""Writes LeRobot datasets, v2.1 or v3.0, one episode at a time.

Everything is written to a hidden folder beside the dataset, which is renamed into place once it is
complete: after an interruption or on a full disk, nothing is left behind.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flux_core.errors import DataError

from ..parquet.arrow import to_array
from ..video.packets import packets_of
from .dataset import VideoSegment
from .episode_stats import column_stats, pooled, sampled_image_stats
from .metadata import Feature
from .new_folder import (
    check_new,
    disk_errors,
    missing_folders,
    partial_folder,
    real_place,
    remove_abandoned,
    remove_empty,
    sync,
)
from .stored_columns import (
    Features,
    fact_column,
    huggingface_schema,
    is_numeric,
    stored,
    write_text_table,
)
from .video_copy import JoinedVideo, copy_episode, encoding_of

logger = logging.getLogger("flux.data")

CHUNKS_SIZE = 1000
COUNTERS = ("frame_index", "episode_index", "index", "task_index")
"""The columns that number frames and tasks; the writer computes them."""

TaskRow = Mapping[str, object]
"""A row of the table of tasks: task_index, task, and whatever else a dataset says of it."""


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One episode to be written.

    Attributes:
        table: every feature except videos and counters, including `timestamp`.
        tasks: the text of each frame's task.
        task_index: each frame's task as the writer's own table numbers it; default: by the text.
        frame_index: each frame's number; default: 0, 1, 2. It has gaps where frames were removed.
        stated_tasks: the tasks that the metadata lists for the episode; default: those of frames.
        where: the file and the episode it was read from, for messages.
        videos: where each camera's video is.
        image_stats: statistics of the cameras; a video's are computed from its frames if absent.
        is_temporary: whether the writer may move the videos' files away.
        facts: anything else about the episode; stored beside its length.
    """

    table: pa.Table
    tasks: Sequence[str]
    task_index: NDArray[np.int64] | None = None
    frame_index: NDArray[np.int64] | None = None
    stated_tasks: Sequence[str] | None = None
    where: str = ""
    videos: Mapping[str, VideoSegment] = field(default_factory=dict)
    image_stats: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    is_temporary: bool = False
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Number of frames."""
        return self.table.num_rows


class DatasetWriter(ABC):
    """Writes one dataset. Use it in a `with`, which finishes it, or removes it after an error."""

    version: ClassVar[str]
    left_by_failure: ClassVar[str] = "Nothing was left behind"

    def __init__(
        self,
        root: Path,
        *,
        fps: float,
        robot_type: str | None,
        features: Features,
        more_info: Mapping[str, object] | None = None,
        tasks: Iterable[TaskRow] = (),
        more_schema: Mapping[str, object] | None = None,
    ) -> None:
        """Starts a dataset.

        Args:
            root: where it goes.
            fps: frames per second.
            robot_type: for info.json.
            features: its features; counters may be left out.
            more_info: further keys of info.json.
            tasks: the first rows of the table of tasks; others get the numbers after theirs.
            more_schema: how `datasets` describes features that are neither numbers nor pictures.

        Raises:
            UsageError: `root` exists and is not empty.
        """
        self.root, self.folder = self._places(root)
        self.fps, self.robot_type = fps, robot_type
        counter: Feature = {"dtype": "int64", "shape": [1], "names": None}
        timestamp: Feature = {"dtype": _time_type(features), "shape": [1], "names": None}
        own = {"timestamp": timestamp, **dict.fromkeys(COUNTERS, counter)}
        self.features: dict[str, Feature] = {
            **{key: Feature(**feature) for key, feature in features.items() if key not in own},
            **own,
        }
        self.task_rows: dict[int, TaskRow] = {
            int(cast(int, row["task_index"])): row for row in tasks
        }
        self._numbers: dict[str, int] = {}
        for index, row in self.task_rows.items():
            self._numbers.setdefault(str(row["task"]), index)
        self.episodes: list[dict[str, Any]] = []
        self.stats: list[dict[str, Any]] = []
        self._more_info, self._more_schema = dict(more_info or {}), dict(more_schema or {})
        self._fact_names: set[str] = set()
        self._missing: list[Path] = []
        self._silent: set[str] = set()
        self._num_frames = 0

    def _places(self, root: Path) -> tuple[Path, Path]:
        """Returns where the dataset goes, and the folder that it is written to until then."""
        check_new(root)
        return real_place(root), partial_folder(real_place(root))

    def staging(self, name: str) -> Path:
        """Returns a folder for files that may become part of the dataset."""
        return self.folder / "staging" / name

    def keep(self, path: Path, name: str) -> None:
        """Copies a file that belongs to no episode to `name` below the dataset."""
        with disk_errors(self.root):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, self.folder / name)

    def make(self, name: str, write: Callable[[Path], object]) -> None:
        """Lets `write` make a file that belongs to no episode at `name` below the dataset."""
        with disk_errors(self.root):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            write(self.folder / name)

    def add(self, episode: Episode) -> None:
        """Appends an episode.

        Raises:
            DataError: its features differ from the dataset's, or it cannot be written.
        """
        self._check(episode)
        with disk_errors(self.root, self.left_by_failure):
            table = self._numbered(episode)
            stats = self._stats_of(episode, table)
            line = {
                "episode_index": len(self.episodes),
                "tasks": list(episode.stated_tasks or dict.fromkeys(episode.tasks)),
                "length": episode.length,
                **episode.facts,
            }
            self._write_episode(episode, table, line)
        self.episodes.append(line)
        self.stats.append(stats)
        self._fact_names |= set(episode.facts)
        self._num_frames += episode.length

    @abstractmethod
    def _write_episode(self, episode: Episode, table: pa.Table, line: dict[str, Any]) -> None:
        """Writes rows and videos; may extend the episode's line of metadata."""

    def _open_files(self) -> Sequence[_OpenFile]:
        """Finishes the files that are still open."""
        return ()

    @abstractmethod
    def _write_metadata(self) -> None:
        """Writes all of `meta/` except info.json."""

    @abstractmethod
    def _own_info(self) -> dict[str, Any]:
        """Returns the keys that only this version's info.json has."""

    def __enter__(self) -> DatasetWriter:
        try:
            with disk_errors(self.root):
                self._missing = missing_folders(self.root.parent)
                self.root.parent.mkdir(parents=True, exist_ok=True)
                remove_abandoned(self.root)
                shutil.rmtree(self.folder, ignore_errors=True)
                (self.folder / "meta").mkdir(parents=True)
        except BaseException:
            self._remove()
            raise
        return self

    def _remove(self) -> None:
        """Removes what does not belong to a finished dataset."""
        shutil.rmtree(self.folder, ignore_errors=True)
        remove_empty(self._missing)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            if error is None:
                with disk_errors(self.root):
                    self._finish()
        finally:
            for file in self._open_files():
                with contextlib.suppress(OSError, pa.ArrowException, DataError):
                    file.close()
            self._remove()

    def _finish(self) -> None:
        if not self.episodes:
            raise DataError(f"{self.root}: expected at least one episode, got none")
        shutil.rmtree(self.folder / "staging", ignore_errors=True)
        for file in self._open_files():
            file.close()
        self._write_metadata()
        write_json(self.folder / "meta" / "info.json", self._info())
        for path in self.folder.rglob("*"):
            sync(path)
        if self.root.is_dir():
            self.root.rmdir()  # it is empty
        os.replace(self.folder, self.root)
        sync(self.root.parent)

    def _info(self) -> dict[str, Any]:
        count = len(self.episodes)
        return {
            "codebase_version": self.version,
            "robot_type": self.robot_type,
            "total_episodes": count,
            "total_frames": self._num_frames,
            "total_tasks": len(self.task_rows),
            **self._own_info(),
            "chunks_size": CHUNKS_SIZE,
            "fps": int(self.fps) if float(self.fps).is_integer() else self.fps,
            "splits": {"train": f"0:{count}"},
            "data_path": self.data_path,
            "video_path": self.video_path if self.video_keys else None,
            "features": self.features,
            **self._more_info,
        }

    @property
    def tasks(self) -> Mapping[str, int]:
        """The number of each task."""
        return self._numbers

    data_path: ClassVar[str]
    video_path: ClassVar[str]

    @property
    def video_keys(self) -> tuple[str, ...]:
        """Features stored as video."""
        return tuple(k for k, feature in self.features.items() if feature["dtype"] == "video")

    def _check(self, episode: Episode) -> None:
        wanted = [k for k in self.features if k not in COUNTERS and k not in self.video_keys]
        if not episode.length or len(episode.tasks) != episode.length:
            raise DataError(
                f"episode {len(self.episodes)}: expected frames, each with a task, got "
                f"{episode.length} and {len(episode.tasks)} tasks"
            )
        for kind, expected, found in (
            ("columns", set(wanted), set(episode.table.column_names)),
            ("videos", set(self.video_keys), set(episode.videos)),
        ):
            if expected != found:
                raise DataError(
                    f"episode {len(self.episodes)}: expected the {kind} {sorted(expected)}, got "
                    f"{sorted(found)}"
                )

    def _tell_of_sound(self, key: str, segment: VideoSegment) -> None:
        """Warns once per camera that a file's sound is not copied with its pictures."""
        if key not in self._silent and packets_of(segment.path).num_sound_tracks:
            self._silent.add(key)
            logger.warning("%s: the sound of %s is not copied", segment.path, key)

    def _numbered(self, episode: Episode) -> pa.Table:
        """Returns the episode's rows with their counters, in the order of the features."""
        frames = np.arange(episode.length, dtype=np.int64)
        counters = {
            "frame_index": frames if episode.frame_index is None else episode.frame_index,
            "episode_index": np.full_like(frames, len(self.episodes)),
            "index": frames + self._num_frames,
            "task_index": self._task_index(episode),
        }
        columns: dict[str, Any] = {}
        for key, feature in self.features.items():
            if feature["dtype"] == "video":
                continue
            if key in counters:
                columns[key] = pa.array(counters[key])
            else:
                where = f"{self._where(episode)}, {key}"
                fps = self.fps if key == "timestamp" else None
                columns[key] = stored(episode.table.column(key), feature, where, fps=fps)
        table = pa.table(columns)
        schema = huggingface_schema(self.features, table.schema, self._more_schema)
        return table.replace_schema_metadata(schema)

    def _task_index(self, episode: Episode) -> NDArray[np.int64]:
        """Returns the number of each frame's task, and adds tasks that are new."""
        if episode.task_index is not None:
            return np.asarray(episode.task_index, np.int64)
        for task in episode.tasks:
            if task not in self._numbers:
                self._numbers[task] = index = max(self.task_rows, default=-1) + 1
                self.task_rows[index] = {"task_index": index, "task": task}
        return np.asarray([self._numbers[task] for task in episode.tasks], dtype=np.int64)

    def _where(self, episode: Episode) -> str:
        return episode.where or f"episode {len(self.episodes)}"

    def _stats_of(self, episode: Episode, table: pa.Table) -> dict[str, Any]:
        stats: dict[str, Any] = {}
        for key, feature in self.features.items():
            if feature["dtype"] in ("video", "image"):
                if key in episode.image_stats:
                    stats[key] = dict(episode.image_stats[key])
                elif key in episode.videos:
                    channels = 1 if min(feature["shape"][0], feature["shape"][2]) == 1 else 3
                    stats[key] = sampled_image_stats(
                        episode.videos[key], _times_s(table), self.fps, channels
                    )
            elif is_numeric(feature):
                values = to_array(table.column(key), key)
                stats[key] = column_stats(values, quantiles=self.version == "v3.0")
        return stats


class WriterV21(DatasetWriter):
    """Writes one parquet file per episode, and one video per episode and camera."""

    version = "v2.1"
    data_path = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    video_path = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"

    def _write_episode(self, episode: Episode, table: pa.Table, line: dict[str, Any]) -> None:
        index = len(self.episodes)
        place = {"episode_chunk": index // CHUNKS_SIZE, "episode_index": index}
        path = self.folder / self.data_path.format(**place)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, compression="snappy")
        for key in self.video_keys:
            video = self.folder / self.video_path.format(video_key=key, **place)
            if episode.is_temporary:
                video.parent.mkdir(parents=True, exist_ok=True)
                os.replace(episode.videos[key].path, video)
            else:
                where = f"episode {index}, {key}"
                segment = episode.videos[key]
                if not copy_episode(segment, _times_s(table), self.fps, video, where):
                    self._tell_of_sound(key, segment)

    def _write_metadata(self) -> None:
        meta = self.folder / "meta"
        stats = [{"episode_index": i, "stats": stats} for i, stats in enumerate(self.stats)]
        for name, lines in (
            ("tasks", list(self.task_rows.values())),
            ("episodes", self.episodes),
            ("episodes_stats", stats),
        ):
            text = "".join(
                json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in lines
            )
            if name != "tasks" or not (meta / "tasks.jsonl").exists():  # a kept one says the same
                (meta / f"{name}.jsonl").write_text(text, encoding="utf-8")

    def _own_info(self) -> dict[str, Any]:
        count = len(self.episodes)
        return {
            "total_videos": count * len(self.video_keys),
            "total_chunks": -(-count // CHUNKS_SIZE),
        }


@dataclass
class _OpenFile:
    """The number of the file to which episodes are being appended."""

    number: int = -1
    writer: Any = None
    num_bytes: int = 0

    @property
    def place(self) -> dict[str, int]:
        """Its chunk, and its number in the chunk."""
        return {
            "chunk_index": self.number // CHUNKS_SIZE,
            "file_index": self.number % CHUNKS_SIZE,
        }

    def close(self) -> None:
        """Finishes the file."""
        writer, self.writer = self.writer, None
        if writer is not None:
            writer.close()


class WriterV30(DatasetWriter):
    """Writes many episodes per parquet file and per video file."""

    version = "v3.0"
    data_path = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    video_path = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    episodes_path = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    max_data_bytes = 100_000_000
    max_video_bytes = 200_000_000
    max_episode_lines = 5000

    def __init__(self, root: Path, **settings: Any) -> None:
        super().__init__(root, **settings)
        self._data = _OpenFile()
        self._videos = {key: _OpenFile() for key in self.video_keys}
        self._joined: list[JoinedVideo] = []
        self._columns: dict[str, list[NDArray[Any]]] = {}

    def _write_episode(self, episode: Episode, table: pa.Table, line: dict[str, Any]) -> None:
        line |= {
            "dataset_from_index": self._num_frames,
            "dataset_to_index": self._num_frames + episode.length,
        }
        line |= {f"data/{name}": value for name, value in self._write_rows(table).items()}
        for key, segment in episode.videos.items():
            where = f"episode {len(self.episodes)}, {key}"
            found = self._write_video(key, segment, _times_s(table), where)
            if episode.is_temporary:
                segment.path.unlink()
            line |= {f"videos/{key}/{name}": value for name, value in found.items()}
        for key, feature in self.features.items():
            if is_numeric(feature):
                values = to_array(table.column(key), key)
                self._columns.setdefault(key, []).append(values)

    def _write_rows(self, table: pa.Table) -> dict[str, int]:
        file = self._data
        if file.writer is None or file.num_bytes + table.nbytes > self.max_data_bytes:
            file.close()
            self._data = file = _OpenFile(number=file.number + 1)
            path = self.folder / self.data_path.format(**file.place)
            path.parent.mkdir(parents=True, exist_ok=True)
            file.writer = pq.ParquetWriter(path, table.schema, compression="snappy")
        # Sources store the same feature in different types: text as string or large_string.
        file.writer.write_table(table.cast(file.writer.schema))
        file.num_bytes += table.nbytes
        return file.place

    def _write_video(
        self, key: str, segment: VideoSegment, rows_s: NDArray[np.float64], where: str
    ) -> dict[str, Any]:
        self._tell_of_sound(key, segment)
        file, encoding = self._videos[key], encoding_of(segment.path)
        size = segment.path.stat().st_size
        is_full = file.num_bytes + size > self.max_video_bytes
        if file.writer is None or is_full or file.writer.encoding != encoding:
            file.close()
            self._videos[key] = file = _OpenFile(number=file.number + 1)
            path = self.folder / self.video_path.format(video_key=key, **file.place)
            file.writer = JoinedVideo(path, segment.path)
            self._joined.append(file.writer)
        start_s = file.writer.append(segment, rows_s, self.fps, where)
        # An upper bound: the size of the whole source, of which only one episode is copied.
        file.num_bytes += size if segment.start_s == 0 else 0
        return {**file.place, "from_timestamp": start_s, "to_timestamp": file.writer.duration_s}

    def _open_files(self) -> Sequence[_OpenFile]:
        return (self._data, *self._videos.values())

    def _write_metadata(self) -> None:
        for video in self._joined:
            video.check()
        tasks = self.folder / "meta" / "tasks.parquet"
        if not tasks.exists():  # a kept one says the same, and maybe more
            write_text_table(tasks, "task", list(self.task_rows.values()))
        write_json(self.folder / "meta" / "stats.json", self._dataset_stats())
        self._write_episode_lines()

    def _write_episode_lines(self) -> None:
        rows = [
            line | {f"stats/{k}/{name}": v for k, s in stats.items() for name, v in s.items()}
            for line, stats in zip(self.episodes, self.stats, strict=True)
        ]
        columns = {
            key: [row.get(key) for row in rows]
            for key in dict.fromkeys(key for row in (*self.episodes, *rows) for key in row)
        }
        table = pa.table(
            {
                key: fact_column(values) if key in self._fact_names else _number_column(values)
                for key, values in columns.items()
            }
        )
        for number, first in enumerate(range(0, len(rows), self.max_episode_lines)):
            place = _OpenFile(number=number).place
            part = table.slice(first, self.max_episode_lines)
            for name, value in place.items():
                column = pa.array([value] * len(part))
                part = part.append_column(f"meta/episodes/{name}", column)
            path = self.folder / self.episodes_path.format(**place)
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(part, path)

    def _dataset_stats(self) -> dict[str, Any]:
        """Computes exact statistics of numbers; combines those of the cameras' episodes.

        LeRobot averages the episodes' quantiles, which can leave half of the values outside.
        """
        stats: dict[str, Any] = {}
        for key in self.features:
            if key in self._columns:
                stats[key] = column_stats(np.concatenate(self._columns[key]), quantiles=True)
            elif all(key in episode for episode in self.stats):
                stats[key] = pooled([episode[key] for episode in self.stats])
        return stats

    def _own_info(self) -> dict[str, Any]:
        return {
            "data_files_size_in_mb": self.max_data_bytes // 1_000_000,
            "video_files_size_in_mb": self.max_video_bytes // 1_000_000,
        }


WRITERS: dict[str, type[DatasetWriter]] = {
    writer.version: writer for writer in (WriterV21, WriterV30)
}


def _number_column(values: Sequence[Any]) -> pa.Array:
    """Makes a column of numbers, texts or lists of them; whole ones may need 64 bits."""
    try:
        return pa.array(values)
    except OverflowError:  # arrow takes whole numbers for int64
        return pa.array(values, pa.list_(pa.uint64()))


def write_json(path: Path, value: object) -> None:
    """Writes JSON as LeRobot indents it."""
    path.write_text(json.dumps(value, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def _time_type(features: Features) -> str:
    """Returns the dtype of times: LeRobot's, or a wider one if the source declares it."""
    declared = features.get("timestamp", {}).get("dtype")
    return "float64" if declared == "float64" else "float32"


def _times_s(table: pa.Table) -> NDArray[np.float64]:
    """Returns the rows' times as they are stored, (frames,)."""
    return to_array(table.column("timestamp"), "timestamp").ravel().astype(np.float64)
