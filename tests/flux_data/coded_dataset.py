"""Small LeRobot datasets, v2.0, v2.1 and v3.0, in which every pairing can be checked.

The state begins with the episode, the frame and the dataset's number; the action is the state plus
0.5; a picture's code says its camera, episode and frame. `CodedDataset` describes a dataset,
`write` writes it, and `rows` computes what any reader must find in it, from the description alone.
`rows_of` in coded_rows.py reads the same from the files of any LeRobot dataset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from .coded_pictures import HEVC_SIDE, NOBODY, Code, Encoding

STATE, ACTION = "observation.state", "action"
TOP = "observation.images.top"
DEPTH = "observation.images.top_depth"
DATA_V3 = "data/chunk-000/file-000.parquet"
EPISODES_V3 = "meta/episodes/chunk-000/file-000.parquet"
CAMERAS_PER_DATASET = 4
H264 = Encoding()
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
Stored = Literal[
    *("float32", "float64", "int8", "int32", "int64", "uint8", "uint64"),
    *("bool", "string", "large_string", "language"),
]
Missing = Literal["video", "pointer", "data", "line", "rows", "last rows", "episode"]


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


def _short(value: Any) -> str:
    """The expression that makes a dataclass, without the fields that have their defaults."""
    changed = {f.name: getattr(value, f.name) for f in fields(value)}
    shown = [f"{f.name}={changed[f.name]!r}" for f in fields(value) if changed[f.name] != f.default]
    return f"{type(value).__name__}({', '.join(shown)})"


@dataclass(frozen=True, kw_only=True, repr=False)
class Camera:
    """A camera: a video, or images stored in the rows.

    Attributes:
        files: v3.0: the video file of each episode, ascending; default: all in the first.
        first_stamp_s: the stamp of each file's first picture.
        lead: pictures before each episode that belong to no row.
        tail: pictures after each episode that belong to no row.
        cut: pictures that are missing at the end of each file.
        lost: frames of every episode of which there is no picture.
        oversampling: pictures per period of the rows.
        jitter: how far stamps are off an even rate, in periods.
        is_file: whether an image is a file of its own, whose path the rows hold.
        mark: where info.json says that a depth camera is one, as a path of keys.
    """

    key: str = TOP
    kind: Literal["video", "image", "depth video", "depth image"] = "video"
    encoding: Encoding = H264
    files: tuple[int, ...] = ()
    first_stamp_s: float = 0.0
    lead: int = 0
    tail: int = 0
    cut: int = 0
    lost: tuple[int, ...] = ()
    oversampling: int = 1
    jitter: float = 0.0
    is_file: bool = False
    mark: tuple[str, str] = ("info", "is_depth_map")

    def __repr__(self) -> str:
        return _short(self)

    @property
    def is_video(self) -> bool:
        return self.kind.endswith("video")

    @property
    def is_depth(self) -> bool:
        return self.kind.startswith("depth")

    @property
    def how(self) -> Encoding:
        if not (self.is_video and self.is_depth):
            return self.encoding
        return replace(self.encoding, codec="libx265", is_depth=True, side=HEVC_SIDE)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A column whose numbers stand for the texts of a table in `meta/`.

    Attributes:
        table: its name without the ending; 'tasks' stands for the dataset's own tasks.
        numbers: the number of each text; default: 0, 1, 2 ...
        stored: the type of the column.
        shift: lets two datasets with the same texts use them in other places.
    """

    column: str = "subtask_index"
    table: str = "subtasks"
    text_column: str = "subtask"
    texts: tuple[str, ...] = ("reach", "grasp")
    numbers: tuple[int, ...] = ()
    stored: Literal["int64", "int32", "uint8"] = "int64"
    shift: int = 0

    def number(self, place: int) -> int:
        return self.numbers[place] if self.numbers else place


