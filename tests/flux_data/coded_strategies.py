"""Draws random coded datasets, with or without something that contradicts the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from .coded_dataset import DEPTH, H264, TOP, Camera, CodedDataset, Column, Reference, Version
from .coded_pictures import HEVC_SIDE, Encoding

WRIST = "observation.images.wrist"
ANNOTATION = "annotation.human.action.task_description"
RATES = (10, 5, 30, 12.5, 29.97, 50, 60)
PLAIN = "no contradiction"
TASKS = ("fold the towel", "open the drawer", "Tür öffnen", 'a "pick"\nand a place')
SUBTASKS = ("reach", "grasp", "lift", "place")
MAX_EPISODES, MAX_FRAMES = 4, 6

ENCODINGS = (H264, H264, Encoding(codec="mpeg4"), Encoding(codec="libx265", side=HEVC_SIDE))
"""Every picture is a keyframe, so that each episode can be copied."""

COLUMNS = (
    Column(key="observation.gripper", dtype="float32", stored="float32", kind="fraction"),
    Column(key="observation.force", dtype="float64", stored="float64", kind="fraction"),
    Column(key="observation.clock_ns", dtype="int64", stored="int64", kind="clock"),
    Column(key="observation.count", dtype="int32", stored="int64"),
    Column(key="observation.joints", dtype="float32", stored="float64", kind="fraction", width=3),
    Column(key="observation.mode", dtype="int64", stored="uint8"),
    Column(key="next.reward", dtype="float32", stored="float32", kind="fraction", width=1),
    Column(key="observation.flags", dtype="bool", stored="bool", kind="flag", width=2),
    Column(key="words", dtype="string", stored="large_string", kind="text"),
    Column(key="is_held", dtype="bool", stored="bool", kind="flag"),
    Column(key="note", dtype="string", stored="string", kind="text"),
    Column(key="language_persistent", dtype="language", stored="language", kind="persistent"),
    Column(key="language_events", dtype="language", stored="language", kind="events"),
)

TOO_WIDE = (
    Column(key="observation.byte", dtype="int8", stored="int64", kind="clock", width=2),
    Column(key="observation.open", dtype="bool", stored="float64", kind="fraction"),
    Column(key="observation.gripper", dtype="int64", stored="float64", kind="fraction"),
    Column(key="observation.clock_ns", dtype="int32", stored="int64", kind="clock"),
    Column(key="observation.clock_s", dtype="float32", stored="int64", kind="clock"),
)
"""Columns whose values do not fit the dtype that info.json declares."""

REFERENCES = (
    Reference(texts=SUBTASKS[:2]),
    Reference(column=ANNOTATION, table="tasks", stored="int32"),
    Reference(
        column="phase_index",
        table="phases",
        text_column="phase",
        texts=SUBTASKS[1:],
        numbers=(4, 0, 2),
        stored="uint8",
    ),
)

DEPTH_MARKS = (
    ("info", "is_depth_map"),
    ("info", "video.is_depth_map"),
    ("video_info", "video.is_depth_map"),
)

Draw = Callable[[st.SearchStrategy[Any]], Any]


@st.composite
def plain_datasets(
    draw: Draw, versions: tuple[Version, ...] = ("v2.0", "v2.1", "v3.0")
) -> CodedDataset:
    """Datasets without any contradiction."""
    version = draw(st.sampled_from(versions))
    count = draw(st.integers(1, MAX_EPISODES))
    lengths = tuple(draw(st.lists(st.integers(1, MAX_FRAMES), min_size=count, max_size=count)))
    tasks = _tasks(draw)
    dataset = CodedDataset(
        version=version,
        lengths=lengths,
        fps=draw(st.sampled_from(RATES)),
        dim=draw(st.sampled_from((3, 4, 7))),
        dtype=draw(st.sampled_from(("float32", "float64"))),
        tasks=tasks,
        task_numbers=_numbers(draw, len(tasks)),
        task_of=tuple(draw(_tasks_in_turn(len(tasks))) for _ in lengths),
        task_table=draw(st.sampled_from(("index", "task", "after a category"))),
        references=draw(_some(REFERENCES)),
        columns=draw(_some(COLUMNS, at_most=2)),
        data_files=_files(draw, count) if version == "v3.0" else (),
        time_dtype=draw(st.sampled_from(("float32", "float32", "float64"))),
        time_stored=draw(st.sampled_from(("", "", "float64"))),
        chunk_size=draw(st.sampled_from((1000, 2, 1))),
        are_lines_shuffled=draw(st.booleans()),
        lines_per_file=draw(st.sampled_from((1000, 2))),
        files=draw(_some((("meta/modality.json", "{}"), ("meta/notes/camera.txt", "left")))),
    )
    return replace(dataset, cameras=_cameras(draw, dataset))


def _tasks(draw: Draw) -> tuple[str, ...]:
    return tuple(draw(st.lists(st.sampled_from(TASKS), min_size=1, max_size=3, unique=True)))


def _numbers(draw: Draw, count: int) -> tuple[int, ...]:
    """The numbers of the tasks: 0, 1, 2 ... or any others."""
    if draw(st.booleans()):
        return ()
    return tuple(draw(st.lists(st.integers(0, 9), min_size=count, max_size=count, unique=True)))


def _tasks_in_turn(count: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(0, count - 1), min_size=1, max_size=2).map(tuple)


def _some(items: tuple[Any, ...], at_most: int = 3) -> st.SearchStrategy[tuple[Any, ...]]:
    """None of the items, or some, in order."""
    chosen = st.sets(st.sampled_from(range(len(items))), max_size=at_most)
    return st.one_of(
        st.just(()), chosen.map(lambda places: tuple(items[i] for i in sorted(places)))
    )


def _files(draw: Draw, count: int) -> tuple[int, ...]:
    """The file of each episode: ascending, without gaps."""
    steps = draw(st.lists(st.integers(0, 1), min_size=count - 1, max_size=count - 1))
    return tuple(sum(steps[:i]) for i in range(count))


def _cameras(draw: Draw, dataset: CodedDataset) -> tuple[Camera, ...]:
    """A colour camera, perhaps a second one, and perhaps a depth camera."""
    cameras = [_camera(draw, dataset, TOP)]
    if draw(st.booleans()):
        cameras.append(_camera(draw, dataset, WRIST))
    if draw(st.integers(0, 3)) == 0:
        kind = draw(st.sampled_from(("depth image", "depth video")))
        cameras.append(Camera(key=DEPTH, kind=kind, mark=draw(st.sampled_from(DEPTH_MARKS))))
    return tuple(cameras)


def _camera(draw: Draw, dataset: CodedDataset, key: str) -> Camera:
    if draw(st.integers(0, 3)) == 0:
        return Camera(key=key, kind="image", is_file=draw(st.booleans()))
    encoding = draw(st.sampled_from(ENCODINGS))
    if dataset.version != "v3.0":
        return Camera(key=key, encoding=encoding, tail=draw(st.integers(0, 1)))
    return Camera(
        key=key,
        encoding=encoding,
        files=_files(draw, dataset.num_episodes),
        lead=draw(st.integers(0, 2)),
        tail=draw(st.integers(0, 2)),
    )


@st.composite
def datasets(draw: Draw, plant: str = PLAIN) -> CodedDataset:
    """Datasets with the plant of this name."""
    versions = ("v3.0",) if plant in V30 else ("v2.0", "v2.1", "v3.0")
    return PLANTS[plant](draw, draw(plain_datasets(versions)))


def _late_video(draw: Draw, dataset: CodedDataset) -> CodedDataset:
    """The videos begin at another stamp; in v2 the rows know nothing of it, or begin there too."""
    late_s = draw(st.integers(1, 4)) / dataset.rate
    start_s = late_s if dataset.version != "v3.0" and draw(st.booleans()) else 0.0
    return _with_cameras(replace(dataset, row_start_s=start_s), first_stamp_s=late_s)


def _late_rows(draw: Draw, dataset: CodedDataset) -> CodedDataset:
    return replace(dataset, row_start_s=draw(st.integers(1, 4)) / dataset.rate)


def _with_cameras(dataset: CodedDataset, **values: Any) -> CodedDataset:
    """Changes all videos."""
    cameras = (replace(c, **values) if c.is_video else c for c in dataset.cameras)
    return replace(dataset, cameras=tuple(cameras))


def _long_gops(draw: Draw, dataset: CodedDataset) -> CodedDataset:
    gop, b_frames = draw(st.sampled_from((2, 3, 30))), draw(st.sampled_from((0, 2)))
    cameras = (
        replace(c, encoding=replace(c.encoding, gop=gop, b_frames=b_frames))
        for c in dataset.cameras
    )
    return replace(dataset, cameras=tuple(cameras))


def _dropped(draw: Draw, dataset: CodedDataset) -> CodedDataset:
    """Some rows are missing, but never all of an episode."""
    places = [(e, f) for e, n in enumerate(dataset.lengths) for f in range(n) if n > 1]
    if not places:
        return dataset
    chosen = draw(st.sets(st.sampled_from(places), min_size=1, max_size=3))
    kept = {e for e, n in enumerate(dataset.lengths) for f in range(n) if (e, f) not in chosen}
    dropped = tuple(sorted(place for place in chosen if place[0] in kept))
    return replace(dataset, dropped=dropped, is_renumbered=draw(st.booleans()))


def _missing(draw: Draw, dataset: CodedDataset) -> CodedDataset:
    what = draw(
        st.sampled_from(("video", "pointer", "data", "line", "rows", "last rows", "episode"))
    )
    episode = draw(_an_episode(dataset))
    return replace(dataset, missing=((what, episode),))


def _an_episode(dataset: CodedDataset) -> st.SearchStrategy[int]:
    return st.integers(0, dataset.num_episodes - 1)


def _permuted(draw: Draw, dataset: CodedDataset) -> tuple[int, ...]:
    return tuple(draw(st.permutations(range(dataset.num_episodes))))


def _scrambled_starts(draw: Draw, dataset: CodedDataset) -> CodedDataset:
    counts = [len(dataset.frames(e)) for e in range(dataset.num_episodes)]
    starts = [sum(counts[:e]) for e in _permuted(draw, dataset)]
    return replace(dataset, stated_starts=tuple(starts))


def _stale_files(draw: Draw, dataset: CodedDataset) -> CodedDataset:
    """The metadata names the file before, or one that never existed."""
    files = list(dataset.data_files)
    files[draw(st.integers(0, len(files) - 1))] += draw(st.sampled_from((-1, 1)))
    return replace(dataset, stated_files=tuple(max(file, 0) for file in files))


def _wrong_lengths(draw: Draw, dataset: CodedDataset) -> CodedDataset:
    lengths = tuple(dataset.lengths[e] for e in _permuted(draw, dataset))
    if draw(st.booleans()):
        lengths = (lengths[0] + draw(st.sampled_from((-1, 1))), *lengths[1:])
    return replace(dataset, stated_lengths=tuple(max(length, 1) for length in lengths))


def _task_twice(draw: Draw, dataset: CodedDataset) -> CodedDataset:
    """One text has two numbers, and rows with either."""
    tasks = (dataset.tasks[0], *dataset.tasks)
    turns = tuple(draw(_tasks_in_turn(len(tasks))) for _ in dataset.lengths)
    return replace(dataset, tasks=tasks, task_of=turns, task_numbers=_numbers(draw, len(tasks)))


def _too_wide(draw: Draw, dataset: CodedDataset) -> CodedDataset:
    return replace(dataset, columns=(draw(st.sampled_from(TOO_WIDE)),))


def _epoch(draw: Draw, dataset: CodedDataset) -> CodedDataset:
    """Wall-clock times, stored in float64 and declared so or not."""
    declared = draw(st.sampled_from(("float32", "float64")))
    return replace(dataset, epoch_s=1.7e9, time_dtype=declared, time_stored="float64")


PLANTS: dict[str, Callable[[Draw, CodedDataset], CodedDataset]] = {
    PLAIN: lambda draw, d: d,
    "late video": _late_video,
    "late rows": _late_rows,
    "long GOPs": _long_gops,
    "dropped rows": _dropped,
    "missing piece": _missing,
    "another order": lambda draw, d: replace(d, row_order=_permuted(draw, d)),
    "scrambled starts": _scrambled_starts,
    "stale files": _stale_files,
    "wrong lengths": _wrong_lengths,
    "reversed rows": lambda draw, d: replace(d, is_reversed=True),
    "other index": lambda draw, d: replace(d, index="the episode's rows"),
    "task twice": _task_twice,
    "too wide": _too_wide,
    "epoch": _epoch,
    "jitter": lambda draw, d: replace(d, jitter=draw(st.sampled_from((0.05, 0.25, 0.4)))),
    "short video": lambda draw, d: _with_cameras(d, cut=draw(st.integers(1, 3))),
    "lost pictures": lambda draw, d: _with_cameras(d, lost=(draw(st.integers(0, 4)),)),
    "uneven stamps": lambda draw, d: _with_cameras(d, jitter=draw(st.sampled_from((0.05, 0.2)))),
    "rows twice": lambda draw, d: replace(d, repeated=(draw(_an_episode(d)),)),
    "times run on": lambda draw, d: replace(d, times_run_on=True),
    "wrong fps": lambda draw, d: replace(d, info=(("fps", draw(st.sampled_from((15, 25, 100)))),)),
    "more pictures": lambda draw, d: _with_cameras(d, oversampling=2),
}
"""What makes a dataset contradict itself, or at least what LeRobot expects; and nothing."""

V30 = ("another order", "scrambled starts", "stale files", "rows twice")
"""The plants for v3.0 alone."""


@st.composite
def companions(draw: Draw, one: CodedDataset) -> CodedDataset:
    """Another dataset of the same robot, with its own tasks, texts, lengths and numbering."""
    count = draw(st.integers(1, 3))
    tasks = _tasks(draw)
    return replace(
        one,
        version=draw(st.sampled_from(("v2.1", "v3.0"))),
        number=1,
        lengths=tuple(draw(st.lists(st.integers(1, 5), min_size=count, max_size=count))),
        tasks=tasks,
        task_numbers=_numbers(draw, len(tasks)),
        task_of=tuple(draw(_tasks_in_turn(len(tasks))) for _ in range(count)),
        data_files=(),
        cameras=tuple(_other_video(draw, camera) for camera in one.cameras),
        references=tuple(_other_texts(draw, reference) for reference in one.references),
        **NOTHING_PLANTED,
    )


def _other_video(draw: Draw, camera: Camera) -> Camera:
    """The same camera with its own files, perhaps encoded in another way."""
    alike = [e for e in ENCODINGS if e.side == camera.encoding.side and not camera.is_depth]
    encoding = draw(st.sampled_from((camera.encoding, *alike)))
    return Camera(
        key=camera.key,
        kind=camera.kind,
        mark=draw(st.sampled_from(DEPTH_MARKS)),
        encoding=encoding,
        is_file=not camera.is_video and draw(st.booleans()),
    )


NOTHING_PLANTED: dict[str, Any] = {
    "dropped": (),
    "missing": (),
    "row_order": (),
    "stated_starts": (),
    "stated_files": (),
    "stated_lengths": (),
    "is_reversed": False,
    "repeated": (),
    "lines_per_file": 1000,
    "chunk_size": 1000,
    "times_run_on": False,
    "row_start_s": 0.0,
    "info": (),
}


def _other_texts(draw: Draw, reference: Reference) -> Reference:
    """The same column, whose table has the same texts or others."""
    if reference.table == "tasks":
        return reference
    if draw(st.booleans()):
        return replace(reference, shift=1)
    texts = tuple(draw(st.permutations(SUBTASKS))[: draw(st.integers(1, 4))])
    return replace(reference, texts=texts, numbers=_numbers(draw, len(texts)), shift=1)
