"""A dataset that grows by one episode at a time and is whole after each.

An episode has files of its own. They are complete and on the disk before the metadata names them,
and every file of the metadata is replaced as a whole, `info.json` last. Whatever ends the process
thus costs no episode but the one being recorded.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flux_core.errors import UsageError

from ..lerobot.metadata import is_depth_map
from ..lerobot.new_folder import disk_errors, missing_folders, real_place, remove_empty, sync
from ..lerobot.stored_columns import Features, is_numeric
from ..lerobot.writer import (
    CHUNKS_SIZE,
    DatasetWriter,
    Episode,
    WriterV21,
    WriterV30,
    write_json,
)
from ..parquet.arrow import to_array
from .recorded import Recorded, files_of, read_recorded

WORK_FOLDER = ".recording"
"""Holds the files of the running episode, and those of the metadata until they are complete."""


class GrowingDataset(DatasetWriter):
    """Appends episodes to a new dataset, or to one that it has written before.

    Use it in a `with`: it holds a lock on the folder. `add` returns once the episode is on the disk
    and named by the metadata.
    """

    left_by_failure = "The episodes before it are kept"

    def __init__(
        self, root: Path, *, fps: float, robot_type: str | None, features: Features
    ) -> None:
        """Changes nothing; entering the `with` reads what the folder already holds.

        Raises:
            UsageError: the folder is a file; in the `with`, it holds a dataset of another robot,
                rate or version or with other features, or something else.
            DataError: in the `with`, what it holds is damaged.
        """
        super().__init__(root, fps=fps, robot_type=robot_type, features=features)
        self._lock: int | None = None
        self._new_folders = missing_folders(self.root)

    @property
    def num_frames(self) -> int:
        """Rows of all episodes."""
        return self._num_frames

    def _places(self, root: Path) -> tuple[Path, Path]:
        root = real_place(root)
        if root.exists() and not root.is_dir():
            raise UsageError(f"{root}: expected a folder, got a file. Name another one")
        return root, root / WORK_FOLDER

    def __enter__(self) -> GrowingDataset:
        try:
            with disk_errors(self.root, "Name another folder"):
                self.folder.mkdir(parents=True, exist_ok=True)
                self._take_lock()
            recorded = read_recorded(self.root, self.version)
            if recorded is not None:
                self._continue(recorded)
            self._clear()
            self._remove_next()
        except BaseException:
            self._leave()
            raise
        return self

    def _take_lock(self) -> None:
        self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            self._lock = None
            raise UsageError(
                f"{self.root}: another process is recording to it. Wait for its end, or name "
                f"another folder"
            ) from error

    def _continue(self, recorded: Recorded) -> None:
        """Takes in the episodes that are there; completes metadata that a kill has cut short."""
        recorded.check_same(
            robot_type=self.robot_type, fps=self.fps, features=self.features, own=self._own_paths()
        )
        self.episodes, self.stats = list(recorded.episodes), list(recorded.stats)
        self.task_rows = dict(recorded.tasks.items())
        self._numbers = {str(row["task"]): index for index, row in recorded.tasks.items()}
        self._num_frames = sum(int(line["length"]) for line in self.episodes)
        self._fact_names = set(recorded.fact_names)
        known = {*self._info(), "features"}
        self._more_info = {k: v for k, v in recorded.info.items() if k not in known}
        self._read_back(recorded)
        if recorded.info.get("total_episodes") != len(self.episodes) and self.episodes:
            self._clear()
            self._commit()

    def _own_paths(self) -> Mapping[str, object]:
        paths: dict[str, object] = {"data_path": self.data_path, "chunks_size": CHUNKS_SIZE}
        return paths | ({"video_path": self.video_path} if self.video_keys else {})

    def _read_back(self, recorded: Recorded) -> None:
        """Reads what later metadata needs of the episodes that are there."""

    def _clear(self) -> None:
        """Removes what an episode that was cut short has left."""
        for path in self.folder.iterdir():
            if path.name != "lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def add(self, episode: Episode) -> None:
        """Appends an episode whose videos are complete files that may be moved.

        Raises:
            DataError: it cannot be written; the dataset is as it was.
        """
        state = (dict(self.task_rows), dict(self._numbers), set(self._fact_names))
        count, frames = len(self.episodes), self._num_frames
        try:
            super().add(episode)
            with disk_errors(self.root, self.left_by_failure):
                self._commit()
        except BaseException:
            self.task_rows, self._numbers, self._fact_names = state
            self._num_frames = frames
            del self.episodes[count:], self.stats[count:]
            self._forget_last()
            self._remove_next()
            raise

    def _forget_last(self) -> None:
        """Forgets what is kept of an episode that is not among `episodes` any more."""

    def _remove_next(self) -> None:
        """Removes the files of an episode that no metadata names."""
        for path in self._next_files():
            with contextlib.suppress(OSError):  # a directory of the path may be missing, too
                path.unlink()

    def _next_files(self) -> Sequence[Path]:
        """Returns where the files of the next episode go."""
        raise NotImplementedError

    def _commit(self) -> None:
        """Replaces the metadata, file by file."""
        meta = self.folder / "meta"
        shutil.rmtree(meta, ignore_errors=True)
        meta.mkdir()
        self._write_metadata()
        write_json(meta / "info.json", self._info())
        for path in (path for path in meta.rglob("*") if path.is_file()):
            sync(path)
        for name in (*self._meta_order(), "info.json"):
            self._install(meta / name, self.root / "meta" / name)

    def _meta_order(self) -> Sequence[str]:
        """Returns the files of the metadata in the order in which they are replaced."""
        raise NotImplementedError

    def _install(self, staged: Path, place: Path) -> None:
        """Moves a file that is on the disk to its place, and waits until that is, too."""
        missing = missing_folders(place.parent)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged, place)
        for folder in (place.parent, *(path.parent for path in missing)):
            sync(folder)

    def _write_table(self, table: pa.Table, place: Path) -> None:
        staged = self.folder / "rows.parquet"
        pq.write_table(table, staged, compression="snappy")
        sync(staged)
        self._install(staged, place)

    def _move_video(self, staged: Path, place: Path) -> None:
        sync(staged)
        self._install(staged, place)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):
                shutil.rmtree(self.folder)
            os.close(self._lock)
            self._lock = None
        remove_empty(self._new_folders)


class GrowingV21(GrowingDataset, WriterV21):
    """Appends to a dataset of version 2.1."""

    def _write_episode(self, episode: Episode, table: pa.Table, line: dict[str, Any]) -> None:
        data, *videos = self._next_files()
        for key, place in zip(self.video_keys, videos, strict=True):
            self._move_video(episode.videos[key].path, place)
        self._write_table(table, data)

    def _stats_of(self, episode: Episode, table: pa.Table) -> dict[str, Any]:
        """Leaves out depth: LeRobot 0.3 opens no dataset with statistics of one channel."""
        found = super()._stats_of(episode, table)
        return {key: s for key, s in found.items() if not is_depth_map(self.features[key])}

    def _next_files(self) -> Sequence[Path]:
        index = len(self.episodes)
        place = {"episode_chunk": index // CHUNKS_SIZE, "episode_index": index}
        videos = [self.video_path.format(video_key=key, **place) for key in self.video_keys]
        return [self.root / name for name in (self.data_path.format(**place), *videos)]

    def _meta_order(self) -> Sequence[str]:
        return ("tasks.jsonl", "episodes_stats.jsonl", "episodes.jsonl")


class GrowingV30(GrowingDataset, WriterV30):
    """Appends to a dataset of version 3.0; each episode has files of its own, as it allows."""

    def _read_back(self, recorded: Recorded) -> None:
        numeric = [key for key, feature in self.features.items() if is_numeric(feature)]
        for path in files_of(self.root, recorded):
            table = pq.read_table(path, columns=numeric)
            for key in numeric:
                self._columns.setdefault(key, []).append(to_array(table.column(key), key))

    def _forget_last(self) -> None:
        kept = sum(int(line["length"]) for line in self.episodes)
        for parts in self._columns.values():
            while sum(map(len, parts)) > kept:
                parts.pop()

    def _write_episode(self, episode: Episode, table: pa.Table, line: dict[str, Any]) -> None:
        line |= {
            "dataset_from_index": self._num_frames,
            "dataset_to_index": self._num_frames + episode.length,
        }
        data, *videos = self._next_files()
        for key, place in zip(self.video_keys, videos, strict=True):
            self._move_video(episode.videos[key].path, place)
            times = {"from_timestamp": 0.0, "to_timestamp": episode.length / self.fps}
            found = {**self._next_place(f"videos/{key}"), **times}
            line |= {f"videos/{key}/{entry}": value for entry, value in found.items()}
        self._write_table(table, data)
        line |= {f"data/{entry}": value for entry, value in self._next_place("data").items()}
        for key, feature in self.features.items():
            if is_numeric(feature):
                self._columns.setdefault(key, []).append(to_array(table.column(key), key))

    def _next_files(self) -> Sequence[Path]:
        data = self.data_path.format(**self._next_place("data"))
        videos = [
            self.video_path.format(video_key=key, **self._next_place(f"videos/{key}"))
            for key in self.video_keys
        ]
        return [self.root / name for name in (data, *videos)]

    def _next_place(self, part: str) -> dict[str, int]:
        """Returns the number of the file after the last one that an episode is in."""
        numbers = (
            line[f"{part}/chunk_index"] * CHUNKS_SIZE + line[f"{part}/file_index"]
            for line in self.episodes
        )
        number = max(numbers, default=-1) + 1
        return {"chunk_index": number // CHUNKS_SIZE, "file_index": number % CHUNKS_SIZE}

    def _meta_order(self) -> Sequence[str]:
        folder = self.folder / "meta"
        tables = sorted((folder / "episodes").rglob("*.parquet"))
        names = [str(path.relative_to(folder)) for path in tables]
        return ("tasks.parquet", "stats.json", *names)


GROWING: dict[str, type[GrowingDataset]] = {"v2.1": GrowingV21, "v3.0": GrowingV30}