@dataclass(frozen=True, kw_only=True)
class Column:
    """One more feature: its declared dtype, the type in which it is stored, and its values.

    A `width` makes it a vector of so many values; () a number.
    """

    key: str
    dtype: str
    stored: Stored
    kind: Literal[
        "whole", "fraction", "clock", "flag", "text", "persistent", "events", "largest"
    ] = "whole"
    width: int | tuple[()] = ()

    def value(self, episode: int, frame: int) -> object:
        """The value of a row."""
        if self.width == ():
            return self._value(episode, frame)
        return [self._value(episode, frame + 10 * i) for i in range(self.width)]

    def _value(self, episode: int, frame: int) -> object:
        number = 20 * episode + frame
        if self.kind == "fraction":
            return float(np.dtype(self.stored).type(number / 128 + 0.46))
        if self.kind == "largest":
            return int(np.iinfo(self.stored).max) - number
        if self.kind == "clock":
            return 1_700_000_000_000_000_000 + number * 100_000_000
        if self.kind == "persistent":
            return [_said("assistant", f"episode {episode}", "subtask", 0.0)]
        if self.kind == "events":
            return [_said("user", f"wait at {number}", "interjection", 0.0)] if frame % 3 else []
        return {"flag": number % 2 == 1, "text": f"row {number}"}.get(self.kind, number)

    @property
    def arrow(self) -> pa.DataType:
        kind = LANGUAGE if self.stored == "language" else pa.type_for_alias(self.stored)
        return kind if self.width == () else pa.list_(kind)


@dataclass(frozen=True, kw_only=True)
class Film:
    """The pictures of a video file, their stamps, and the time that stands for each episode's 0."""

    codes: tuple[Code, ...]
    stamps_s: tuple[float, ...]
    starts: Mapping[int, float]

    def at(self, time_s: float, tolerance_s: float) -> Code | None:
        """The picture whose stamp is nearest, or None if it is not within the tolerance."""
        off, nearest = min((abs(stamp - time_s), i) for i, stamp in enumerate(self.stamps_s))
        return self.codes[nearest] if off <= tolerance_s else None


def _said(role: str, content: str, style: str, time_s: float) -> dict[str, object]:
    said = {"role": role, "content": content, "style": style}
    return {**said, "timestamp": time_s, "camera": None}


