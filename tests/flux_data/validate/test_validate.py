"""`flux-data validate` finds every planted fault and is silent on good data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flux_data.commands.main import main
from flux_data.lerobot.episode_stats import column_stats
from flux_data.validate.rows import validate
from flux_data.video.writer import VideoWriter

from .. import small_dataset as small
from ..small_dataset import ACTION, EPISODES_V3, STATE, TOP, WRIST, WRIST_SIZE
from ..test_bad_input import depth_map

CAMERA = "observation.images.cam_high"
DATA = "data/chunk-000/episode_000001.parquet"
VIDEO = f"videos/chunk-000/{CAMERA}/episode_000001.mp4"


@pytest.fixture
def root(shared_data: Path, tmp_path: Path) -> Path:
    """Three real episodes of one camera, copied to their own files."""
    source, root = shared_data / "lerobot" / "v21", tmp_path / "dataset"
    for name in ("data/chunk-000", f"videos/chunk-000/{CAMERA}", "meta"):
        (root / name).mkdir(parents=True)
    for episode in range(3):
        for name in (DATA, VIDEO):
            name = name.replace("000001", f"{episode:06d}")
            shutil.copyfile(source / name, root / name)
    for name in ("episodes.jsonl", "episodes_stats.jsonl"):
        lines = (source / "meta" / name).read_text().splitlines()[:3]
        (root / "meta" / name).write_text("\n".join(lines) + "\n")
    shutil.copyfile(source / "meta" / "tasks.jsonl", root / "meta" / "tasks.jsonl")
    info = json.loads((source / "meta" / "info.json").read_text())
    info |= {"total_episodes": 3, "total_frames": 450, "total_videos": 3}
    info["splits"] = {"train": "0:3"}
    for camera in ("cam_left_wrist", "cam_right_wrist"):
        del info["features"][f"observation.images.{camera}"]
    (root / "meta" / "info.json").write_text(json.dumps(info))
    return root


def edit_info(**values: Any) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / "meta" / "info.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def edit_feature(key: str, **values: Any) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / "meta" / "info.json"
        info = json.loads(path.read_text())
        info["features"].setdefault(key, {"dtype": "float32", "shape": [14]})
        info["features"][key] |= values
        path.write_text(json.dumps(info))

    return change


def edit_column(key: str, change: Callable[[np.ndarray], Any]) -> Callable[[Path], None]:
    """Rewrites one column of the second episode."""

    def rewrite(root: Path) -> None:
        table = pq.read_table(root / DATA)
        values = (
            np.array(table[key].to_pylist(), dtype=table[key].type.to_pandas_dtype())
            if not pa.types.is_nested(table[key].type)
            else np.array(table[key].to_pylist(), np.float32)
        )
        change(values)
        array = pa.array(values.tolist(), type=table[key].type)
        at = table.schema.get_field_index(key)
        pq.write_table(table.set_column(at, key, array), root / DATA)

    return rewrite


def put(index: Any, value: Any) -> Callable[[np.ndarray], None]:
    return lambda values: values.__setitem__(index, value)


def edit_lines(name: str, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def rewrite(root: Path) -> None:
        path = root / "meta" / name
        path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")

    return rewrite


def edit_stats(*path: Any) -> Callable[[Path], None]:
    """Sets one value of the second episode's statistics."""
    return small.edit_lines("meta/episodes_stats.jsonl", small.put(1, *path))


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:size])


def spoil_pictures(root: Path) -> None:
    """Turns the middle of the video's data into noise; its index stays intact."""
    content = bytearray((root / VIDEO).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20_000] = np.random.default_rng(0).bytes(20_000)
    (root / VIDEO).write_bytes(content)


def another_episodes_table(root: Path) -> None:
    shutil.copyfile(root / DATA.replace("000001", "000002"), root / DATA)


def swap_lengths(lines: list[str]) -> list[str]:
    return [
        line.replace('"length": 150', '"length": 140', 1) if i == 1 else line
        for i, line in enumerate(lines)
    ]


