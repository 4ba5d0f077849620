"""Small LeRobot datasets, v2.0, v2.1 and v3.0, in which every pairing can be checked.

The state begins with the episode, the frame and the dataset's number; the action is the state plus
0.5; a picture's code says its camera, episode and frame. `CodedDataset` describes a dataset,
`write` writes it, and `rows` computes what any reader must find in it, from the description alone.
`rows_of` in coded_rows.py reads the same from the files of any LeRobot dataset.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .coded_pictures import NOBODY, Code, Encoding, depth_image, png, write_coded_video
from .small_dataset import write_lines

STATE, ACTION = "observation.state", "action"
TOP = "observation.images.top"
DEPTH = "observation.images.top_depth"
FIRST_FILE = "chunk-000/file-000.parquet"
EPISODES_V3 = f"meta/episodes/{FIRST_FILE}"
DATA_V3 = f"data/{FIRST_FILE}"
CAMERAS_PER_DATASET = 4
H264 = Encoding()
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
LANGUAGE = pa.list_(
    pa.struct(
        [
            ("role", pa.string()),
            ("content", pa.string()),
            ("style", pa.string()),
            ("timestamp", pa.float64()),
            ("camera", pa.string()),
        ]
    )
)

Version = Literal["v2.0", "v2.1", "v3.0"]
Missing = Literal["video", "data", "line", "rows", "last rows", "episode"]


class Row(NamedTuple):
    """What belongs together in one frame: the unit that no command may tear apart."""

    episode: int
    state: tuple[float, ...]
    action: tuple[float, ...]
    time_s: float
    task: str
    texts: tuple[tuple[str, str], ...]
    """Each column that numbers the texts of a table, and this row's text."""

    values: tuple[tuple[str, object], ...]
    """Each other column, and this row's value."""

    pictures: tuple[tuple[str, Code | None], ...]
    """Each camera, and the code of the picture that belongs to the row; None if there is none."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A camera: a video, or images stored in the rows.

    Attributes:
        files: v3.0: the video file of each episode, ascending; default: all in the first.
        first_stamp_s: the stamp of each file's first picture.
        lead: pictures before each episode that belong to no row.
        tail: pictures after each episode that belong to no row.
        oversampling: pictures per period of the rows.
        mark: where info.json says that a depth camera is one, as a path of keys.
    """

    key: str = TOP
    kind: Literal["video", "image", "depth video", "depth image"] = "video"
    encoding: Encoding = H264
    files: tuple[int, ...] = ()
    first_stamp_s: float = 0.0
    lead: int = 0
    tail: int = 0
    oversampling: int = 1
    mark: tuple[str, str] = ("info", "is_depth_map")

    @property
    def is_video(self) -> bool:
        return self.kind.endswith("video")

    @property
    def is_depth(self) -> bool:
        return self.kind.startswith("depth")

    @property
    def how(self) -> Encoding:
        if not self.is_depth:
            return self.encoding
        return replace(self.encoding, codec="libx265", is_depth=True)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A column whose numbers stand for the texts of a table in `meta/`.

    `table` is the table's name without its ending; 'tasks' stands for the dataset's own tasks.
    `shift` lets two datasets with the same texts use them in other places.
    """

    column: str = "subtask_index"
    table: str = "subtasks"
    text_column: str = "subtask"
    texts: tuple[str, ...] = ("reach", "grasp")
    shift: int = 0


@dataclass(frozen=True, kw_only=True)
class Column:
    """One more feature: its declared dtype, the type in which it is stored, and its values."""

    key: str
    dtype: str
    stored: Literal["float32", "float64", "int32", "int64", "bool", "string", "language"]
    kind: Literal["whole", "fraction", "clock", "flag", "text", "persistent", "events"] = "whole"

    def value(self, episode: int, frame: int) -> object:
        """The value of a row."""
        number = 100 * episode + frame
        if self.kind == "fraction":
            return float(np.dtype(self.stored).type(number / 128 + 0.46))
        if self.kind == "clock":
            return 1_700_000_000_000_000_000 + number * 100_000_000
        if self.kind == "persistent":
            return [_said("assistant", f"episode {episode}", "subtask", 0.0)]
        if self.kind == "events":
            return [_said("user", f"wait at {number}", "interjection", 0.0)] if frame % 3 else []
        return {"flag": number % 2 == 1, "text": f"row {number}"}.get(self.kind, number)

    @property
    def arrow(self) -> pa.DataType:
        return LANGUAGE if self.stored == "language" else pa.type_for_alias(self.stored)


def _said(role: str, content: str, style: str, time_s: float) -> dict[str, object]:
    said = {"role": role, "content": content, "style": style}
    return {**said, "timestamp": time_s, "camera": None}


@dataclass(frozen=True, kw_only=True)
class CodedDataset:
    """Describes a dataset; the defaults are a plain one.

    Attributes:
        version: as in info.json.
        number: the dataset's number, 0 .. 2, in its states and pictures.
        lengths: frames of each episode that were recorded.
        dropped: (episode, frame) whose rows are missing although the cameras have them.
        is_renumbered: whether frame_index counts the rows that are left; else it has gaps.
        fps: rate of the rows.
        cameras: the cameras.
        dim: width of the state and of the action, at least 3.
        dtype: declared and stored type of the state and the action.
        tasks: the texts of the tasks.
        task_numbers: the task_index of each text; default 0, 1, 2 ...
        task_of: for each episode the tasks, by place in `tasks`, that its frames have in turn;
            default: one task per episode in turn.
        task_table: v3.0: how tasks.parquet holds the texts: as pandas' index, nameless or called
            'task', or after another column of texts.
        references: columns of numbers with their tables.
        columns: more features.
        data_files: v3.0: the data file of each episode, ascending; default: all in the first.
        row_order: v3.0: the order in which the episodes' rows are stored; default: ascending.
        is_reversed: whether the rows of an episode are stored last first.
        index: what the column `index` counts: all rows, or those of the episode.
        stated_files: v3.0: the data file that the metadata states; default: the true one.
        stated_starts: v3.0: dataset_from_index as the metadata states it; default: the true one.
        stated_lengths: the lengths that the metadata states; default: the true ones.
        row_start_s: time of each episode's first row.
        jitter: how far rows' times are off the pictures' stamps, in periods.
        time_dtype: declared and stored type of the timestamps.
        epoch_s: added to all timestamps, as a wall clock would.
        missing: pieces removed after writing: what, and of which episode.
        info: more keys of info.json, or other values.
        files: more files: path and text.
    """

    version: Version = "v2.1"
    number: int = 0
    lengths: tuple[int, ...] = (5, 3, 4)
    dropped: tuple[tuple[int, int], ...] = ()
    is_renumbered: bool = True
    fps: float = 10
    cameras: tuple[Camera, ...] = (Camera(),)
    dim: int = 4
    dtype: Literal["float32", "float64"] = "float32"
    tasks: tuple[str, ...] = ("fold the towel", "open the drawer")
    task_numbers: tuple[int, ...] = ()
    task_of: tuple[tuple[int, ...], ...] = ()
    task_table: Literal["index", "task", "after a category"] = "index"
    references: tuple[Reference, ...] = ()
    columns: tuple[Column, ...] = ()
    data_files: tuple[int, ...] = ()
    row_order: tuple[int, ...] = ()
    is_reversed: bool = False
    index: Literal["all rows", "the episode's rows"] = "all rows"
    stated_files: tuple[int, ...] = ()
    stated_starts: tuple[int, ...] = ()
    stated_lengths: tuple[int, ...] = ()
    row_start_s: float = 0.0
    jitter: float = 0.0
    time_dtype: Literal["float32", "float64"] = "float32"
    epoch_s: float = 0.0
    missing: tuple[tuple[Missing, int], ...] = ()
    info: tuple[tuple[str, Any], ...] = ()
    files: tuple[tuple[str, str], ...] = field(default=())

    @property
    def num_episodes(self) -> int:
        return len(self.lengths)

    def frames(self, episode: int) -> list[int]:
        """The recorded frames of an episode that have rows."""
        return [f for f in range(self.lengths[episode]) if (episode, f) not in self.dropped]

    def rows(self) -> list[Row]:
        """What a reader must find: each row with everything that belongs to it."""
        return [self._row(e, f) for e in range(self.num_episodes) for f in self.frames(e)]

    def _row(self, episode: int, frame: int) -> Row:
        state = self.state(episode, frame)
        return Row(
            episode=episode,
            state=state,
            action=tuple(x + 0.5 for x in state),
            time_s=self.time_s(episode, frame),
            task=self.tasks[self.task_at(episode, frame)],
            texts=tuple((r.column, self.text(r, episode, frame)) for r in self.references),
            values=tuple((c.key, c.value(episode, frame)) for c in self.columns),
            pictures=tuple(
                (c.key, self.code(i, episode, frame)) for i, c in enumerate(self.cameras)
            ),
        )

    def state(self, episode: int, frame: int) -> tuple[float, ...]:
        more = [(7 * episode + 3 * frame + dim) % 32 / 4 for dim in range(3, self.dim)]
        return (float(episode), float(frame), float(self.number), *more)

    def code(self, camera: int, episode: int, frame: int) -> Code:
        return Code(CAMERAS_PER_DATASET * self.number + camera, episode, frame)

    def time_s(self, episode: int, frame: int) -> float:
        """The timestamp of a row, as it is stored."""
        off = (0.0, 1.0, -0.5, 0.75, -1.0)[(frame + episode) % 5] * self.jitter
        off = abs(off) if frame == 0 else off
        time_s = self.epoch_s + self.row_start_s + (frame + off) / self.rate
        return float(np.dtype(self.time_dtype).type(time_s))

    @property
    def rate(self) -> float:
        """The rate as videos have it: 29.97 stands for 30000/1001."""
        return float(Fraction(self.fps).limit_denominator(1001))

    def task_at(self, episode: int, frame: int) -> int:
        """The place of a row's task among `tasks`."""
        if not self.task_of:
            return episode % len(self.tasks)
        choices = self.task_of[episode]
        return choices[frame * len(choices) // self.lengths[episode]]

    def task_number(self, place: int) -> int:
        return self.task_numbers[place] if self.task_numbers else place

    def reference_texts(self, reference: Reference) -> tuple[str, ...]:
        return self.tasks if reference.table == "tasks" else reference.texts

    def reference_place(self, reference: Reference, episode: int, frame: int) -> int:
        return (episode + frame // 2 + reference.shift) % len(self.reference_texts(reference))

    def text(self, reference: Reference, episode: int, frame: int) -> str:
        place = self.reference_place(reference, episode, frame)
        return self.reference_texts(reference)[place]

    def write(self, root: Path) -> Path:
        """Writes the dataset to `root`, and returns it."""
        (root / "meta").mkdir(parents=True)
        (root / "meta/info.json").write_text(json.dumps(_info(self)))
        if self.version == "v3.0":
            _write_v30(self, root)
        else:
            _write_v2(self, root)
        for reference in self.references:
            if reference.table != "tasks":
                _write_texts(self, reference, root)
        for name, text in self.files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        for what, episode in self.missing:
            _remove(self, root, what, episode)
        return root


def plain(version: Version = "v2.1", **values: Any) -> CodedDataset:
    """A dataset of a version, with other values than the defaults."""
    return CodedDataset(version=version, **values)


def _info(dataset: CodedDataset) -> dict[str, Any]:
    is_v3, count = dataset.version == "v3.0", dataset.num_episodes
    chunk, name = "chunk-{episode_chunk:03d}", "episode_{episode_index:06d}"
    place = "chunk-{chunk_index:03d}/file-{file_index:03d}"
    return {
        "codebase_version": dataset.version,
        "robot_type": "aloha",
        "total_episodes": count,
        "total_frames": sum(len(dataset.frames(e)) for e in range(count)),
        "total_tasks": len(dataset.tasks),
        "total_videos": 0 if is_v3 else count * sum(c.is_video for c in dataset.cameras),
        "total_chunks": 1,
        "chunks_size": 1000,
        "fps": dataset.fps,
        "splits": {"train": f"0:{count}"},
        "data_path": f"data/{place}.parquet" if is_v3 else f"data/{chunk}/{name}.parquet",
        "video_path": f"videos/{{video_key}}/{place}.mp4"
        if is_v3
        else f"videos/{chunk}/{{video_key}}/{name}.mp4",
        "features": _features(dataset),
        **dict(dataset.info),
    }


def _features(dataset: CodedDataset) -> dict[str, Any]:
    def scalar(dtype: str) -> dict[str, Any]:
        return {"dtype": dtype, "shape": [1], "names": None}

    vector = {"dtype": dataset.dtype, "shape": [dataset.dim], "names": None}
    return {
        STATE: vector,
        ACTION: vector,
        **{camera.key: _camera_feature(camera) for camera in dataset.cameras},
        **{reference.column: scalar("int64") for reference in dataset.references},
        **{column.key: scalar(column.dtype) for column in dataset.columns},
        "timestamp": scalar(dataset.time_dtype),
        **{k: scalar("int64") for k in ("frame_index", "episode_index", "index", "task_index")},
    }


def _camera_feature(camera: Camera) -> dict[str, Any]:
    side, dtype = camera.encoding.side, "video" if camera.is_video else "image"
    shape = [side, side, 1 if camera.is_depth else 3]
    feature = {"dtype": dtype, "shape": shape, "names": ["height", "width", "channels"]}
    if camera.is_depth:
        parent, key = camera.mark
        feature[parent] = {key: True}
    return feature


def _table(dataset: CodedDataset, episode: int, first: int) -> pa.Table:
    frames = dataset.frames(episode)
    states = np.array([dataset.state(episode, f) for f in frames], dataset.dtype)
    vectors = pa.list_(pa.type_for_alias(dataset.dtype))
    counted = list(range(len(frames)))
    columns: dict[str, pa.Array] = {
        STATE: pa.array(states.tolist(), vectors),
        ACTION: pa.array((states + 0.5).tolist(), vectors),
    }
    for number, camera in enumerate(dataset.cameras):
        if not camera.is_video:
            stored = [_stored(camera, dataset.code(number, episode, f)) for f in frames]
            columns[camera.key] = pa.array(stored, IMAGE)
    for reference in dataset.references:
        places = [dataset.reference_place(reference, episode, f) for f in frames]
        numbers = map(dataset.task_number, places) if reference.table == "tasks" else places
        columns[reference.column] = pa.array(list(numbers), pa.int64())
    for column in dataset.columns:
        values = [column.value(episode, f) for f in frames]
        columns[column.key] = pa.array(values, column.arrow)
    times = [dataset.time_s(episode, f) for f in frames]
    tasks = [dataset.task_number(dataset.task_at(episode, f)) for f in frames]
    numbers = {
        "frame_index": counted if dataset.is_renumbered else frames,
        "episode_index": [episode] * len(frames),
        "index": [i + first * (dataset.index == "all rows") for i in counted],
        "task_index": tasks,
    }
    columns["timestamp"] = pa.array(times, pa.type_for_alias(dataset.time_dtype))
    return pa.table({**columns, **{k: pa.array(v, pa.int64()) for k, v in numbers.items()}})


def _stored(camera: Camera, code: Code) -> dict[str, Any]:
    data = depth_image(code) if camera.is_depth else png(code, camera.encoding.side)
    return {"bytes": data, "path": f"frame_{code.frame:06d}.png"}


def _tables(dataset: CodedDataset) -> list[pa.Table]:
    """The rows of each episode."""
    counts = [len(dataset.frames(e)) for e in range(dataset.num_episodes)]
    tables = [_table(dataset, e, start) for e, start in enumerate(_starts(dataset, counts))]
    return [t.take(np.arange(len(t))[::-1]) for t in tables] if dataset.is_reversed else tables


def _starts(dataset: CodedDataset, counts: list[int]) -> list[int]:
    """The number of rows that are stored before each episode."""
    starts, first = [0] * len(counts), 0
    for episode in _stored_order(dataset):
        starts[episode] = first
        first += counts[episode]
    return starts


def _stored_order(dataset: CodedDataset) -> list[int]:
    order = dataset.row_order or tuple(range(dataset.num_episodes))
    return sorted(order, key=lambda episode: _file_of(dataset, episode))


def _file_of(dataset: CodedDataset, episode: int) -> int:
    return dataset.data_files[episode] if dataset.data_files else 0


def _stated_length(dataset: CodedDataset, episode: int) -> int:
    lengths = dataset.stated_lengths
    return lengths[episode] if lengths else len(dataset.frames(episode))


def _episode_tasks(dataset: CodedDataset, episode: int) -> list[str]:
    places = dict.fromkeys(dataset.task_at(episode, f) for f in dataset.frames(episode))
    return [dataset.tasks[place] for place in places]


def _write_v2(dataset: CodedDataset, root: Path) -> None:
    tables = _tables(dataset)
    tasks = [{"task_index": dataset.task_number(i), "task": t} for i, t in enumerate(dataset.tasks)]
    write_lines(root / "meta/tasks.jsonl", tasks)
    lines = [
        {
            "episode_index": e,
            "tasks": _episode_tasks(dataset, e),
            "length": _stated_length(dataset, e),
        }
        for e in range(len(tables))
    ]
    write_lines(root / "meta/episodes.jsonl", lines)
    (root / "data/chunk-000").mkdir(parents=True)
    for episode, table in enumerate(tables):
        pq.write_table(table, root / f"data/chunk-000/episode_{episode:06d}.parquet")
        for number, camera in _video_cameras(dataset):
            path = root / f"videos/chunk-000/{camera.key}/episode_{episode:06d}.mp4"
            _write_video(dataset, number, [episode], path)


def _write_v30(dataset: CodedDataset, root: Path) -> None:
    tables = _tables(dataset)
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    for file, group in groupby(_stored_order(dataset), key=lambda e: _file_of(dataset, e)):
        joined = pa.concat_tables([tables[e] for e in group])
        pq.write_table(joined, root / f"data/chunk-000/file-{file:03d}.parquet")
    lines = [_line_v30(dataset, e, tables) for e in range(len(tables))]
    for number, camera in _video_cameras(dataset):
        places = camera.files or (0,) * len(tables)
        for file, group in groupby(range(len(tables)), key=lambda e: places[e]):
            path = root / f"videos/{camera.key}/chunk-000/file-{file:03d}.mp4"
            starts = _write_video(dataset, number, list(group), path)
            for episode, start_s in starts.items():
                end_s = start_s + dataset.lengths[episode] / dataset.rate
                lines[episode] |= {
                    f"videos/{camera.key}/chunk_index": 0,
                    f"videos/{camera.key}/file_index": file,
                    f"videos/{camera.key}/from_timestamp": start_s,
                    f"videos/{camera.key}/to_timestamp": end_s,
                }
    pq.write_table(pa.Table.from_pylist(lines), root / EPISODES_V3)
    pq.write_table(_task_table(dataset), root / "meta/tasks.parquet")


def _line_v30(dataset: CodedDataset, episode: int, tables: list[pa.Table]) -> dict[str, Any]:
    files = dataset.stated_files or dataset.data_files or (0,) * len(tables)
    starts = dataset.stated_starts or _starts(dataset, [len(table) for table in tables])
    length = _stated_length(dataset, episode)
    return {
        "episode_index": episode,
        "tasks": _episode_tasks(dataset, episode),
        "length": length,
        "data/chunk_index": 0,
        "data/file_index": files[episode],
        "dataset_from_index": starts[episode],
        "dataset_to_index": starts[episode] + length,
        "meta/episodes/chunk_index": 0,
        "meta/episodes/file_index": 0,
    }


def _video_cameras(dataset: CodedDataset) -> Iterator[tuple[int, Camera]]:
    return ((i, camera) for i, camera in enumerate(dataset.cameras) if camera.is_video)


def _write_video(
    dataset: CodedDataset, number: int, episodes: list[int], path: Path
) -> dict[int, float]:
    """Writes one file, and returns the time in it that stands for time 0 of each episode."""
    camera = dataset.cameras[number]
    codes: list[Code] = []
    starts: dict[int, float] = {}
    rate = dataset.rate * camera.oversampling
    for episode in episodes:
        codes += [NOBODY] * camera.lead
        starts[episode] = camera.first_stamp_s + len(codes) / rate - dataset.row_start_s
        for frame in range(dataset.lengths[episode]):
            between = [NOBODY] * (camera.oversampling - 1)
            codes += [dataset.code(number, episode, frame), *between]
        codes += [NOBODY] * camera.tail
    stamps = tuple(camera.first_stamp_s + i / rate for i in range(len(codes)))
    write_coded_video(path, tuple(codes), stamps, rate, camera.how)
    return starts


def _task_table(dataset: CodedDataset) -> pa.Table:
    numbers = pa.array([dataset.task_number(i) for i in range(len(dataset.tasks))], pa.int64())
    texts = pa.array(dataset.tasks)
    if dataset.task_table == "task":
        return pa.table({"task_index": numbers, "task": texts})
    if dataset.task_table == "index":
        return pa.table({"task_index": numbers, "__index_level_0__": texts})
    kinds = pa.array([f"category {i}" for i in range(len(dataset.tasks))])
    return pa.table({"task_index": numbers, "category": kinds, "__index_level_0__": texts})


def _write_texts(dataset: CodedDataset, reference: Reference, root: Path) -> None:
    numbers, texts = list(range(len(reference.texts))), list(reference.texts)
    if dataset.version == "v3.0":
        table = pa.table({reference.column: numbers, reference.text_column: texts})
        pq.write_table(table, root / f"meta/{reference.table}.parquet")
        return
    rows = [
        {reference.column: i, reference.text_column: t} for i, t in zip(numbers, texts, strict=True)
    ]
    write_lines(root / f"meta/{reference.table}.jsonl", rows)


def _remove(dataset: CodedDataset, root: Path, what: Missing, episode: int) -> None:
    """Removes a piece of an episode."""
    is_v3 = dataset.version == "v3.0"
    if what in ("video", "episode"):
        for _, camera in _video_cameras(dataset):
            file = camera.files[episode] if camera.files else 0
            if not is_v3:
                (root / f"videos/chunk-000/{camera.key}/episode_{episode:06d}.mp4").unlink()
            elif what == "video":  # of all episodes in the file
                (root / f"videos/{camera.key}/chunk-000/file-{file:03d}.mp4").unlink()
    if what in ("line", "episode"):
        _remove_line(root, episode, is_v3)
    if what == "data" or (what == "episode" and not is_v3):
        _data_file(dataset, root, episode).unlink()
    elif what in ("rows", "last rows", "episode"):
        path = _data_file(dataset, root, episode)
        table = pq.read_table(path)
        numbers = np.asarray(table["episode_index"])
        gone = np.flatnonzero(numbers == episode)
        kept = np.delete(np.arange(len(numbers)), gone[-1:] if what == "last rows" else gone)
        pq.write_table(table.take(kept), path)


def _remove_line(root: Path, episode: int, is_v3: bool) -> None:
    if is_v3:
        lines = pq.read_table(root / EPISODES_V3)
        pq.write_table(
            lines.filter(pa.compute.field("episode_index") != episode), root / EPISODES_V3
        )
        return
    path = root / "meta/episodes.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    write_lines(path, [line for line in lines if line["episode_index"] != episode])


def _data_file(dataset: CodedDataset, root: Path, episode: int) -> Path:
    if dataset.version != "v3.0":
        return root / f"data/chunk-000/episode_{episode:06d}.parquet"
    return root / f"data/chunk-000/file-{_file_of(dataset, episode):03d}.parquet"
