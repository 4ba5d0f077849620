"""Writes the files of a coded dataset, as LeRobot lays them out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .coded_dataset import ACTION, STATE, Camera, CodedDataset, Missing, Reference
from .coded_pictures import Code, depth_image, png, write_coded_video
from .small_dataset import write_lines

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

LFS_POINTER = """version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 12345
"""


def write_dataset(dataset: CodedDataset, root: Path) -> None:
    """Writes the dataset to a new folder."""
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(_info(dataset)))
    if dataset.version == "v3.0":
        _write_v30(dataset, root)
    else:
        _write_v2(dataset, root)
    _write_images(dataset, root)
    for reference in dataset.references:
        if reference.table != "tasks":
            _write_texts(dataset, reference, root)
    for name, text in dataset.files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for what, episode in dataset.missing:
        _remove(dataset, root, what, episode)


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
        "chunks_size": dataset.chunk_size,
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
        **{
            column.key: {**scalar(column.dtype), "shape": [column.width or 1]}
            for column in dataset.columns
        },
        "timestamp": scalar(dataset.time_dtype),
        **{k: scalar("int64") for k in ("frame_index", "episode_index", "index", "task_index")},
    }


def _camera_feature(camera: Camera) -> dict[str, Any]:
    side, dtype = camera.how.side, "video" if camera.is_video else "image"
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
            codes = [dataset.code(number, episode, f) for f in frames]
            stored = [image_in_rows(camera, code) for code in codes]
            columns[camera.key] = pa.array(stored, IMAGE)
    for reference in dataset.references:
        places = [dataset.reference_place(reference, episode, f) for f in frames]
        number_of = dataset.task_number if reference.table == "tasks" else reference.number
        kind = pa.type_for_alias(reference.stored)
        columns[reference.column] = pa.array(map(number_of, places), kind)
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
    kind = pa.type_for_alias(dataset.time_stored or dataset.time_dtype)
    columns["timestamp"] = pa.array(times, kind)
    return pa.table({**columns, **{k: pa.array(v, pa.int64()) for k, v in numbers.items()}})


def image_in_rows(camera: Camera, code: Code) -> dict[str, Any]:
    """An image as a row holds it: its bytes, or the path of its file below the dataset."""
    if camera.is_file:
        return {"bytes": None, "path": _image_file(camera, code)}
    return {"bytes": _image_bytes(camera, code), "path": f"frame_{code.frame:06d}.png"}


def _image_bytes(camera: Camera, code: Code) -> bytes:
    return depth_image(code) if camera.is_depth else png(code, camera.encoding.side)


def _image_file(camera: Camera, code: Code) -> str:
    return f"images/{camera.key}/episode_{code.episode:06d}/frame_{code.frame:06d}.png"


def _write_images(dataset: CodedDataset, root: Path) -> None:
    for number, camera in enumerate(dataset.cameras):
        for episode in range(dataset.num_episodes if camera.is_file else 0):
            for frame in dataset.frames(episode):
                code = dataset.code(number, episode, frame)
                path = root / _image_file(camera, code)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(_image_bytes(camera, code))


def _tables(dataset: CodedDataset) -> list[pa.Table]:
    """The rows of each episode."""
    counts = [len(dataset.frames(e)) for e in range(dataset.num_episodes)]
    tables = [_table(dataset, e, start) for e, start in enumerate(_starts(dataset, counts))]
    return [t.take(np.arange(len(t))[::-1]) for t in tables] if dataset.is_reversed else tables


def _starts(dataset: CodedDataset, counts: list[int]) -> list[int]:
    """The number of rows that are stored before each episode."""
    starts, first = [-1] * len(counts), 0
    for episode in _stored_order(dataset):
        starts[episode] = first if starts[episode] < 0 else starts[episode]
        first += counts[episode]
    return starts


def _stored_order(dataset: CodedDataset) -> list[int]:
    order = dataset.row_order or tuple(range(dataset.num_episodes))
    order = (*order, *dataset.repeated)
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
    write_lines(root / "meta/episodes.jsonl", _in_order(dataset, lines))
    for episode, table in enumerate(tables):
        _write_table(table, _data_file(dataset, root, episode))
        for number, camera in _video_cameras(dataset):
            _write_video(dataset, number, [episode], root / _video_file(dataset, camera, episode))


def _write_v30(dataset: CodedDataset, root: Path) -> None:
    tables = _tables(dataset)
    for file, group in groupby(_stored_order(dataset), key=partial(_file_of, dataset)):
        joined = pa.concat_tables([tables[e] for e in group])
        _write_table(joined, root / f"data/{_place_of(dataset, file)}.parquet")
    lines = [_line_v30(dataset, e, tables) for e in range(len(tables))]
    for number, camera in _video_cameras(dataset):
        for file, group in groupby(range(len(tables)), key=partial(_place, camera)):
            episodes = list(group)
            path = root / _video_file(dataset, camera, episodes[0])
            starts = _write_video(dataset, number, episodes, path)
            for episode, start_s in starts.items():
                end_s = start_s + dataset.lengths[episode] / dataset.rate
                lines[episode] |= {
                    f"videos/{camera.key}/chunk_index": file // dataset.chunk_size,
                    f"videos/{camera.key}/file_index": file % dataset.chunk_size,
                    f"videos/{camera.key}/from_timestamp": start_s,
                    f"videos/{camera.key}/to_timestamp": end_s,
                }
    lines = _in_order(dataset, lines)
    for file, first in enumerate(range(0, len(lines), dataset.lines_per_file)):
        part = pa.Table.from_pylist(lines[first : first + dataset.lines_per_file])
        _write_table(part, root / f"meta/episodes/chunk-000/file-{file:03d}.parquet")
    _write_table(_task_table(dataset), root / "meta/tasks.parquet")


def _in_order(dataset: CodedDataset, lines: list[Any]) -> list[Any]:
    return [*lines[1::2], *lines[::2]] if dataset.are_lines_shuffled else lines


def _write_table(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def _place_of(dataset: CodedDataset, file: int) -> str:
    """Where a file of v3.0 is: a folder and a name, without the ending."""
    return f"chunk-{file // dataset.chunk_size:03d}/file-{file % dataset.chunk_size:03d}"


def _line_v30(dataset: CodedDataset, episode: int, tables: list[pa.Table]) -> dict[str, Any]:
    files = dataset.stated_files or dataset.data_files or (0,) * len(tables)
    starts = dataset.stated_starts or _starts(dataset, [len(table) for table in tables])
    length = _stated_length(dataset, episode)
    return {
        "episode_index": episode,
        "tasks": _episode_tasks(dataset, episode),
        "length": length,
        "data/chunk_index": files[episode] // dataset.chunk_size,
        "data/file_index": files[episode] % dataset.chunk_size,
        "dataset_from_index": starts[episode],
        "dataset_to_index": starts[episode] + length,
        "meta/episodes/chunk_index": 0,
        "meta/episodes/file_index": 0,
    }


def _video_cameras(dataset: CodedDataset) -> Iterator[tuple[int, Camera]]:
    return ((i, camera) for i, camera in enumerate(dataset.cameras) if camera.is_video)


def _write_video(
    dataset: CodedDataset, number: int, episodes: list[int], path: Path
) -> Mapping[int, float]:
    """Writes one file, and returns the time in it that stands for time 0 of each episode."""
    camera = dataset.cameras[number]
    film, rate = dataset.film(number, episodes), dataset.rate * camera.oversampling
    write_coded_video(path, film.codes, film.stamps_s, rate, camera.how)
    return film.starts


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
    texts = list(reference.texts)
    numbers = [reference.number(place) for place in range(len(texts))]
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
    if what in ("video", "pointer") or (what == "episode" and not is_v3):
        for _, camera in _video_cameras(dataset):
            path = root / _video_file(dataset, camera, episode)
            path.write_text(LFS_POINTER) if what == "pointer" else path.unlink()
    if what in ("line", "episode"):
        _remove_line(root, episode, is_v3)
    if what == "data" or (what == "episode" and not is_v3):
        _data_file(dataset, root, episode).unlink()
    elif what in ("rows", "last rows", "episode"):
        path = _data_file(dataset, root, episode)
        table = pq.ParquetFile(path).read()
        numbers = np.asarray(table["episode_index"])
        gone = np.flatnonzero(numbers == episode)
        kept = np.delete(np.arange(len(numbers)), gone[-1:] if what == "last rows" else gone)
        pq.write_table(table.take(kept), path)


def _remove_line(root: Path, episode: int, is_v3: bool) -> None:
    for path in sorted((root / "meta/episodes").rglob("*.parquet")) if is_v3 else ():
        lines = pq.ParquetFile(path).read()
        pq.write_table(lines.filter(pc.field("episode_index") != episode), path)
    if not is_v3:
        path = root / "meta/episodes.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        write_lines(path, [line for line in lines if line["episode_index"] != episode])


def _video_file(dataset: CodedDataset, camera: Camera, episode: int) -> str:
    if dataset.version != "v3.0":
        chunk = episode // dataset.chunk_size
        return f"videos/chunk-{chunk:03d}/{camera.key}/episode_{episode:06d}.mp4"
    return f"videos/{camera.key}/{_place_of(dataset, _place(camera, episode))}.mp4"


def _place(camera: Camera, episode: int) -> int:
    return camera.files[episode] if camera.files else 0


def _data_file(dataset: CodedDataset, root: Path, episode: int) -> Path:
    if dataset.version != "v3.0":
        chunk = episode // dataset.chunk_size
        return root / f"data/chunk-{chunk:03d}/episode_{episode:06d}.parquet"
    return root / f"data/{_place_of(dataset, _file_of(dataset, episode))}.parquet"
