"""Tables, their numbers, and what no format knows: kept as they are, or refused by name."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flux_core.errors import DataError
from flux_data.convert.lerobot import convert, split
from flux_data.lerobot.dataset import open_lerobot
from flux_data.validate.rows import validate

from ..coded_commands import check_rows
from ..coded_dataset import DATA_V3, DEPTH, Camera, CodedDataset, Column, Reference, plain
from ..coded_rows import renumbered
from ..small_dataset import edit_info, edit_lines, edit_table

VERSIONS = ("v2.1", "v3.0")
ANNOTATION = "annotation.human.action.task_description"
TASKS = ("valid", "pick the cup", "pick the pear", "invalid")
GROOT: dict[str, Any] = {
    "lengths": (3, 2, 2),
    "tasks": TASKS,
    "task_of": ((2,), (1,), (2,)),
    "references": (Reference(column=ANNOTATION, table="tasks"),),
}
NUMBERED = plain("v3.0", task_numbers=(7, 2), task_of=((0, 1), (1,), (0, 1, 0)))


def numbers(root: Path, key: str) -> list[int]:
    return open_lerobot(root).columns([key])[key].ravel().tolist()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "dataset",
    [
        replace(NUMBERED, version="v2.1"),
        NUMBERED,
        plain("v2.1", **GROOT),
        plain("v3.0", **GROOT),
        plain("v3.0", references=(Reference(),)),
        plain("v2.1", references=(Reference(),)),
        plain("v3.0", task_table="after a category"),
    ],
    ids=["numbers v2.1", "numbers", "groot v2.1", "groot", "subtasks", "lines", "category"],
)
def test_one_dataset_is_never_renumbered(
    tmp_path: Path, dataset: CodedDataset, version: str
) -> None:
    """Neither by a conversion nor by a split, which keeps unused tasks too."""
    root, rows = dataset.write(tmp_path / "in"), dataset.rows()
    convert([root], tmp_path / "out", version)
    check_rows(rows, tmp_path / "out")
    outs = ["out"]
    if version == dataset.version:
        split(root, tmp_path / "parts", {"a": "2,0"})
        chosen = [[r for r in rows if r.episode == e] for e in (2, 0)]
        check_rows(renumbered(chosen), tmp_path / "parts/a")
        outs.append("parts/a")
    keys = ["task_index", *(reference.column for reference in dataset.references)]
    for key in keys:
        assert numbers(tmp_path / "out", key) == numbers(root, key)
    for out in outs:
        assert open_lerobot(tmp_path / out).tasks == open_lerobot(root).tasks
        assert validate(tmp_path / out) == []


def test_the_texts_of_annotations_stay_in_the_episodes_lines(tmp_path: Path) -> None:
    root = plain("v2.1", **GROOT).write(tmp_path / "in")
    more = edit_lines(
        "meta/episodes.jsonl", lambda rows: [r["tasks"].append("valid") for r in rows]
    )
    more(root)
    convert([root], tmp_path / "v30", "v3.0")
    convert([tmp_path / "v30"], tmp_path / "v21", "v2.1")
    lines = [(p / "meta/episodes.jsonl").read_text() for p in (root, tmp_path / "v21")]
    assert [json.loads(line) for line in lines[1].splitlines()] == [
        json.loads(line) for line in lines[0].splitlines()
    ]


def test_other_columns_of_the_tasks_survive_both_ways(tmp_path: Path) -> None:
    root = plain("v3.0", task_table="after a category").write(tmp_path / "in")
    convert([root], tmp_path / "v21", "v2.1")
    line = (tmp_path / "v21/meta/tasks.jsonl").read_text().splitlines()[1]
    assert json.loads(line) == {
        "task_index": 1,
        "task": "open the drawer",
        "category": "category 1",
    }
    convert([tmp_path / "v21"], tmp_path / "v30", "v3.0")
    table = pq.read_table(tmp_path / "v30/meta/tasks.parquet")
    assert table["category"].to_pylist() == ["category 0", "category 1"]
    assert open_lerobot(tmp_path / "v30").tasks == open_lerobot(root).tasks
    edit_table("meta/tasks.parquet", lambda t: t.append_column("icon", pa.array([b"\0", b"\1"])))(
        root
    )
    with pytest.raises(DataError, match=r"tasks.parquet: icon: .* v2.1's JSON can express, got by"):
        convert([root], tmp_path / "again", "v2.1")
    convert([root], tmp_path / "same", "v3.0")
    assert pq.read_table(tmp_path / "same/meta/tasks.parquet")["icon"].to_pylist() == [b"\0", b"\1"]


OTHER = replace(
    plain("v3.0", number=1, tasks=("stack", "valid", "pick the pear"), lengths=(2, 3)),
    references=(
        Reference(column=ANNOTATION, table="tasks"),
        Reference(texts=("grasp", "place", "reach"), shift=1),
    ),
)
FIRST = replace(
    plain("v2.1", **GROOT), references=(Reference(column=ANNOTATION, table="tasks"), Reference())
)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("is_reversed", [False, True])
def test_a_merge_renumbers_references_with_their_tables(
    tmp_path: Path, version: str, is_reversed: bool
) -> None:
    pair = [OTHER, FIRST] if is_reversed else [FIRST, OTHER]
    roots = [dataset.write(tmp_path / str(i)) for i, dataset in enumerate(pair)]
    convert(roots, tmp_path / "out", version)
    check_rows(renumbered([dataset.rows() for dataset in pair]), tmp_path / "out")
    assert validate(tmp_path / "out") == []
    first, merged = open_lerobot(roots[0]), open_lerobot(tmp_path / "out")
    assert {i: merged.tasks[i] for i in first.tasks} == first.tasks
    assert len(set(merged.tasks.values())) == len(merged.tasks)


def test_a_merge_without_one_of_the_tables_is_refused(tmp_path: Path) -> None:
    roots = [
        replace(plain("v3.0", number=i), references=(Reference(),)).write(tmp_path / str(i))
        for i in range(2)
    ]
    (roots[1] / "meta/subtasks.parquet").unlink()
    message = r"1: expected a table meta/subtasks.parquet, to which subtask_index refers"
    with pytest.raises(DataError, match=message):
        convert(roots, tmp_path / "out", "v3.0")
    assert not (tmp_path / "out").exists()


def test_tables_that_say_different_things_of_a_text_are_not_merged(tmp_path: Path) -> None:
    roots = [plain("v3.0", task_table="after a category").write(tmp_path / n) for n in "ab"]
    change = edit_table(
        "meta/tasks.parquet", lambda t: t.set_column(1, "category", pa.array(["x", "category 1"]))
    )
    change(roots[1])
    message = r"b/meta/tasks.parquet: category of 'fold the towel': expected 'category 0', .* 'x'"
    with pytest.raises(DataError, match=message):
        convert(roots, tmp_path / "out", "v3.0")


def test_a_column_that_may_number_tasks_is_not_guessed(tmp_path: Path) -> None:
    column = Reference(column="annotation.quality", table="tasks")
    roots = [
        plain("v2.1", tasks=tasks, references=(column,)).write(tmp_path / tasks[0])
        for tasks in (("a", "b"), ("b", "a"))
    ]
    with pytest.raises(DataError, match=r"annotation.quality: its numbers may refer to .*tasks"):
        convert(roots, tmp_path / "out", "v2.1")
    assert not (tmp_path / "out").exists()
    convert([roots[0], roots[0]], tmp_path / "same", "v2.1")  # the numbers stay
    modality = json.dumps({"annotation": {"quality": {}}})
    for root in roots:
        (root / "meta/modality.json").write_text(modality)
    convert(roots, tmp_path / "out", "v3.0")
    assert (tmp_path / "out/meta/modality.json").read_text() == modality


def test_a_number_beyond_the_table_is_refused_by_place_in_a_merge(tmp_path: Path) -> None:
    roots = [
        plain("v3.0", tasks=tasks, references=(Reference(column=ANNOTATION, table="tasks"),)).write(
            tmp_path / tasks[0]
        )
        for tasks in (("a", "b"), ("b", "a"))
    ]
    values = pa.array([0] * 4 + [9] + [0] * 7)
    edit_table(
        DATA_V3, lambda t: t.set_column(t.column_names.index(ANNOTATION), ANNOTATION, values)
    )(roots[1])
    message = rf"episode 0, {ANNOTATION}: frame 4: expected a number of the table of .* got 9"
    with pytest.raises(DataError, match=message):
        convert(roots, tmp_path / "out", "v3.0")


def test_a_split_keeps_what_no_format_knows(tmp_path: Path) -> None:
    dataset = plain(
        "v3.0",
        info=(("robot_serial", "A7"), ("tools", [1])),
        files=(("meta/modality.json", "{}"), ("meta/notes/a.txt", "x"), ("README.md", "hello")),
    )
    root = dataset.write(tmp_path / "in")
    split(root, tmp_path / "parts", {"a": "0", "b": "1-2"})
    for part, count in (("a", 1), ("b", 2)):
        info = json.loads((tmp_path / "parts" / part / "meta/info.json").read_text())
        assert (info["robot_serial"], info["tools"]) == ("A7", [1])
        assert info["splits"] == {"train": f"0:{count}"}
        for name, text in dataset.files:
            assert (tmp_path / "parts" / part / name).read_text() == text


def test_statistics_that_gr00t_keeps_in_v21_are_kept_while_they_are_true(tmp_path: Path) -> None:
    root = plain("v2.1", files=(("meta/stats.json", "{}"),)).write(tmp_path / "in")
    convert([root], tmp_path / "out", "v2.1")
    assert (tmp_path / "out/meta/stats.json").read_text() == "{}"
    split(root, tmp_path / "parts", {"a": "0"})
    assert not (tmp_path / "parts/a/meta/stats.json").exists()


def test_a_merge_keeps_what_all_datasets_agree_on_and_refuses_other_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = plain(
        info=(("tools", [1]), ("robot_serial", "A7")), files=(("meta/modality.json", "{}"),)
    )
    roots = [dataset.write(tmp_path / name) for name in "ab"]
    edit = edit_info(robot_serial="B2")
    edit(roots[1])
    convert(roots, tmp_path / "out", "v3.0")
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    assert info["tools"] == [1] and "robot_serial" not in info
    assert (tmp_path / "out/meta/modality.json").read_text() == "{}"
    place = roots[0] / "meta/info.json"
    assert caplog.messages == [
        f"{place}: not kept, because the datasets differ in it: robot_serial"
    ]
    (roots[1] / "meta/modality.json").write_text('{"state": {}}')
    with pytest.raises(DataError, match=r"a/meta/modality.json: .* all datasets, but it differs"):
        convert(roots, tmp_path / "again", "v3.0")
    (roots[1] / "meta/modality.json").unlink()
    with pytest.raises(DataError, match=r"a/meta/modality.json: .*, but it is not in .*/b"):
        convert(roots, tmp_path / "again", "v3.0")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("others", [["closed", "open"], ["open", "closed", "jammed"]])
def test_numbers_whose_values_have_other_names_are_not_merged(
    tmp_path: Path, others: list[str]
) -> None:
    column = Column(key="gripper_mode", dtype="int64", stored="int64")
    roots = [plain("v2.1", columns=(column,)).write(tmp_path / name) for name in "ab"]
    for root, names in zip(roots, (["open", "closed"], others), strict=True):
        features = json.loads((root / "meta/info.json").read_text())["features"]
        features[column.key]["names"] = names
        edit_info(features=features)(root)
    with pytest.raises(DataError, match=r"b: features.gripper_mode: .*expected .*open'"):
        convert(roots, tmp_path / "out", "v3.0")
    convert([roots[0], roots[0]], tmp_path / "same", "v3.0")
    names = open_lerobot(tmp_path / "same").info["features"][column.key]["names"]
    assert names == ["open", "closed"]


def test_depth_stays_depth_however_each_dataset_marks_it(tmp_path: Path) -> None:
    marks = (("info", "is_depth_map"), ("video_info", "video.is_depth_map"))
    cameras = [Camera(key=DEPTH, kind="depth image", mark=mark) for mark in marks]
    pair = [plain("v2.1", number=i, cameras=(Camera(), c)) for i, c in enumerate(cameras)]
    roots = [dataset.write(tmp_path / str(i)) for i, dataset in enumerate(pair)]
    convert(roots, tmp_path / "out", "v3.0")
    check_rows(renumbered([dataset.rows() for dataset in pair]), tmp_path / "out")
    assert validate(tmp_path / "out") == []
    info = json.loads((roots[1] / "meta/info.json").read_text())
    del info["features"][DEPTH]["video_info"]
    (roots[1] / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match=r"top_depth: depth: expected True, as in .*0, got False"):
        convert(roots, tmp_path / "again", "v3.0")


def test_sound_files_are_refused_by_name_and_other_folders_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = plain("v2.1", files=(("audio/a.m4a", "x"), (".cache/x", "y"))).write(tmp_path / "in")
    convert([root], tmp_path / "out", "v3.0")
    assert caplog.messages == [f"{root}: not copied: audio"]
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features["observation.audio.mic"] = {"dtype": "audio", "shape": [1], "names": None}
    edit_info(features=features)(root)
    with pytest.raises(DataError, match=r"features.observation.audio.mic: audio is not supported"):
        convert([root], tmp_path / "again", "v3.0")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_dataset_of_which_something_would_be_left_out_is_refused(
    tmp_path: Path, version: str
) -> None:
    """A recorder that was killed, a line that was deleted, a file that was left over."""
    root = plain(version).write(tmp_path / "in")
    shutil.copytree(root, tmp_path / "killed")
    edit_info(total_episodes=4, total_frames=20)(tmp_path / "killed")
    with pytest.raises(DataError, match=r"total_episodes: expected 3, as listed, got 4. `flux"):
        convert([tmp_path / "killed"], tmp_path / "out", "v3.0")
    dataset = plain(version, missing=(("line", 2),))
    edit_info(total_episodes=2, total_frames=8)(dataset.write(tmp_path / "line"))
    for act in (
        lambda: convert([tmp_path / "line"], tmp_path / "out", "v3.0"),
        lambda: split(tmp_path / "line", tmp_path / "out", {"a": "0"}),
    ):
        with pytest.raises(DataError, match=r"rows \(its episodes in the metadata\), got"):
            act()
    assert not (tmp_path / "out").exists()


def test_wide_times_are_kept_if_info_declares_them(tmp_path: Path) -> None:
    camera = Camera(kind="image")
    dataset = plain("v2.1", cameras=(camera,), epoch_s=1.7e9, time_dtype="float64")
    root = dataset.write(tmp_path / "in")
    convert([root], tmp_path / "out", "v3.0")
    times = pq.read_table(tmp_path / "out" / DATA_V3)["timestamp"]
    assert times.type == pa.float64()
    np.testing.assert_array_equal(times, numbers(root, "timestamp"))
    check_rows(dataset.rows(), tmp_path / "out")
