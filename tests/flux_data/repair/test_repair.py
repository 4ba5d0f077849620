"""`flux-data repair`: what can be saved is saved with everything that belongs to it, and the rest
is named. Every situation is made on coded datasets, so rows and pictures are known by their codes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from flux_data.commands.main import main

from ..coded_dataset import (
    DATA_V3,
    EPISODES_V3,
    STATE,
    TOP,
    Camera,
    CodedDataset,
    Column,
    Reference,
    Row,
    plain,
)
from ..coded_pictures import Code, Encoding, write_coded_video
from ..coded_rows import renumbered, rows_of
from ..small_dataset import cut, edit_column, edit_info, edit_lines, put, write, write_lines
from .conftest import Repaired, content, data_v2, video_v2, video_v3

LENGTHS = (5, 3, 4, 6)
WRIST = "observation.images.wrist"
CAMERAS = (Camera(), Camera(key=WRIST, kind="image"))
ALL = (0, 1, 2, 3)

Plant = Callable[[Path], object]


def kept(dataset: CodedDataset, episodes: Sequence[int]) -> list[Row]:
    return renumbered([[row for row in dataset.rows() if row.episode in episodes]])


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A damaged dataset, the episodes that can be saved, and what the report says.

    `said` is part of a line that begins with `left out` if `lost`, and else with `corrected`.
    """

    dataset: CodedDataset
    plant: Plant = lambda root: None
    saved: Sequence[int] = ALL
    said: str
    lost: bool


def v2(plant: Plant = lambda root: None, **values: Any) -> Damage:
    return _damage("v2.1", plant, values)


def v3(plant: Plant = lambda root: None, **values: Any) -> Damage:
    return _damage("v3.0", plant, values)


def _damage(version: Any, plant: Plant, values: dict[str, Any]) -> Damage:
    own = {key: values.pop(key) for key in ("saved", "said", "lost") if key in values}
    described = {"lengths": LENGTHS, "cameras": CAMERAS, **values}
    return Damage(dataset=plain(version, **described), plant=plant, **own)


def several(*plants: Plant) -> Plant:
    def all_of_them(root: Path) -> None:
        for plant in plants:
            plant(root)

    return all_of_them


def cut_last_line(root: Path) -> None:
    path = root / "meta/episodes.jsonl"
    path.write_bytes(path.read_bytes()[:-15])


def twice(rows: list[Any]) -> None:
    rows.insert(2, rows[1])


def a_row_twice(root: Path) -> None:
    table = pq.read_table(root / EPISODES_V3)
    pq.write_table(pa.concat_tables([table, table.slice(1, 1)]), root / EPISODES_V3)


def not_finite(name: str, row: int) -> Plant:
    def values(rows: list[Any]) -> None:
        rows[row][0] = float("nan")

    return edit_column(name, STATE, values)


def short_video(root: Path) -> None:
    codes = tuple(Code(0, 1, frame) for frame in range(2))
    write_coded_video(root / video_v2(1), codes, (0.0, 0.1), 10, Camera().how)


def stats_of(root: Path, change: Callable[[list[Any]], object]) -> None:
    """Gives a v2.1 dataset the statistics that the writer computes, and changes them."""
    good = root.with_name("with_stats")
    assert main(["convert", str(root), "--to", "v2.1", "--out", str(good)]) == 0
    shutil.copy(good / "meta/episodes_stats.jsonl", root / "meta/episodes_stats.jsonl")
    edit_lines("meta/episodes_stats.jsonl", change)(root)


def garbled_stats(root: Path) -> None:
    stats_of(root, put(1, "stats", STATE, "mean", [9.0, 9.0, 9.0, 9.0]))


def missing_stats(root: Path) -> None:
    stats_of(root, lambda rows: rows.pop(2))


def half_written_stats(root: Path) -> None:
    stats_of(root, lambda rows: None)
    cut("meta/episodes_stats.jsonl", 0.8)(root)


def remove_and_forget_the_rows(root: Path) -> None:
    """Removes episode 1 of a v2.1 dataset as scripts do: files and lines are renumbered only."""
    for old in (1, 2, 3):
        for name in (data_v2, video_v2):
            if old == 1:
                (root / name(1)).unlink()
            else:
                (root / name(old)).rename(root / name(old - 1))
    rows = [json.loads(line) for line in (root / "meta/episodes.jsonl").read_text().splitlines()]
    rows.pop(1)
    for number, row in enumerate(rows):
        row["episode_index"] = number
    write_lines(root / "meta/episodes.jsonl", rows)
    edit_info(total_episodes=3, total_frames=15, total_videos=3, splits={"train": "0:3"})(root)


