"""A small dataset in both layouts, with a video and stored images, and ways to damage it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from .video.test_video_codecs import SIDE, Video, write_video, x264

FPS, LENGTHS, DIM = 10, (8, 6, 7), 3
STATE, ACTION = "observation.state", "action"
TOP, WRIST = "observation.images.top", "observation.images.wrist"
WRIST_SIZE = (16, 24)
EPISODES_V3 = "meta/episodes/chunk-000/file-000.parquet"

Plant = Callable[[Path], object]


def png(number: int, size: tuple[int, int] = WRIST_SIZE) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((*size, 3), number, np.uint8)).save(file, "PNG")
    return file.getvalue()


def features() -> dict[str, Any]:
    return {
        STATE: {"dtype": "float32", "shape": [DIM], "names": None},
        ACTION: {"dtype": "float32", "shape": [DIM], "names": None},
        TOP: {"dtype": "video", "shape": [SIDE, SIDE, 3], "names": None},
        WRIST: {"dtype": "image", "shape": [*WRIST_SIZE, 3], "names": None},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **{
            key: {"dtype": "int64", "shape": [1], "names": None}
            for key in ("frame_index", "episode_index", "index", "task_index")
        },
    }


def table_of(episode: int) -> pa.Table:
    length, first = LENGTHS[episode], sum(LENGTHS[:episode])
    frames = np.arange(length)
    states = (np.arange(length * DIM).reshape(length, DIM) / 100).astype(np.float32)
    images = [{"bytes": png(int(frame)), "path": f"frame_{frame:06d}.png"} for frame in frames]
    return pa.table(
        {
            STATE: pa.FixedSizeListArray.from_arrays(states.ravel(), DIM),
            ACTION: pa.array(states.tolist(), pa.list_(pa.float32())),
            WRIST: pa.array(images),
            "timestamp": (frames / FPS).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(length, episode),
            "index": frames + first,
            "task_index": np.zeros(length, np.int64),
        }
    )


def stats() -> dict[str, Any]:
    numbers = {name: [0.0] * DIM for name in ("min", "max", "mean", "std")}
    colours = {name: [[[0.0]]] * 3 for name in ("min", "max", "mean", "std")}
    return {STATE: numbers, ACTION: numbers, TOP: colours, WRIST: colours}


def write_lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_v21(root: Path) -> None:
    places = "chunk-{episode_chunk:03d}", "episode_{episode_index:06d}"
    info = {
        "codebase_version": "v2.1",
        "fps": FPS,
        "chunks_size": 1000,
        "features": features(),
        "data_path": f"data/{places[0]}/{places[1]}.parquet",
        "video_path": f"videos/{places[0]}/{{video_key}}/{places[1]}.mp4",
    }
    for folder in ("meta", "data/chunk-000", f"videos/chunk-000/{TOP}"):
        (root / folder).mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    rows = [{"episode_index": i, "length": n, "tasks": ["fold"]} for i, n in enumerate(LENGTHS)]
    write_lines(root / "meta/episodes.jsonl", rows)
    write_lines(root / "meta/tasks.jsonl", [{"task_index": 0, "task": "fold"}])
    rows = [{"episode_index": i, "stats": stats()} for i in range(len(LENGTHS))]
    write_lines(root / "meta/episodes_stats.jsonl", rows)
    for episode, length in enumerate(LENGTHS):
        pq.write_table(table_of(episode), root / f"data/chunk-000/episode_{episode:06d}.parquet")
        write_top(root / f"videos/chunk-000/{TOP}/episode_{episode:06d}.mp4", length)


def write_v30(root: Path) -> None:
    place = "chunk-{chunk_index:03d}/file-{file_index:03d}"
    info = {
        "codebase_version": "v3.0",
        "fps": FPS,
        "features": features(),
        "data_path": f"data/{place}.parquet",
        "video_path": f"videos/{{video_key}}/{place}.mp4",
    }
    for folder in ("meta/episodes/chunk-000", "data/chunk-000", f"videos/{TOP}/chunk-000"):
        (root / folder).mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/stats.json").write_text(json.dumps(stats()))
    starts = np.concatenate(([0], np.cumsum(LENGTHS)))
    zeros = np.zeros(len(LENGTHS), np.int64)
    episodes = {
        "episode_index": np.arange(len(LENGTHS)),
        "length": np.array(LENGTHS),
        "data/chunk_index": zeros,
        "data/file_index": zeros,
        "dataset_from_index": starts[:-1],
        f"videos/{TOP}/chunk_index": zeros,
        f"videos/{TOP}/file_index": zeros,
        f"videos/{TOP}/from_timestamp": starts[:-1] / FPS,
    }
    pq.write_table(pa.table(episodes), root / EPISODES_V3)
    tasks = pa.table({"task_index": [0], "task": ["fold"]})
    pq.write_table(tasks, root / "meta/tasks.parquet")
    tables = pa.concat_tables([table_of(episode) for episode in range(len(LENGTHS))])
    pq.write_table(tables, root / "data/chunk-000/file-000.parquet")
    write_top(root / f"videos/{TOP}/chunk-000/file-000.mp4", sum(LENGTHS))


def write_top(path: Path, length: int, side: int = SIDE) -> None:
    video = Video(suffix=".mp4", codec="libx264", options=x264(4), num_frames=length)
    changes = {"fps": Fraction(FPS), "height": side, "width": side}
    write_video(path, Video(**{**vars(video), **changes}))


DATA = {"v21": "data/chunk-000/episode_000001.parquet", "v30": "data/chunk-000/file-000.parquet"}
VIDEO = {
    "v21": f"videos/chunk-000/{TOP}/episode_000001.mp4",
    "v30": f"videos/{TOP}/chunk-000/file-000.mp4",
}


def edit_info(**values: Any) -> Plant:
    def change(root: Path) -> None:
        path = root / "meta/info.json"
        info = json.loads(path.read_text()) | values
        path.write_text(json.dumps({k: v for k, v in info.items() if v is not ...}))

    return change


def edit_feature(key: str, feature: object) -> Plant:
    return edit_info(features=features() | {key: feature})


def write(name: str, content: str | bytes) -> Plant:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda root: (root / name).write_bytes(data)


def remove(name: str) -> Plant:
    return lambda root: (root / name).unlink()


def cut(name: str, share: float = 0.6) -> Plant:
    def change(root: Path) -> None:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: int(share * len(data))])

    return change


def edit_lines(name: str, change: Callable[[list[Any]], object]) -> Plant:
    def rewrite(root: Path) -> None:
        rows = [json.loads(line) for line in (root / name).read_text().splitlines()]
        change(rows)
        write_lines(root / name, rows)

    return rewrite


def put(*path: Any) -> Callable[[Any], None]:
    """Sets the item at the path, given by all parts but the last, to the last part."""

    def change(rows: Any) -> None:
        for part in path[:-2]:
            rows = rows[part]
        rows[path[-2]] = path[-1]

    return change


def edit_column(
    name: str, key: str, change: Callable[[list[Any]], Any], type_: Any = None
) -> Plant:
    """Rewrites a column; `change` alters the values in place or returns new ones."""

    def rewrite(root: Path) -> None:
        table = pq.read_table(root / name)
        values = table[key].to_pylist()
        values = change(values) or values
        at = table.schema.get_field_index(key)
        array = pa.array(values, type_ or table[key].type)
        pq.write_table(table.set_column(at, key, array), root / name)

    return rewrite


def edit_table(name: str, change: Callable[[pa.Table], pa.Table]) -> Plant:
    return lambda root: pq.write_table(change(pq.read_table(root / name)), root / name)