# Fault -> (how it is planted, the kinds that must be reported, a part of a message).
PLANTED: dict[str, tuple[Callable[[Path], object], set[str], str]] = {
    "no info": (lambda r: (r / "meta/info.json").unlink(), {"metadata"}, "not found"),
    "info is no JSON": (cut("meta/info.json", 50), {"metadata"}, "expected JSON"),
    "unknown version": (edit_info(codebase_version="v9.9"), {"metadata"}, "got v9.9"),
    "episodes.jsonl breaks off": (cut("meta/episodes.jsonl", 30), {"metadata"}, "expected JSON"),
    "wrong total": (edit_info(total_frames=451), {"total"}, "expected 450, as listed, got 451"),
    "parquet missing": (lambda r: (r / DATA).unlink(), {"data_missing"}, "is missing"),
    "parquet cut": (cut(DATA, 4000), {"data_damaged"}, "cannot be read as parquet"),
    "column missing": (
        edit_feature("observation.eepose"),
        {"column_missing"},
        "expected column 'observation.eepose'",
    ),
    "wrong dimensions": (
        edit_feature("action", shape=[7]),
        {"shape", "stats"},
        "action: expected 7 dimensions (info.json), got 14",
    ),
    "wrong length": (
        edit_lines("episodes.jsonl", swap_lengths),
        {"length", "total", "index", "video_length"},
        "expected 140 rows (the metadata), got 150",
    ),
    "not a number": (
        edit_column("action", put((77, 3), np.nan)),
        {"not_finite"},
        "action: frame 77: expected a finite value, got nan",
    ),
    "infinite": (
        edit_column("observation.state", put((5, 0), np.inf)),
        {"not_finite"},
        "observation.state: frame 5: expected a finite value, got inf",
    ),
    "time goes back": (
        edit_column("timestamp", put(40, 0.78)),
        {"time_order", "time"},
        "frame 40: expected a later time than frame 39's",
    ),
    "time off": (
        edit_column("timestamp", put(149, 2.995)),
        {"time", "stats_value"},
        "expected 2.9800 s",
    ),
    "frame number": (edit_column("frame_index", put(9, 8)), {"frame_index"}, "expected 9, got 8"),
    "another episode's table": (
        another_episodes_table,
        {"episode_index", "index", "episode_tasks", "stats_value"},
        "tasks: expected ['open the drawer'] (task_index in episode_000001.parquet), got ['Fold",
    ),
    "unknown task": (
        edit_column("task_index", put(10, 99)),
        {"task_index"},
        "expected a known task, got 99",
    ),
    "a jump": (
        edit_column("observation.state", put((60, 2), 9.0)),
        {"jump", "stats_value"},
        "observation.state: frame 60: dimension 2 jumps by",
    ),
    "video missing": (lambda r: (r / VIDEO).unlink(), {"video_missing"}, "is missing"),
    "video cut": (cut(VIDEO, 3000), {"video_damaged"}, "cannot be read as a video"),
    "video of another length": (
        lambda r: shutil.copyfile(r.parent / "short.mp4", r / VIDEO),
        {"video_frames"},
        "50 of 150 frames are not in the video; first: frame 100",
    ),
    "video of another size": (
        edit_feature(CAMERA, shape=[240, 320, 3]),
        {"video_size"},
        "expected 240x320 (info.json), got 480x640",
    ),
    "pictures spoiled": (spoil_pictures, {"video_frame"}, "cannot be decoded"),
    "a file too many": (
        lambda r: shutil.copyfile(r / DATA, r / DATA.replace("000001", "000009")),
        {"unknown_file"},
        "belongs to no episode",
    ),
    "a task without text": (
        lambda r: (r / "meta/tasks.jsonl").write_text(
            "".join(
                json.dumps({"task_index": i, "task": " " * (i == 1) or f"x{i}"}) + "\n"
                for i in range(4)
            )
        ),
        {"task_text", "episode_tasks"},
        "task 1: expected a text, got none",
    ),
    "an episode without statistics": (
        edit_lines("episodes_stats.jsonl", lambda lines: lines[:2]),
        {"stats_missing"},
        "expected a line for episode 2",
    ),
    "statistics of no episode": (
        edit_stats("episode_index", 55),
        {"stats_missing", "stats_unknown"},
        "episode_index: expected each of 0 to 2 once, got 55",
    ),
    "statistics of one episode twice": (
        edit_lines("episodes_stats.jsonl", lambda lines: [*lines, lines[0]]),
        {"stats_unknown"},
        "episode_index: expected each of 0 to 2 once, got 0",
    ),
    "another count": (
        edit_stats("stats", "action", "count", [1000]),
        {"stats_count"},
        "action: count: expected 150 frames, got [1000]",
    ),
    "another mean": (
        edit_stats("stats", "action", "mean", 3, 0.35),
        {"stats_value"},
        "action: mean: dimension 3: expected ",
    ),
    "another deviation": (
        edit_stats("stats", "action", "std", 3, 0.35),
        {"stats_value"},
        "action: std: dimension 3: expected ",
    ),
    "another least value": (
        edit_stats("stats", "observation.state", "min", 3, -1.0),
        {"stats_value"},
        "observation.state: min: dimension 3: expected ",
    ),
    "another greatest value": (
        edit_stats("stats", "timestamp", "max", [3.0]),
        {"stats_value"},
        "timestamp: max: dimension 0: expected ",
    ),
}