@dataclass(frozen=True, kw_only=True, repr=False)
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
        chunk_size: episodes per folder; v3.0: files per folder.
        are_lines_shuffled: whether the lines of the metadata are in another order.
        lines_per_file: v3.0: lines per file of the metadata.
        repeated: v3.0: episodes whose rows are stored twice.
        row_order: v3.0: the order in which the episodes' rows are stored; default: ascending.
        is_reversed: whether the rows of an episode are stored last first.
        index: what the column `index` counts: all rows, or those of the episode.
        stated_files: v3.0: the data file that the metadata states; default: the true one.
        stated_starts: v3.0: dataset_from_index as the metadata states it; default: the true one.
        stated_lengths: the lengths that the metadata states; default: the true ones.
        row_start_s: time of each episode's first row.
        times_run_on: whether times count from the first episode's start, not from the episode's.
        jitter: how far rows' times are off the pictures' stamps, in periods.
        time_dtype: declared type of the timestamps.
        time_stored: the type in which they are stored; default: as declared.
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
    chunk_size: int = 1000
    are_lines_shuffled: bool = False
    lines_per_file: int = 1000
    repeated: tuple[int, ...] = ()
    row_order: tuple[int, ...] = ()
    is_reversed: bool = False
    index: Literal["all rows", "the episode's rows"] = "all rows"
    stated_files: tuple[int, ...] = ()
    stated_starts: tuple[int, ...] = ()
    stated_lengths: tuple[int, ...] = ()
    row_start_s: float = 0.0
    times_run_on: bool = False
    jitter: float = 0.0
    time_dtype: Literal["float32", "float64"] = "float32"
    time_stored: Literal["float32", "float64", ""] = ""
    epoch_s: float = 0.0
    missing: tuple[tuple[Missing, int], ...] = ()
    info: tuple[tuple[str, Any], ...] = ()
    files: tuple[tuple[str, str], ...] = field(default=())

    @property
    def num_episodes(self) -> int:
        return len(self.lengths)

    def __repr__(self) -> str:
        """Names only what differs from a plain dataset, to be pasted into a test."""
        return _short(self)

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        """Lets hypothesis print it as `repr` does."""
        printer.text(repr(self))

    def frames(self, episode: int) -> list[int]:
        """The recorded frames of an episode that have rows."""
        return [f for f in range(self.lengths[episode]) if (episode, f) not in self.dropped]

    def rows(self, *, by_time: bool = True) -> list[Row]:
        """What a reader must find: each row with everything that belongs to it.

        Args:
            by_time: whether a row's picture is the one at its time, as LeRobot pairs them, or the
                one in its place, if a file has as many pictures as rows.
        """
        return [self._row(e, f, by_time) for e in range(self.num_episodes) for f in self.frames(e)]

    def _row(self, episode: int, frame: int, by_time: bool) -> Row:
        state = self.state(episode, frame)
        picture = self.picture if by_time else self.picture_in_order
        return Row(
            episode=episode,
            state=state,
            action=tuple(x + 0.5 for x in state),
            time_s=self.time_s(episode, frame),
            task=self.tasks[self.task_at(episode, frame)],
            texts=tuple((r.column, self.text(r, episode, frame)) for r in self.references),
            values=tuple((c.key, c.value(episode, frame)) for c in self.columns),
            pictures=tuple((c.key, picture(i, episode, frame)) for i, c in enumerate(self.cameras)),
        )

    def state(self, episode: int, frame: int) -> tuple[float, ...]:
        more = [(7 * episode + 3 * frame + dim) % 32 / 4 for dim in range(3, self.dim)]
        return (float(episode), float(frame), float(self.number), *more)

    def code(self, camera: int, episode: int, frame: int) -> Code:
        return Code(CAMERAS_PER_DATASET * self.number + camera, episode, frame)

    def picture(self, camera: int, episode: int, frame: int) -> Code | None:
        """The picture that LeRobot pairs with a row: the one whose stamp is nearest."""
        if not self.cameras[camera].is_video:
            return self.code(camera, episode, frame)
        film = self.film(camera, self.episodes_beside(camera, episode))
        start_s = film.starts[episode] if self.version == "v3.0" else 0.0
        return film.at(start_s + self.time_s(episode, frame), 0.5 / self.stated_fps)

    def picture_in_order(self, camera: int, episode: int, frame: int) -> Code | None:
        """The picture of a row if rows and pictures of a file were joined one by one."""
        if not self.cameras[camera].is_video:
            return self.code(camera, episode, frame)
        episodes = self.episodes_beside(camera, episode)
        rows = [(e, f) for e in episodes for f in self.frames(e)]
        codes = self.film(camera, episodes).codes
        return codes[rows.index((episode, frame))] if len(rows) == len(codes) else None

    @property
    def stated_fps(self) -> float:
        return dict(self.info).get("fps", self.fps)

    def episodes_beside(self, camera: int, episode: int) -> list[int]:
        """The episodes in the same video file, including this one."""
        if self.version != "v3.0":
            return [episode]
        files = self.cameras[camera].files or (0,) * self.num_episodes
        return [e for e in range(self.num_episodes) if files[e] == files[episode]]

    def film(self, number: int, episodes: Sequence[int]) -> Film:
        """What a camera's video of these episodes shows."""
        camera, codes, starts = self.cameras[number], list[Code | None](), dict[int, float]()
        rate = self.rate * camera.oversampling
        for episode in episodes:
            codes += [NOBODY] * camera.lead
            starts[episode] = camera.first_stamp_s + len(codes) / rate - self.row_start_s
            for frame in range(self.lengths[episode]):
                code = None if frame in camera.lost else self.code(number, episode, frame)
                codes += [code, *[NOBODY] * (camera.oversampling - 1)]
            codes += [NOBODY] * camera.tail
        codes = codes[: max(len(codes) - camera.cut, 1)]
        off = [(0.0, 1.0, -1.0, 0.5)[i % 4] * camera.jitter for i in range(len(codes))]
        shown = {
            camera.first_stamp_s + (i + off[i]) / rate: code
            for i, code in enumerate(codes)
            if code is not None
        } or {camera.first_stamp_s: NOBODY}
        return Film(codes=tuple(shown.values()), stamps_s=tuple(shown), starts=starts)

    def time_s(self, episode: int, frame: int) -> float:
        """The timestamp of a row, as it is stored."""
        off = (0.0, 1.0, -0.5, 0.75, -1.0)[(frame + episode) % 5] * self.jitter
        off = abs(off) if frame == 0 else off
        before = sum(self.lengths[:episode]) if self.times_run_on else 0
        time_s = self.epoch_s + self.row_start_s + (before + frame + off) / self.rate
        return float(np.dtype(self.time_stored or self.time_dtype).type(time_s))

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
        from .coded_files import write_dataset

        write_dataset(self, root)
        return root


def plain(version: Version = "v2.1", **values: Any) -> CodedDataset:
    """A dataset of a version, with other values than the defaults."""
    return CodedDataset(version=version, **values)
