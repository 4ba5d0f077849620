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

from flux_data.cli import main
from flux_data.validate import validate
from flux_data.video_writer import VideoWriter

CAMERA = "observation.images.cam_high"
DATA = "data/chunk-000/episode_000001.parquet"
VIDEO = f"videos/chunk-000/{CAMERA}/episode_000001.mp4"


@pytest.fixture
def root(shared_data: Path, tmp_path: Path) -> Path:
    """Three real episodes of one camera, as files of their own."""
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
    info |= {"total_episodes": 3, "total_frames": 450}
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


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:size])


def spoil_pictures(root: Path) -> None:
    """Turns the middle of the video's data into noise; its index stays whole."""
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


# Fault -> (how it is planted, the kinds that must be told, what one message says).
PLANTED: dict[str, tuple[Callable[[Path], object], set[str], str]] = {
    "no info": (lambda r: (r / "meta/info.json").unlink(), {"metadata"}, "not found"),
    "info is no JSON": (cut("meta/info.json", 50), {"metadata"}, "not JSON"),
    "unknown version": (edit_info(codebase_version="v9.9"), {"metadata"}, "got v9.9"),
    "episodes.jsonl breaks off": (cut("meta/episodes.jsonl", 30), {"metadata"}, "not JSON"),
    "wrong total": (edit_info(total_frames=451), {"total"}, "expected 450, as listed, got 451"),
    "parquet missing": (lambda r: (r / DATA).unlink(), {"data_missing"}, "is missing"),
    "parquet cut": (cut(DATA, 4000), {"data_damaged"}, "cannot be read as parquet"),
    "column missing": (
        edit_feature("observation.eepose"),
        {"column_missing"},
        "has no column 'observation.eepose'",
    ),
    "wrong dimensions": (
        edit_feature("action", shape=[7]),
        {"shape", "stats"},
        "action: expected 7 dimensions (info.json), got 14",
    ),
    "wrong length": (
        edit_lines("episodes.jsonl", swap_lengths),
        {"length", "total", "index"},
        "expected 140 rows (the metadata), got 150",
    ),
    "not a number": (
        edit_column("action", put((77, 3), np.nan)),
        {"not_finite"},
        "action: frame 77 holds nan",
    ),
    "infinite": (
        edit_column("observation.state", put((5, 0), np.inf)),
        {"not_finite"},
        "observation.state: frame 5 holds inf",
    ),
    "time goes back": (
        edit_column("timestamp", put(40, 0.78)),
        {"time_order", "time"},
        "frame 40 is not later than the one before",
    ),
    "time off": (edit_column("timestamp", put(149, 2.995)), {"time"}, "expected 2.9800 s"),
    "frame number": (edit_column("frame_index", put(9, 8)), {"frame_index"}, "expected 9, got 8"),
    "another episode's table": (another_episodes_table, {"episode_index", "index"}, "expected 1"),
    "unknown task": (
        edit_column("task_index", put(10, 99)),
        {"task_index"},
        "99 is not among the tasks",
    ),
    "a jump": (
        edit_column("observation.state", put((60, 2), 9.0)),
        {"jump"},
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
                json.dumps({"task_index": i, "task": " " * (i == 1) or "x"}) + "\n"
                for i in range(4)
            )
        ),
        {"task_text"},
        "task 1 has no text",
    ),
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