SMALL_DATA, SMALL_VIDEO = small.DATA, small.VIDEO


def add_column(name: str, key: str, values: list[Any]) -> small.Plant:
    return small.edit_table(name, lambda table: table.append_column(key, pa.array(values)))


def without_feature(key: str) -> small.Plant:
    return small.edit_info(features={k: v for k, v in small.features().items() if k != key})


def copy_file(source: str, target: str) -> small.Plant:
    return lambda root: shutil.copyfile(root / source, root / target)


def three_rows_more(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table.slice(0, 3)])


def edit_stats_v3(name: str, value: Any) -> small.Plant:
    """States the true statistics of the action, except for one value."""

    def plant(root: Path) -> None:
        values = np.concatenate(pq.read_table(root / SMALL_DATA["v30"])[ACTION].to_numpy())
        stats = column_stats(values.reshape(-1, small.DIM)) | {name: value}
        (root / "meta/stats.json").write_text(json.dumps({ACTION: stats}))

    return plant


def make_depth(rows: list[Any]) -> None:
    rows[:] = [{"bytes": depth_map(), "path": None}] * len(rows)


def with_depth(change: Callable[[list[Any]], object]) -> small.Plant:
    """Makes the wrist camera a depth camera, and then changes its images of episode 1."""

    def plant(root: Path) -> None:
        feature = {"dtype": "image", "shape": [*WRIST_SIZE, 1], "info": {"is_depth_map": True}}
        small.edit_feature(WRIST, feature)(root)
        (root / "meta/episodes_stats.jsonl").unlink()
        for episode in range(len(small.LENGTHS)):
            name = SMALL_DATA["v21"].replace("000001", f"{episode:06d}")
            small.edit_column(name, WRIST, make_depth)(root)
        small.edit_column(SMALL_DATA["v21"], WRIST, change)(root)

    return plant


