"""One fault in a small dataset: reading, `info` and `validate` each report it in one line.

Reading means opening the dataset and making every sample of it, as training does.
"""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flux_core.errors import DataError
from flux_core.transforms import ResizeImages
from flux_data.commands.main import main
from flux_data.lerobot.dataset import open_lerobot
from flux_data.samples.mixture import DistributedRepeatingDataset
from flux_data.samples.process_inputs import ProcessParquetInputs
from flux_data.samples.windows import ParquetDataset

from .small_dataset import (
    ACTION,
    DATA,
    EPISODES_V3,
    LENGTHS,
    STATE,
    TOP,
    VIDEO,
    WRIST,
    WRIST_SIZE,
    Plant,
    cut,
    edit_column,
    edit_feature,
    edit_info,
    edit_lines,
    edit_table,
    png,
    put,
    remove,
    stats,
    write,
    write_top,
    write_v21,
    write_v30,
)
from .video.test_video_codecs import SIDE, write_sound


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both layouts of one dataset."""
    folder = tmp_path_factory.mktemp("good")
    write_v21(folder / "v21")
    write_v30(folder / "v30")
    return folder


@dataclass(frozen=True)
class Fault:
    """A planted fault, the message of reading after the path of `file`, and that of `validate`.

    `reading` is None where only `validate` looks, `said` None where it says the same.
    """

    layout: str
    plant: Plant
    file: str
    reading: str | None
    said: str | None = None
    stops_info: bool = False


def metadata(layout: str, plant: Plant, file: str, reading: str) -> Fault:
    return Fault(layout, plant, file, reading, stops_info=True)


def of_info(plant: Plant, reading: str) -> Fault:
    return metadata("v21", plant, "meta/info.json", reading)


def of_lines(name: str, change: Callable[[list[Any]], object], reading: str) -> Fault:
    return metadata("v21", edit_lines(f"meta/{name}", change), f"meta/{name}", reading)


def of_episodes(key: str, value: Any, reading: str) -> Fault:
    plant = edit_column(EPISODES_V3, key, put(1, value))
    return metadata("v30", plant, EPISODES_V3, reading)


def of_column(
    key: str,
    change: Callable[[list[Any]], Any],
    reading: str,
    said: str | None = None,
    type_: Any = None,
    layout: str = "v21",
) -> Fault:
    name = DATA[layout]
    return Fault(layout, edit_column(name, key, change, type_), name, reading, said)


def drop(rows: list[Any]) -> None:
    rows.pop(1)


def depth_map() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full(WRIST_SIZE, 3000, np.uint16)).save(file, "PNG")
    return file.getvalue()


def image(data: bytes | None, path: str | None = None) -> Callable[[list[Any]], None]:
    return put(2, {"bytes": data, "path": path})


IN_1 = "episode 1"
LOST_1, CUT = "the parquet file of episode 1 is missing", "cannot be read as parquet"
FEATURE = "expected an object with a dtype"
FAULTS = {
    "info is a list": of_info(write("meta/info.json", "[1]"), "expected an object, got [1]"),
    "info is cut": of_info(cut("meta/info.json"), "expected JSON"),
    "info is no text": of_info(write("meta/info.json", b'{"\xff": 1}'), "expected JSON"),
    "no fps": of_info(edit_info(fps=...), "the key 'fps' is missing"),
    "fps is 0": of_info(edit_info(fps=0), "fps: expected a number above 0, got 0"),
    "fps is text": of_info(edit_info(fps="30"), "fps: expected a number above 0, got '30'"),
    "fps is nan": of_info(edit_info(fps=np.nan), "fps: expected a number above 0, got nan"),
    "fps is infinite": of_info(edit_info(fps=np.inf), "fps: expected a number above 0, got inf"),
    "features is a list": of_info(edit_info(features=[]), "features: expected an object, got []"),
    "a feature is null": of_info(edit_feature(STATE, None), f"features.{STATE}: {FEATURE}"),
    "a feature has no dtype": of_info(
        edit_feature(STATE, {"shape": [3]}), f"features.{STATE}: {FEATURE}, got {{'shape': [3]}}"
    ),
    "a feature has no shape": of_info(
        edit_feature(STATE, {"dtype": "float32"}),
        f"features.{STATE}.shape: expected a list of whole numbers, got None",
    ),
    "a shape of text": of_info(
        edit_feature(STATE, {"dtype": "float32", "shape": ["3"]}),
        f"features.{STATE}.shape: expected a list of whole numbers, got ['3']",
    ),
    "a camera without height": of_info(
        edit_feature(TOP, {"dtype": "video", "shape": [SIDE, 3]}),
        f"features.{TOP}.shape: expected [height, width, channels], got [{SIDE}, 3]",
    ),
    "data_path is a number": of_info(edit_info(data_path=3), "data_path: expected a path with"),
    "data_path of another version": of_info(
        edit_info(data_path="data/file-{file_index:03d}.parquet"),
        "data_path: expected a path with some of episode_chunk, episode_index, video_key, got",
    ),
    "data_path with an open brace": of_info(
        edit_info(data_path="data/{episode_index.parquet"), "data_path: expected a path with"
    ),
    "no video_path": of_info(edit_info(video_path=None), "video_path: expected a path with some"),
    "no chunks_size": of_info(edit_info(chunks_size=...), "chunks_size: expected a whole number"),
    "chunks_size is 0": of_info(edit_info(chunks_size=0), "chunks_size: expected a whole number"),
    "episodes.jsonl missing": metadata(
        "v21", remove("meta/episodes.jsonl"), "meta/episodes.jsonl", "not found"
    ),
    "no episodes": metadata(
        "v21", write("meta/episodes.jsonl", ""), "", "expected at least one episode"
    ),
    "an episode twice": of_lines(
        "episodes.jsonl",
        put(2, "episode_index", 1),
        ":3: expected each episode_index once, got 1 again",
    ),
    "an episode left out": of_lines("episodes.jsonl", drop, ":2: expected episode 1, got 2"),
    "an episode without frames": of_lines(
        "episodes.jsonl",
        put(1, "length", 0),
        ":2: expected an episode_index and a length of at least 1, got {'episode_index': 1, 'leng",
    ),
    "a length of text": of_lines("episodes.jsonl", put(1, "length", "6"), ":2: expected an epis"),
    "a length that is true": of_lines("episodes.jsonl", put(1, "length", True), ":2: expected an"),
    "a negative index": of_lines("episodes.jsonl", put(0, "episode_index", -1), ":1: expected an"),
    "an episode that is a list": of_lines("episodes.jsonl", put(1, [1, 6]), ":2: expected an obje"),
    "an episode without index": of_lines("episodes.jsonl", put(1, {"length": 6}), ":2: expected"),
    "tasks.jsonl missing": metadata(
        "v21", remove("meta/tasks.jsonl"), "meta/tasks.jsonl", "not found"
    ),
    "a task twice": of_lines(
        "tasks.jsonl",
        lambda rows: rows.append({"task_index": 0, "task": "wipe"}),
        ":2: expected each task_index once, got 0 again, after 'fold'",
    ),
    "a task that is a number": of_lines("tasks.jsonl", put(0, "task", 3), ":1: expected a task_in"),
    "a task without index": of_lines("tasks.jsonl", put(0, {"task": "fold"}), ":1: expected a ta"),
    "v3: episodes cut": metadata("v30", cut(EPISODES_V3), EPISODES_V3, CUT),
    "v3: episodes missing": metadata(
        "v30", remove(EPISODES_V3), "meta/episodes", "found no chunk-*/file-*.parquet"
    ),
    "v3: a column of episodes missing": metadata(
        "v30",
        edit_table(EPISODES_V3, lambda table: table.drop_columns(["dataset_from_index"])),
        EPISODES_V3,
        "expected column 'dataset_from_index', got",
    ),
    "v3: an episode twice": of_episodes(
        "episode_index", 2, "row 2: expected each episode_index once, got 2 again"
    ),
    "v3: an episode left out": of_episodes("episode_index", 7, "row 2: expected episode 1, got 2"),
    "v3: an episode without frames": of_episodes("length", 0, "row 1: expected an episode_index"),
    "v3: a length of null": of_episodes("length", None, "row 1: length: expected 0 or more, got"),
    "v3: a negative place": of_episodes(
        "dataset_from_index", -8, "row 1: dataset_from_index: expected 0 or more, got -8"
    ),
    "v3: a time of nan": of_episodes(
        f"videos/{TOP}/from_timestamp", np.nan, f"row 1: videos/{TOP}/from_timestamp: expected 0"
    ),
    "v3: a place of text": metadata(
        "v30",
        edit_column(EPISODES_V3, "data/file_index", lambda rows: ["a"] * len(rows), pa.string()),
        EPISODES_V3,
        "data/file_index: expected whole numbers, got object",
    ),
    "v3: tasks missing": metadata("v30", remove("meta/tasks.parquet"), "meta/tasks.parquet", CUT),
    "v3: a task of null": metadata(
        "v30",
        edit_column("meta/tasks.parquet", "task", put(0, None)),
        "meta/tasks.parquet",
        "row 0: expected a task_index and a text, got {'task_index': 0, 'task': None}",
    ),
    "parquet missing": Fault("v21", remove(DATA["v21"]), DATA["v21"], LOST_1, "is missing"),
    "parquet cut": Fault("v21", cut(DATA["v21"]), DATA["v21"], CUT),
    "parquet empty": Fault("v21", write(DATA["v21"], ""), DATA["v21"], CUT),
    "parquet is text": Fault(
        "v21", write(DATA["v21"], "version https://git-lfs"), DATA["v21"], CUT
    ),
    "v3: parquet missing": Fault(
        "v30", remove(DATA["v30"]), DATA["v30"], "the parquet file of episode 0 is", "is missing"
    ),
    "v3: parquet cut": Fault("v30", cut(DATA["v30"]), DATA["v30"], CUT),
    "v3: rows missing": Fault(
        "v30",
        edit_table(DATA["v30"], lambda table: table.slice(0, 18)),
        DATA["v30"],
        "episode 2: expected 7 rows (the metadata), got 4",
        "expected 7 rows (the metadata), got 4",
    ),
    "rows missing": Fault(
        "v21",
        edit_table(DATA["v21"], lambda table: table.slice(0, 5)),
        DATA["v21"],
        "episode 1: expected 6 rows (the metadata), got 5",
        "expected 6 rows (the metadata), got 5",
    ),
    "a column missing": Fault(
        "v21",
        edit_table(DATA["v21"], lambda table: table.drop_columns([ACTION])),
        DATA["v21"],
        f"expected column '{ACTION}', got",
        f"expected column '{ACTION}'",
    ),
    "dimensions": of_column(
        ACTION,
        lambda rows: [[*row, 0.0] for row in rows],
        f"{IN_1}, {ACTION}: expected 3 dimensions (info.json), got 4",
        f"{ACTION}: expected 3 dimensions (info.json), got 4",
    ),
    "uneven rows": of_column(ACTION, put(2, [1.0]), f"{ACTION}: expected rows of one length"),
    "a row of null": of_column(ACTION, put(2, None), f"{ACTION}: expected rows of one length"),
    "a fixed row of null": of_column(STATE, put(2, None), f"{STATE}: expected rows of one length"),
    "numbers as text": of_column(
        ACTION,
        lambda rows: [[str(value) for value in row] for row in rows],
        f"{IN_1}, {ACTION}: expected float32, got ",
        f"{ACTION}: expected float32, got ",
        pa.list_(pa.string()),
    ),
    "an action of nan": of_column(
        ACTION,
        put(4, 1, np.nan),
        f"{IN_1}, {ACTION}: frame 4: expected a finite value, got nan",
        "frame 4: expected a finite value, got nan",
    ),
    "v3: a state of inf": of_column(
        STATE,
        put(8 + 4, 1, np.inf),
        f"{IN_1}, {STATE}: frame 4: expected a finite value, got inf",
        "frame 4: expected a finite value, got inf",
        layout="v30",
    ),
    "a value of null": of_column(
        STATE,
        put(3, 0, None),
        f"{IN_1}, {STATE}: frame 3: expected a finite value, got nan",
        "frame 3: expected a finite value, got nan",
    ),
    "time goes back": of_column(
        "timestamp",
        put(3, 0.15),
        f"{IN_1}, timestamp: frame 3: expected a later time than that of frame 2",
        "timestamp: frame 3: expected a later time than frame 2's",
    ),
    "a time of nan": of_column(
        "timestamp",
        put(3, np.nan),
        f"{IN_1}, timestamp: frame 3: expected a finite value, got nan",
        "frame 3: expected a finite value, got nan",
    ),
    "a time of text": of_column(
        "timestamp",
        lambda rows: [str(row) for row in rows],
        f"{IN_1}, timestamp: expected float32, got str",
        "timestamp: expected float32, got str",
        pa.string(),
    ),
    "a task out of range": of_column(
        "task_index",
        put(4, 1),
        "frame 4: task_index: expected a task of the metadata, got 1",
        "task_index: frame 4: expected a known task, got 1",
    ),
    "v3: a task of -1": of_column(
        "task_index",
        put(8 + 4, -1),
        "frame 4: task_index: expected a task of the metadata, got -1",
        "task_index: frame 4: expected a known task, got -1",
        layout="v30",
    ),
    "a task of null": of_column(
        "task_index",
        put(4, None),
        f"{IN_1}, task_index: frame 4: expected a finite value, got nan",
        "frame 4: expected a finite value, got nan",
    ),
    "video missing": Fault("v21", remove(VIDEO["v21"]), VIDEO["v21"], "the video file is missing"),
    "video cut": Fault(
        "v21",
        cut(VIDEO["v21"], 0.3),
        VIDEO["v21"],
        "cannot be opened as a video",
        "cannot be read as",
    ),
    "video is text": Fault(
        "v21", write(VIDEO["v21"], "x" * 99), VIDEO["v21"], "cannot be opened", "cannot be read as"
    ),
    "video is sound": Fault(
        "v21", lambda root: write_sound(root / VIDEO["v21"]), VIDEO["v21"], "has no video stream"
    ),
    "video too short": Fault(
        "v21",
        lambda root: write_top(root / VIDEO["v21"], 4),
        VIDEO["v21"],
        "expected a picture at 0.5000 s, the row's time, got 4 pictures from 0.0000 s to 0.3000 s",
        "2 of 6 frames are not in the video; first: frame 4 at 0.4000 s",
    ),
    "video of another size": Fault(
        "v21",
        lambda root: write_top(root / VIDEO["v21"], 6, 80),
        VIDEO["v21"],
        f"{TOP}: expected 64x64 (info.json), got 80x80",
        "expected 64x64 (info.json), got 80x80",
    ),
    "v3: video too short": Fault(
        "v30",
        lambda root: write_top(root / VIDEO["v30"], 15),
        VIDEO["v30"],
        "expected a picture at 2.0000 s, the row's time, got 15 pictures from 0.0000 s to 1.4000 s",
        "6 of 7 frames are not in the video; first: frame 1 at 1.5000 s",
    ),
    "image damaged": of_column(
        WRIST,
        image(png(2)[:40]),
        f"{IN_1}, {WRIST}, frame 2: the image cannot be decoded",
        f"{WRIST}: the image cannot be decoded",
    ),
    "image missing": of_column(
        WRIST,
        image(None),
        f"{IN_1}, {WRIST}, frame 2: expected an image, got NoneType",
        f"{WRIST}: expected an image, got NoneType",
    ),
    "image file missing": of_column(
        WRIST,
        image(None, "images/frame_000002.png"),
        f"{IN_1}, {WRIST}, frame 2: the image file ",
        "images/frame_000002.png is missing",
    ),
    "image of another size": of_column(
        WRIST,
        image(png(2, (24, 24))),
        f"{IN_1}, {WRIST}, frame 2: expected 16x24 (info.json), got 24x24",
        f"{WRIST}: expected 16x24 (info.json), got 24x24",
    ),
    "image of depth": of_column(
        WRIST,
        image(depth_map()),
        f"{IN_1}, {WRIST}, frame 2: expected 8 bits per channel, got mode I;16",
        f"{WRIST}: expected 8 bits per channel, got mode I;16",
    ),
    "images are numbers": of_column(
        WRIST,
        lambda rows: list(range(6)),
        f"{IN_1}, {WRIST}, frame 0: expected an image, got int64",
        f"{WRIST}: expected an image, got int64",
        pa.int64(),
    ),
    "images of another struct": of_column(
        WRIST,
        lambda rows: [{"data": b"x"}] * 6,
        f"{WRIST}: expected an image {{bytes, path}}, got {{data}}",
        None,
        pa.struct([("data", pa.binary())]),
    ),
    "stats cut": Fault(
        "v21", cut("meta/episodes_stats.jsonl"), "meta/episodes_stats.jsonl", None, "expected JSON"
    ),
    "stats of other dimensions": Fault(
        "v21",
        edit_lines("meta/episodes_stats.jsonl", put(1, "stats", STATE, "std", [0.0])),
        "meta/episodes_stats.jsonl:2",
        None,
        f"{STATE}: std: expected 3 dimensions (info.json), got 1",
    ),
    "stats of nan": Fault(
        "v21",
        edit_lines("meta/episodes_stats.jsonl", put(1, "stats", ACTION, "min", [0.0, np.nan, 1])),
        "meta/episodes_stats.jsonl:2",
        None,
        f"{ACTION}: min: expected a finite value, got nan",
    ),
    "stats are text": Fault(
        "v21",
        edit_lines("meta/episodes_stats.jsonl", put(1, "stats", "none")),
        "meta/episodes_stats.jsonl:2",
        None,
        "expected statistics by feature, got str",
    ),
    "v3: stats of other dimensions": Fault(
        "v30",
        write("meta/stats.json", json.dumps(stats() | {TOP: {"mean": [0.5]}})),
        "meta/stats.json",
        None,
        f"{TOP}: mean: expected 3 dimensions (info.json), got 1",
    ),
}


def config_of(root: Path, *cameras: str) -> ParquetDataset.Config:
    inputs = ProcessParquetInputs(parquet_keys=(STATE, "actions"), video_keys=cameras)
    return ParquetDataset.Config(
        data_root_path=str(root),
        transforms=(inputs, ResizeImages(height=16, width=16)),
        action_key=ACTION,
        action_window_size=4,
        window_start_idx=0,
    )


def read_all(root: Path) -> int:
    """Makes every sample; returns their number."""
    dataset = config_of(root, TOP, WRIST).build()
    for index in range(len(dataset)):
        assert dataset[index]["images"].shape == (2, 16, 16, 3)
    return len(dataset)


@pytest.mark.parametrize("layout", ["v21", "v30"])
def test_a_sound_dataset_is_read_and_has_no_faults(layout: str, good: Path) -> None:
    assert read_all(good / layout) == sum(LENGTHS)
    assert main(["info", str(good / layout)]) == 0
    assert main(["validate", str(good / layout)]) == 0


@pytest.mark.parametrize("name", FAULTS)
def test_every_command_reports_a_fault_in_one_line(
    name: str, good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fault, root = FAULTS[name], tmp_path / "data"
    shutil.copytree(good / fault.layout, root)
    fault.plant(root)
    file = str(root / fault.file)

    if fault.reading is None:
        read_all(root)
    else:
        with pytest.raises(DataError) as error:
            read_all(root)
        message = str(error.value)
        assert message.startswith(file) and fault.reading in message
        assert "\n" not in message

    capfd.readouterr()
    assert main(["info", str(root)]) == int(fault.stops_info)
    said = capfd.readouterr().err
    assert "Traceback" not in said
    if fault.stops_info:
        assert said.startswith(f"flux-data: error: {file}") and fault.reading in said

    assert main(["validate", str(root), "--json"]) == 1
    printed = capfd.readouterr()
    assert "Traceback" not in printed.err
    expected = fault.said or fault.reading
    found = [f"{f['file']}: {f['message']}" for f in json.loads(printed.out)["faults"]]
    assert any(f.startswith(file) and expected in f for f in found), found


def statistics(root: Path) -> object:
    datasets = config_of(root, TOP)
    return DistributedRepeatingDataset.Config(
        datasets=datasets, statistic_keys=(STATE, ACTION)
    ).build()


@pytest.mark.parametrize("name", ["an action of nan", "dimensions", "rows missing", "uneven rows"])
def test_statistics_refuse_bad_numbers(name: str, good: Path, tmp_path: Path) -> None:
    fault, root = FAULTS[name], tmp_path / "data"
    shutil.copytree(good / fault.layout, root)
    fault.plant(root)
    with pytest.raises(DataError, match="episode_000001.parquet: ") as error:
        statistics(root)
    assert fault.said is None or fault.said.partition(": ")[2] in str(error.value)


def test_episodes_may_be_listed_in_any_order(good: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(good / "v21", root)
    edit_lines("meta/episodes.jsonl", list.reverse)(root)
    source = open_lerobot(root)
    assert source.lengths.tolist() == list(LENGTHS)
    assert read_all(root) == sum(LENGTHS)


def test_a_camera_may_state_its_channels_first(good: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(good / "v21", root)
    edit_feature(WRIST, {"dtype": "image", "shape": [3, *WRIST_SIZE]})(root)
    assert read_all(root) == sum(LENGTHS)
    assert main(["validate", str(root)]) == 0


def test_matrices_are_read_row_by_row(good: Path, tmp_path: Path) -> None:
    """A feature of shape (2, 3) is a list of lists."""
    root = tmp_path / "data"
    shutil.copytree(good / "v21", root)
    edit_feature("forces", {"dtype": "float32", "shape": [2, 3]})(root)
    for episode, length in enumerate(LENGTHS):
        path = root / f"data/chunk-000/episode_{episode:06d}.parquet"
        forces = np.arange(length * 6).reshape(length, 2, 3).tolist()
        table = pq.read_table(path).append_column(
            "forces", pa.array(forces, pa.list_(pa.list_(pa.float32())))
        )
        pq.write_table(table, path)
    forces = open_lerobot(root).columns(["forces"])["forces"]
    assert forces.shape == (sum(LENGTHS), 6)
    np.testing.assert_array_equal(forces[1], [6, 7, 8, 9, 10, 11])
    assert main(["validate", str(root)]) == 0


def test_cameras_of_two_sizes_need_a_resize(good: Path) -> None:
    config = config_of(good / "v21", TOP, WRIST)
    raw = config.transforms[0]
    with pytest.raises(DataError, match=rf"one size, got {TOP} 64x64, {WRIST} 16x24. Resize them"):
        dataclasses.replace(config, transforms=(raw,)).build()[0]