def forget_the_rows_v3(root: Path) -> None:
    """Removes episode 1 of a v3.0 dataset and renumbers only the metadata."""
    lines = pq.read_table(root / EPISODES_V3).to_pylist()
    data = pq.read_table(root / DATA_V3)
    pq.write_table(data.filter(pc.field("episode_index") != 1), root / DATA_V3)
    lines.pop(1)
    first = 0
    for number, line in enumerate(lines):
        line |= {"episode_index": number, "dataset_from_index": first}
        first += line["length"]
        line["dataset_to_index"] = first
    pq.write_table(pa.Table.from_pylist(lines), root / EPISODES_V3)
    edit_info(total_episodes=3, total_frames=15, splits={"train": "0:3"})(root)


def swap(first: str, second: str) -> Plant:
    def change(root: Path) -> None:
        (root / first).rename(root / "third")
        (root / second).rename(root / first)
        (root / "third").rename(root / second)

    return change


def copied(name: str, other: str) -> Plant:
    return lambda root: shutil.copy(root / name, root / other)


def without_task(number: int) -> Plant:
    return edit_lines("meta/tasks.jsonl", lambda rows: rows.pop(number))


def edit_v3(key: str, episode: int, value: object) -> Plant:
    return edit_column(EPISODES_V3, key, put(episode, value))


def second_lines_unreadable(root: Path) -> None:
    """Splits meta/episodes in two files, of which the second has no end."""
    table, path = pq.read_table(root / EPISODES_V3), root / EPISODES_V3
    pq.write_table(table.slice(0, 3), path)
    other = path.with_name("file-001.parquet")
    pq.write_table(table.slice(3), other)
    other.write_bytes(other.read_bytes()[:-20])


PROMISE: dict[str, Any] = {"total_episodes": 6, "total_frames": 40, "splits": {"train": "0:6"}}
FILES: dict[str, Any] = {"data_files": (0, 0, 1, 1), "cameras": (Camera(files=(0, 0, 1, 1)),)}
SAVED_BUT_1: dict[str, Any] = {"saved": (0, 2, 3), "lost": True}
CORRECTED: dict[str, Any] = {"lost": False}