# As PLANTED, in a small dataset of a layout.
PLANTED_SMALL: dict[str, tuple[str, small.Plant, set[str], str]] = {
    "episodes share video time": (
        "v30",
        small.edit_column(EPISODES_V3, f"videos/{TOP}/from_timestamp", small.put(2, 0.8)),
        {"video_overlap"},
        f"{TOP}: begins at 0.8000 s, before episode 1 ends at 1.4000 s",
    ),
    "a longer video": (
        "v21",
        lambda root: small.write_top(root / SMALL_VIDEO["v21"], 12),
        {"video_length"},
        "expected 6 frames (the metadata), got 12",
    ),
    "another episode's video": (
        "v21",
        copy_file(SMALL_VIDEO["v21"].replace("000001", "000000"), SMALL_VIDEO["v21"]),
        {"video_length"},
        "expected 6 frames (the metadata), got 8",
    ),
    "a video too many": (
        "v21",
        copy_file(SMALL_VIDEO["v21"], SMALL_VIDEO["v21"].replace("000001", "000077")),
        {"unknown_file"},
        "belongs to no episode",
    ),
    "v3: a video too many": (
        "v30",
        copy_file(SMALL_VIDEO["v30"], SMALL_VIDEO["v30"].replace("file-000", "file-009")),
        {"unknown_file"},
        "belongs to no episode",
    ),
    "v3: rows too many": (
        "v30",
        small.edit_table(SMALL_DATA["v30"], three_rows_more),
        {"rows"},
        "expected 21 rows (its episodes' lengths), got 24",
    ),
    "v3: a wrong first row": (
        "v30",
        small.edit_column(EPISODES_V3, "dataset_from_index", lambda rows: [5, 13, 19]),
        {"dataset_from_index"},
        "dataset_from_index: expected 8 (the lengths), got 13",
    ),
    "v3: a wrong last row": (
        "v30",
        add_column(EPISODES_V3, "dataset_to_index", [8, 999, 21]),
        {"dataset_to_index"},
        "dataset_to_index: expected 14 (the lengths), got 999",
    ),
    "v3: a wrong end": (
        "v30",
        add_column(EPISODES_V3, f"videos/{TOP}/to_timestamp", [0.8, 99.0, 2.1]),
        {"to_timestamp"},
        f"videos/{TOP}/to_timestamp: expected 1.4000 (start and length), got 99.0",
    ),
    "total_videos": (
        "v21",
        small.edit_info(total_videos=99),
        {"total"},
        "total_videos: expected 3, as listed, got 99",
    ),
    "total_chunks": (
        "v21",
        small.edit_info(total_chunks=44),
        {"total"},
        "total_chunks: expected 1, as listed, got 44",
    ),
    "a split beyond the episodes": (
        "v30",
        small.edit_info(splits={"train": "0:999"}),
        {"split"},
        "splits.train: expected a range within 0:3, got 0:999",
    ),
    "another task": (
        "v21",
        small.edit_lines("meta/episodes.jsonl", small.put(1, "tasks", ["wipe"])),
        {"episode_tasks"},
        "tasks: expected ['fold'] (task_index in episode_000001.parquet), got ['wipe']",
    ),
    "v3: another task": (
        "v30",
        add_column(EPISODES_V3, "tasks", [["fold"], ["wipe"], ["fold"]]),
        {"episode_tasks"},
        "tasks: expected ['fold'] (task_index in file-000.parquet), got ['wipe']",
    ),
    "a task's text twice": (
        "v21",
        small.edit_lines(
            "meta/tasks.jsonl", lambda rows: rows.append({"task_index": 7, "task": "fold"})
        ),
        {"task_twice"},
        "task 7: expected another text than task 0, got 'fold'",
    ),
    **{
        f"no feature {key}": (
            layout,
            without_feature(key),
            {"feature_missing"},
            f"features: expected '{key}', got {STATE}",
        )
        for layout, key in (("v21", "task_index"), ("v30", "timestamp"), ("v21", "index"))
    },
    "float64 in place of float32": (
        "v21",
        small.edit_column(SMALL_DATA["v21"], ACTION, list, pa.list_(pa.float64())),
        {"dtype"},
        f"{ACTION}: expected float32 (info.json), got float64",
    ),
    "v3: int32 in place of int64": (
        "v30",
        small.edit_column(SMALL_DATA["v30"], "task_index", list, pa.int32()),
        {"dtype"},
        "task_index: expected int64 (info.json), got int32",
    ),
    "v3: another mean": (
        "v30",
        edit_stats_v3("mean", [0.1, 0.1, 0.11]),
        {"stats_value"},
        f"{ACTION}: mean: dimension 0: expected ",
    ),
    "v3: another count": (
        "v30",
        edit_stats_v3("count", [20]),
        {"stats_count"},
        f"{ACTION}: count: expected 21 frames, got [20]",
    ),
    "v3: an episode's statistics": (
        "v30",
        add_column(EPISODES_V3, f"stats/{STATE}/count", [[8], [6], [8]]),
        {"stats_count"},
        f"{STATE}: count: expected 7 frames, got [8]",
    ),
    "a damaged depth map": (
        "v21",
        with_depth(small.put(2, {"bytes": depth_map()[:40], "path": None})),
        {"image"},
        f"{WRIST}: the depth map cannot be decoded",
    ),
    "a depth map of another size": (
        "v21",
        with_depth(small.put(2, {"bytes": small.png(2, (24, 24)), "path": None})),
        {"image"},
        f"{WRIST}: expected 16x24 (info.json), got 24x24",
    ),
    "no depth map": (
        "v21",
        with_depth(small.put(2, None)),
        {"image"},
        f"{WRIST}: expected an image, got NoneType",
    ),
}
# Oddities that are not faults.
HARMLESS: dict[str, tuple[str, small.Plant]] = {
    "depth maps": ("v21", with_depth(list)),
    "splits in another form": ("v21", small.edit_info(splits={"train": "80%"})),
    "lists of fixed size": (
        "v21",
        small.edit_column(SMALL_DATA["v21"], ACTION, list, pa.list_(pa.float32(), small.DIM)),
    ),
    "v2.0 without statistics": (
        "v21",
        lambda root: (
            small.edit_info(codebase_version="v2.0")(root),
            (root / "meta/episodes_stats.jsonl").unlink(),
        ),
    ),
    "v3: true statistics": ("v30", edit_stats_v3("q99", [0.0] * small.DIM)),
}


