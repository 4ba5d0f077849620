"""A dataset to which episodes are appended, whatever ends the process."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from flux_core.errors import DataError, UsageError
from flux_data.commands.main import main
from flux_data.convert.lerobot import convert
from flux_data.lerobot.dataset import open_lerobot
from flux_data.record.growing import WORK_FOLDER
from flux_data.repair.repairing import repair
from flux_data.validate.rows import validate
from flux_data.video.reader import VideoReader

from .made_episodes import FPS, LENGTH, add_episode, brightness, growing, plan

VERSIONS = ("v2.1", "v3.0")
TOP, WRIST = "observation.images.top", "observation.images.wrist"


def faults(root: Path) -> list[Any]:
    warnings: list[Any] = []
    return [*validate(root, warnings=warnings), *warnings]


def record(root: Path, version: str, *numbers: int) -> Path:
    with growing(root, version) as dataset:
        for number in numbers:
            add_episode(dataset, number)
    return root


def facts(root: Path, version: str) -> list[dict[str, Any]]:
    if version == "v2.1":
        lines = (root / "meta" / "episodes.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]
    folder = root / "meta" / "episodes"
    return [
        row for path in sorted(folder.rglob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_recording_that_is_continued_holds_every_row_and_picture(
    tmp_path: Path, version: str
) -> None:
    root = record(tmp_path / "set", version, 0, 1)
    first = {path: path.read_bytes() for path in root.rglob("*") if path.suffix == ".mp4"}
    record(root, version, 2)
    assert faults(root) == []
    source, reader = open_lerobot(root), VideoReader()
    assert source.num_episodes == 3
    for number in range(3):
        columns = source.episode(number, ["observation.state", "action", "observation.base"])
        for key in columns:
            np.testing.assert_array_equal(columns[key], [[number, row] for row in range(LENGTH)])
        for key, shown in ((TOP, (0, 1, 2)), (WRIST, (0, 0, 2))):
            video = source.video(key, number)
            for row, expected in enumerate(shown):
                image = reader.frame(video.path, video.start_s + row / FPS, 0.5 / FPS)
                assert abs(float(image.mean()) - brightness(number, expected)) < 3
        stored = source.encoded_image(number, f"{TOP}_depth", 2)
        assert isinstance(stored, bytes)
    assert source.depth_keys == (f"{TOP}_depth",)
    assert {path: path.read_bytes() for path in first} == first  # nothing was written again
    assert not (root / WORK_FOLDER).exists()
    found = [(row["outcome"], row["success"], row["seed"]) for row in facts(root, version)]
    assert found == [("finished", True, 0), ("finished", False, 1), ("finished", True, 2)]


@pytest.mark.parametrize("version", VERSIONS)
def test_statistics_of_a_continued_recording_are_those_of_all_its_rows(
    tmp_path: Path, version: str
) -> None:
    apart = record(record(tmp_path / "apart", version, 0), version, 1, 2)
    at_once = record(tmp_path / "at_once", version, 0, 1, 2)
    for path in sorted(path for path in at_once.rglob("*") if path.is_file()):
        other = apart / path.relative_to(at_once)
        if path.suffix == ".parquet":
            assert pq.read_table(path).equals(pq.read_table(other))
        else:
            assert path.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_kill_at_any_moment_costs_no_finished_episode(
    tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    script = Path(__file__).with_name("made_episodes.py")
    module = ".".join(__name__.split(".")[:-1]) + "." + script.stem
    done = subprocess.run(
        [sys.executable, "-m", module, version, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr
    killed = sorted(path for path in tmp_path.iterdir() if path.name.isdecimal())
    assert len(killed) > 8
    for place, root in enumerate(killed):
        said = tmp_path / f"{root.name}.finished"
        finished = int(said.read_text()) if said.exists() else 0
        if finished and place % 5 == 0:  # it takes long
            repaired = tmp_path / f"{root.name}.repaired"
            assert repair(root, repaired, decode=False)["num_episodes"] >= finished
            shutil.rmtree(repaired)
        with growing(root, version) as dataset:
            kept = len(dataset.episodes)
            assert finished <= kept <= finished + 1
            add_episode(dataset, kept)
        assert validate(root, decode=False) == []
        states = open_lerobot(root).columns(["observation.state"])["observation.state"]
        assert states[:, 0].tolist() == [float(n) for n in range(kept + 1) for _ in range(LENGTH)]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_full_disk_costs_the_episode_and_nothing_else(
    tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with growing(tmp_path / "set", version) as dataset:
        add_episode(dataset, 0)
        for place in ("flux_data.record.growing.sync", "pyarrow.parquet.write_table"):
            with monkeypatch.context() as patched, pytest.raises(DataError) as told:
                patched.setattr(place, full)
                add_episode(dataset, 1)
            assert "No space left on device" in str(told.value)
            assert str(told.value).endswith("The episodes before it are kept")
        add_episode(dataset, 2)
    assert faults(tmp_path / "set") == []
    assert [row["seed"] for row in facts(tmp_path / "set", version)] == [0, 2]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"robot": "other-arm"}, "robot_type 'other-arm', as this run records, got 'arm'"),
        ({"fps": 30.0}, "fps 30, as this run records, got 25"),
        ({"state": ["b", "a"]}, "names ['b', 'a'], as this run records, got ['a', 'b']"),
        ({"extras": {}}, "the features"),
        ({"cameras": {"top": [16, 24], "wrist": [32, 24]}}, "shape [32, 24, 3]"),
    ],
)
def test_a_recording_of_something_else_is_not_continued(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    root = record(tmp_path / "set", "v2.1", 0)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    with pytest.raises(UsageError, match="flux-data merge joins datasets") as error:
        growing(root, "v2.1", **changes).__enter__()
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    after = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    del before[root / "meta"], after[root / "meta"]
    assert after == before


def test_a_folder_with_anything_else_is_refused(tmp_path: Path) -> None:
    root = record(tmp_path / "set", "v3.0", 0)
    with pytest.raises(UsageError, match="expected a dataset of version v2.1, got v3.0"):
        growing(root, "v2.1").__enter__()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").touch()
    with pytest.raises(UsageError, match=r"got letter\.txt"):
        growing(tmp_path / "other", "v2.1").__enter__()
    with pytest.raises(UsageError, match="expected a folder, got a file"):
        growing(tmp_path / "other" / "letter.txt", "v2.1")
    assert sorted(os.listdir(tmp_path / "other")) == ["letter.txt"]


def test_two_recordings_to_one_folder_are_refused(tmp_path: Path) -> None:
    with (
        growing(tmp_path / "set", "v2.1") as dataset,
        pytest.raises(UsageError, match="another process is recording to it"),
    ):
        growing(tmp_path / "set", "v2.1").__enter__()
    assert not dataset.episodes
    assert not (tmp_path / "set").exists()  # nothing was recorded


def test_a_recording_without_all_its_files_is_not_continued(tmp_path: Path) -> None:
    root = record(tmp_path / "set", "v3.0", 0, 1)
    (root / "videos" / TOP / "chunk-000" / "file-000.mp4").unlink()
    with pytest.raises(DataError, match=r"file-000\.mp4: not found, .* flux-data repair"):
        growing(root, "v3.0").__enter__()


@pytest.mark.parametrize("version", VERSIONS)
def test_outcomes_go_along_when_a_recording_is_converted(tmp_path: Path, version: str) -> None:
    root = record(tmp_path / "set", version, 0, 1)
    (other,) = set(VERSIONS) - {version}
    convert([root], tmp_path / "converted", other)
    assert [row["success"] for row in facts(tmp_path / "converted", other)] == [True, False]


def test_the_command_finishes_a_recording_that_was_cut_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = record(tmp_path / "set", "v2.1", 0)
    (root / WORK_FOLDER / "1").mkdir(parents=True)
    (root / WORK_FOLDER / "1" / f"{TOP}.mp4").write_bytes(b"cut off")
    info = json.loads((root / "meta" / "info.json").read_text())
    (root / "meta" / "info.json").write_text(json.dumps({**info, "total_episodes": 0}))
    assert main(["record", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 1
    assert faults(root) == []
    assert not (root / WORK_FOLDER).exists()


def test_an_odd_size_is_refused_before_anything_is_recorded() -> None:
    with pytest.raises(UsageError, match="top: expected an even height and width"):
        plan(cameras={"top": [15, 24]})