SITUATIONS = {
    "v2: an episode is gone": v2(missing=(("episode", 1),), said="episode 1: ", **SAVED_BUT_1),
    "v2: a parquet file is gone": v2(
        missing=(("data", 1),), said="the parquet file is missing", **SAVED_BUT_1
    ),
    "v2: a line is gone": v2(missing=(("line", 1),), said="belongs to no episode", **SAVED_BUT_1),
    "v2: rows are gone": v2(missing=(("rows", 1),), said="got none", **SAVED_BUT_1),
    "v2: a video is gone": v2(
        missing=(("video", 1),), said="the video file is missing", **SAVED_BUT_1
    ),
    "v2: an unreadable parquet file": v2(
        write(data_v2(1), b"PAR1 rubbish"), said="cannot be read as parquet", **SAVED_BUT_1
    ),
    "v2: an unreadable video": v2(
        write(video_v2(1), b"rubbish"), said="cannot be read as a video", **SAVED_BUT_1
    ),
    "v2: the last parquet file is cut": v2(
        cut(data_v2(3)), saved=(0, 1, 2), said="cannot be read as parquet", lost=True
    ),
    "v2: the last video is cut": v2(cut(video_v2(3)), saved=(0, 1, 2), said=".mp4: ", lost=True),
    "v2: the last line is half-written": v2(cut_last_line, said="the line is damaged", **CORRECTED),
    "v2: the last line and its file are cut": v2(
        several(cut_last_line, cut(data_v2(3))),
        saved=(0, 1, 2),
        said="cannot be read as parquet",
        lost=True,
    ),
    "v2: a killed recorder": v2(
        edit_info(**PROMISE), said="expected 6 episodes and 40 frames, found 4 and 18", lost=True
    ),
    "v2: wrong totals": v2(
        edit_info(total_episodes=7, total_tasks=9, total_videos=1),
        said="total_episodes: expected 4, got 7",
        **CORRECTED,
    ),
    "v2: total frames": v2(
        edit_info(total_frames=77), said="total_frames: expected 18, got 77", **CORRECTED
    ),
    "v2: a split beyond the end": v2(
        edit_info(splits={"train": "0:9"}), said="splits: expected {'train': '0:4'}", **CORRECTED
    ),
    "v2: a length that the rows contradict": v2(
        stated_lengths=(5, 9, 4, 6), said="length: expected 3 (its rows), got 9", **CORRECTED
    ),
    "v2: a line twice": v2(
        edit_lines("meta/episodes.jsonl", twice), said="expected each episode once", **CORRECTED
    ),
    "v2: two lines that contradict each other": v2(
        edit_lines("meta/episodes.jsonl", lambda rows: rows.append({**rows[1], "tasks": ["wipe"]})),
        said="expected one line for the episode, got two",
        **SAVED_BUT_1,
    ),
    "v2: not finite": v2(not_finite(data_v2(1), 2), said="expected a finite value", **SAVED_BUT_1),
    "v2: fewer pictures than rows": v2(
        short_video, said="1 of 3 frames are not in the video", **SAVED_BUT_1
    ),
    "v2: a parquet file without metadata": v2(
        copied(data_v2(1), data_v2(7)), said="belongs to no episode", lost=True
    ),
    "v2: a video without metadata": v2(
        copied(video_v2(1), video_v2(7)), said="belongs to no episode", lost=True
    ),
    "v2: wrong statistics": v2(garbled_stats, said="mean: dimension 0", **CORRECTED),
    "v2: statistics without an episode": v2(missing_stats, said="expected a line", **CORRECTED),
    "v2: half-written statistics": v2(half_written_stats, said="is damaged", **CORRECTED),
    "v2: rows that kept an old number": v2(
        remove_and_forget_the_rows,
        saved=(0, 2, 3),
        said="episode_index: expected 1, got 2",
        **CORRECTED,
    ),
    "v2: two episodes' rows are swapped": v2(
        swap(data_v2(1), data_v2(2)),
        saved=(0, 3),
        said="episode_index: expected 1, got 2, and nothing tells which is right",
        lost=True,
    ),
    "v2: rows of another episode": v2(
        copied(data_v2(0), data_v2(1)), said="nothing tells which is right", **SAVED_BUT_1
    ),
    "v2: a task without a text, named by the line": v2(
        without_task(1), said="task 1 is 'open the drawer'", **CORRECTED
    ),
    "v2: a task without a text": v2(
        several(without_task(1), edit_lines("meta/episodes.jsonl", put(1, "tasks", []))),
        task_of=((0,), (1,), (0,), (0,)),
        said="task_index: expected tasks with a text, got [1]",
        **SAVED_BUT_1,
    ),
    "v2: no table of tasks": v2(
        lambda root: (root / "meta/tasks.jsonl").unlink(), said="not found", **CORRECTED
    ),
    "v2: no chunks_size": v2(edit_info(chunks_size=...), said="chunks_size", **CORRECTED),
    "v2: frames that do not count": v2(
        edit_column(data_v2(1), "frame_index", lambda rows: [7, 8, 9]),
        said="frame_index: expected 0, 1, 2",
        **CORRECTED,
    ),
    "v2: rows in another order": v2(is_reversed=True, said="sorted", **CORRECTED),
    "v2: an index that begins at 0": v2(
        index="the episode's rows", said="index: expected 5 and so on, got 0", **CORRECTED
    ),
    "v3: an episode is gone": v3(missing=(("episode", 1),), said="episode 1: ", **SAVED_BUT_1),
    "v3: a line is gone": v3(
        missing=(("line", 1),), said="no line of metadata lists the episode", **SAVED_BUT_1
    ),
    "v3: rows are gone": v3(missing=(("rows", 1),), said="found no rows", **SAVED_BUT_1),
    "v3: a data file is gone": v3(
        missing=(("data", 2),), saved=(0, 1), said="file is missing", lost=True, **FILES
    ),
    "v3: a data file without its end": v3(
        cut("data/chunk-000/file-001.parquet"),
        saved=(0, 1),
        said="cannot be read as parquet",
        lost=True,
        **FILES,
    ),
    "v3: a video is gone": v3(
        missing=(("video", 2),), saved=(0, 1), said="video file is missing", lost=True, **FILES
    ),
    "v3: a video without its end": v3(
        cut(video_v3(1)), saved=(0, 1), said=".mp4: ", lost=True, **FILES
    ),
    "v3: metadata without its end": v3(
        second_lines_unreadable, saved=(0, 1, 2), said="cannot be read as parquet", lost=True
    ),
    "v3: a killed recorder": v3(
        edit_info(**PROMISE), said="expected 6 episodes and 40 frames, found 4 and 18", lost=True
    ),
    "v3: wrong totals": v3(
        edit_info(total_episodes=7, total_tasks=9),
        said="total_tasks: expected 2, got 9",
        **CORRECTED,
    ),
    "v3: a line twice": v3(a_row_twice, said="expected each episode once", **CORRECTED),
    "v3: not finite": v3(not_finite(DATA_V3, 6), said="expected a finite value", **SAVED_BUT_1),
    "v3: no time in the video": v3(
        edit_v3(f"videos/{TOP}/from_timestamp", 1, None),
        said="expected a file and a time",
        **SAVED_BUT_1,
    ),
    "v3: two episodes with the same pictures": v3(
        edit_v3(f"videos/{TOP}/from_timestamp", 1, 0.0),
        said="shares pictures with episode 0",
        **SAVED_BUT_1,
    ),
    "v3: more rows than pictures": v3(
        several(
            edit_v3("length", 1, 2),
            edit_v3("dataset_to_index", 1, 7),
            edit_v3(f"videos/{TOP}/to_timestamp", 1, 0.7),
        ),
        said="expected 3 pictures (rows), got 2",
        **SAVED_BUT_1,
    ),
    "v3: a length that the rows contradict": v3(
        stated_lengths=(5, 9, 4, 6), said="length: expected 3 (its rows), got 9", **CORRECTED
    ),
    "v3: a copy of a data file": v3(
        copied(DATA_V3, "data/chunk-000/file-007.parquet"), said="rows are in", lost=True
    ),
    "v3: a stale file index": v3(
        data_files=(0, 0, 1, 1), stated_files=(0, 0, 0, 1), said="data/file_index", **CORRECTED
    ),
    "v3: starts of rows that are not true": v3(
        stated_starts=(0, 8, 5, 12), said="dataset_from_index: expected 5, got 8", **CORRECTED
    ),
    "v3: rows that kept an old number": v3(
        forget_the_rows_v3,
        saved=(0, 2, 3),
        said="episode_index: expected 1, got 2",
        **CORRECTED,
    ),
    "v3: rows in another order": v3(is_reversed=True, said="sorted", **CORRECTED),
    "v3: no table of tasks": v3(
        lambda root: (root / "meta/tasks.parquet").unlink(), said="not found", **CORRECTED
    ),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_what_can_be_saved_keeps_everything_that_belongs_to_it(
    name: str, repair: Callable[..., Repaired], tmp_path: Path
) -> None:
    damage = SITUATIONS[name]
    root = damage.dataset.write(tmp_path / "damaged")
    damage.plant(root)
    done = repair(root)
    assert rows_of(done.root) == kept(damage.dataset, damage.saved)
    assert done.code == int(damage.lost)
    lines = done.said("left out" if damage.lost else "corrected")
    assert any(damage.said in line for line in lines), done.lines
    assert damage.lost or not done.said("left out")


INTACT = {
    "v2.0": plain("v2.0"),
    "v2.1": plain("v2.1", cameras=CAMERAS),
    "v3.0": plain("v3.0", cameras=CAMERAS),
    "several files": plain(
        "v3.0", lengths=(3, 2, 4, 3), data_files=(0, 0, 1, 2), cameras=(Camera(files=(0, 1, 1, 2)),)
    ),
    "several tasks": plain("v3.0", task_numbers=(7, 2), task_of=((0, 1), (1,), (0, 1, 0))),
    "texts after a category": plain("v3.0", task_table="after a category"),
    "columns": plain(
        columns=(
            Column(key="gripper", dtype="float32", stored="float32", kind="fraction"),
            Column(key="clock", dtype="int64", stored="int64", kind="clock"),
            Column(key="note", dtype="string", stored="string", kind="text"),
        )
    ),
}


@pytest.mark.parametrize("name", INTACT)
def test_an_intact_dataset_loses_nothing(
    name: str, repair: Callable[..., Repaired], tmp_path: Path
) -> None:
    dataset = INTACT[name]
    done = repair(dataset.write(tmp_path / "intact"))
    assert rows_of(done.root) == dataset.rows()
    assert done.code == 0
    assert done.lines[0] == "nothing needed repair: the result is a copy"


def test_rows_without_pictures_are_kept_and_pictures_without_rows_left_out(
    repair: Callable[..., Repaired], tmp_path: Path
) -> None:
    for version in ("v2.1", "v3.0"):
        dataset = plain(
            version, lengths=(5, 3, 4), stated_lengths=(5, 3, 4), missing=(("last rows", 1),)
        )
        done = repair(dataset.write(tmp_path / version))
        expected = [row for row in dataset.rows() if row.state[:2] != (1.0, 2.0)]
        assert rows_of(done.root) == expected
        assert done.code == 1
        assert any("pictures after the last row" in line for line in done.said("left out"))
        shutil.rmtree(done.root)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_tables_and_unknown_files_are_kept(
    version: Any, repair: Callable[..., Repaired], tmp_path: Path
) -> None:
    dataset = plain(
        version,
        references=(Reference(),),
        files=(("meta/modality.json", "{}"), ("meta/notes/today.txt", "fine"), ("README.md", "x")),
        missing=(("episode", 1),),
    )
    done = repair(dataset.write(tmp_path / "damaged"))
    assert rows_of(done.root) == kept(dataset, (0, 2))
    for name, text in dataset.files:
        assert (done.root / name).read_text() == text


def test_ranges_of_episodes_are_renumbered(repair: Callable[..., Repaired], tmp_path: Path) -> None:
    splits = {"train": "0:3", "test": "3:4", "note": "by hand"}
    dataset = plain(lengths=LENGTHS, info=(("splits", splits),), missing=(("data", 1),))
    done = repair(dataset.write(tmp_path / "damaged"))
    info = json.loads((done.root / "meta/info.json").read_text())
    assert info["splits"] == {"train": "0:2", "test": "2:3", "note": "by hand"}


def test_the_report_is_one_json_object(repair: Callable[..., Repaired], tmp_path: Path) -> None:
    root = plain(lengths=LENGTHS, missing=(("data", 1),)).write(tmp_path / "damaged")
    done = repair(root, "--json")
    report = json.loads(done.lines[0])
    assert len(done.lines) == 1
    assert report["num_episodes"] == 3 and report["num_frames"] == 15
    assert report["episodes"] == [0, 2, 3]
    assert report["left_out"] == [
        {
            "file": str(root / data_v2(1)),
            "episode": 1,
            "message": "the parquet file is missing",
        }
    ]


NOTHING = {
    "no info": (lambda root: (root / "meta/info.json").unlink(), "info.json: not found"),
    "info is cut": (cut("meta/info.json"), "info.json: expected JSON"),
    "no rate": (edit_info(fps=...), "info.json: the key 'fps' is missing"),
    "no lines": (write("meta/episodes.jsonl", ""), "expected the episodes' metadata, got none"),
    "no data": (
        lambda root: shutil.rmtree(root / "data"),
        "expected an episode to save, got none (left out: episode 0",
    ),
}


@pytest.mark.parametrize("name", NOTHING)
def test_where_nothing_can_be_saved_one_line_says_why(
    name: str, repair: Callable[..., Repaired], tmp_path: Path
) -> None:
    plant, said = NOTHING[name]
    root = plain().write(tmp_path / "damaged")
    plant(root)
    done = repair(root)
    assert done.code == 1
    assert said in done.error


def test_an_existing_folder_and_one_inside_the_dataset_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = plain().write(tmp_path / "damaged")
    before = content(root)
    for out, said in (
        (tmp_path, "expected an empty folder"),
        (root / "out", "outside the dataset"),
    ):
        assert main(["repair", str(root), "--out", str(out)]) == 2
        assert said in capsys.readouterr().err
    assert content(root) == before


def test_an_episode_that_cannot_be_copied_is_left_out_or_encoded_again(
    repair: Callable[..., Repaired], tmp_path: Path
) -> None:
    long_gop = Camera(encoding=Encoding(gop=12))
    dataset = plain("v3.0", cameras=(long_gop,), info=(("total_frames", 99),))
    root = dataset.write(tmp_path / "damaged")
    done = repair(root)
    assert done.code == 1
    assert rows_of(done.root) == kept(dataset, (0,))
    assert [line.partition(": /")[0] for line in done.said("left out")] == [
        "left out: episode 1",
        "left out: episode 2",
    ]
    assert all("--reencode" in line for line in done.said("left out"))
    shutil.rmtree(done.root)
    done = repair(root, "--reencode")
    assert done.code == 0
    assert rows_of(done.root) == dataset.rows()


def test_many_corrections_of_a_kind_are_counted(
    repair: Callable[..., Repaired], tmp_path: Path
) -> None:
    dataset = plain("v3.0", lengths=(2,) * 25, cameras=(), index="the episode's rows")
    root = dataset.write(tmp_path / "damaged")
    done = repair(root)
    assert done.code == 0
    assert rows_of(done.root) == dataset.rows()
    assert len(done.said("corrected: episode")) == 20
    assert done.lines[-1] == "corrected: 4 more like these; --json lists all"
    shutil.rmtree(done.root)
    report = json.loads(repair(root, "--json").lines[0])
    assert [note["episode"] for note in report["corrected"]] == list(range(1, 25))