@pytest.mark.parametrize("name", ["v21", "v30c", "g1_real"])
def test_good_datasets_have_no_faults(name: str, shared_data: Path) -> None:
    assert validate(shared_data / "lerobot" / name, decode=False) == []


def test_every_frame_of_a_good_dataset_decodes(root: Path) -> None:
    assert validate(root) == []


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(fault: str, root: Path) -> None:
    plant, kinds, message = PLANTED[fault]
    if "another length" in fault:
        write_short_video(root.parent / "short.mp4")
    plant(root)
    found = validate(root, decode="spoiled" in fault)
    assert {f.kind for f in found} == kinds
    assert any(message in f.message for f in found), [f.message for f in found]
    places = [f for f in found if f.kind in ("not_finite", "jump", "video_missing")]
    assert all("episode 1" in f.where and "000001" in f.file for f in places)


@pytest.fixture(scope="module")
def small_datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both layouts of the small dataset."""
    folder = tmp_path_factory.mktemp("small")
    small.write_v21(folder / "v21")
    small.write_v30(folder / "v30")
    return folder


@pytest.mark.parametrize("fault", PLANTED_SMALL)
def test_a_fault_planted_in_a_small_dataset_is_found(
    fault: str, small_datasets: Path, tmp_path: Path
) -> None:
    layout, plant, kinds, message = PLANTED_SMALL[fault]
    root = tmp_path / "dataset"
    shutil.copytree(small_datasets / layout, root)
    plant(root)
    found = validate(root)
    assert {f.kind for f in found} == kinds, found
    assert any(message in f.message for f in found), [f.message for f in found]
    assert all(str(root) in f.file for f in found)


@pytest.mark.parametrize("change", HARMLESS)
def test_harmless_oddities_are_not_reported(
    change: str, small_datasets: Path, tmp_path: Path
) -> None:
    layout, plant = HARMLESS[change]
    shutil.copytree(small_datasets / layout, tmp_path / "dataset")
    plant(tmp_path / "dataset")
    assert validate(tmp_path / "dataset") == []


@pytest.mark.parametrize("less", [0, 1])
def test_statistics_may_be_sums_of_float32(less: int, root: Path) -> None:
    """Sums values one by one; the variance is divided by all frames or by one less."""
    values = np.stack(pq.read_table(root / DATA)["action"].to_numpy())
    # The variance of a joint that hardly moves, far from zero, is mostly rounding.
    values[:, 3] = 1.5 + 1e-3 * values[:, 3]
    edit_column("action", put(np.s_[:], values))(root)
    mean = np.cumsum(values, axis=0, dtype=np.float32)[-1] / len(values)
    square = np.cumsum(values**2, axis=0, dtype=np.float32)[-1] / len(values)
    variance = np.maximum(square - mean**2, 0) * len(values) / (len(values) - less)
    stats = column_stats(values) | {"mean": mean.tolist(), "std": np.sqrt(variance).tolist()}
    assert np.abs(np.sqrt(variance[3]) - values[:, 3].std()) > 1e-5, "the test shows nothing"
    edit_stats("stats", "action", stats)(root)
    assert validate(root, decode=False) == []


def write_short_video(target: Path) -> None:
    writer = VideoWriter(target, 50, 480, 640)
    for _ in range(100):
        writer.add(np.zeros((480, 640, 3), np.uint8))
    writer.close()


def test_the_command_lists_faults_and_exits_1(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", str(root), "--json", "--no-decode"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "faults": []}
    (root / VIDEO).unlink()
    assert main(["validate", str(root), "--json", "--no-decode"]) == 1
    (fault,) = json.loads(capsys.readouterr().out)["faults"]
    assert fault["kind"] == "video_missing" and fault["where"] == "episode 1"
    assert main(["validate", str(root), "--no-decode"]) == 1
    assert "1 faults" in capsys.readouterr().out


def test_statistics_are_those_of_numpy(
    shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared_data / "lerobot" / "v21"
    assert main(["stats", str(folder), "--json"]) == 0
    stats = json.loads(capsys.readouterr().out)
    states = np.concatenate(
        [
            np.array(pq.read_table(path)["observation.state"].to_pylist())
            for path in sorted((folder / "data").rglob("*.parquet"))
        ]
    )
    for name, expected in (
        ("mean", states.mean(0)),
        ("std", states.std(0)),
        ("q99", np.quantile(states, 0.99, axis=0)),
    ):
        np.testing.assert_allclose(stats["observation.state"][name], expected, atol=1e-6)
    assert stats["timestamp"]["count"] == 1800
