"""Kinds of datasets that people really have, through every command and into training.

Each is read right everywhere, or refused everywhere it matters, with the same place and remedy:
no two commands disagree about what belongs together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from .coded_commands import Outcome, check_files, check_rows, run, train_or_refuse, write_or_refuse
from .coded_dataset import DEPTH, Camera, CodedDataset, Column, Reference
from .coded_pictures import Encoding
from .coded_properties import folder
from .coded_rows import renumbered, rows_of
from .coded_strategies import DEPTH_MARKS

MODALITY = json.dumps({"annotation": {"human.action.task_description": {}}})
ANNOTATION = "annotation.human.action.task_description"
FOUR = (3, 2, 4, 3)
PLAIN = Camera()

Door = Callable[[CodedDataset, Path], Outcome]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of dataset, and how each command takes it.

    Attributes:
        dataset: an example.
        refused: the reason that every command gives, as a pattern; '' if all of them read it.
        read_by: the commands that read it nevertheless.
        fault: what `validate` finds in it although it is read.
        saved: the number of rows that `repair` saves if it has to leave some out; default: all.
    """

    dataset: CodedDataset
    refused: str = ""
    read_by: tuple[str, ...] = ("info",)
    fault: str = ""
    saved: int | None = None


def info(dataset: CodedDataset, at: Path) -> Outcome:
    outcome = run("info", at / "ds", "--json")
    if not outcome.is_refused:
        found = json.loads(outcome.error)
        assert [*found["tasks"]] == [*dataset.tasks]
        names = [(c.key.rpartition(".")[2], c.is_depth) for c in dataset.cameras]
        assert found["cameras"] == [name for name, is_depth in names if not is_depth]
        assert found["depth_cameras"] == [name for name, is_depth in names if is_depth]
        assert {column.key for column in dataset.columns} <= {*found["features"]}
    return outcome


def validate(dataset: CodedDataset, at: Path) -> Outcome:
    return run("validate", at / "ds")


def to_v21(dataset: CodedDataset, at: Path) -> Outcome:
    return _converted(dataset, at, "v2.1")


def to_v30(dataset: CodedDataset, at: Path) -> Outcome:
    return _converted(dataset, at, "v3.0")


def _converted(dataset: CodedDataset, at: Path, version: str, *more: str) -> Outcome:
    out = at / "out"
    outcome = write_or_refuse(at, "convert", at / "ds", "--out", out, "--to", version, *more)
    if not outcome.is_refused:
        check_rows(dataset.rows(), out, in_order=dataset.rows(by_time=False) if more else None)
        check_files(dataset, out)
        if not run("validate", at / "ds").is_refused:
            faults = run("validate", out)
            assert not faults.is_refused, faults.error
    return outcome


def reencode(dataset: CodedDataset, at: Path) -> Outcome:
    return _converted(dataset, at, "v2.1", "--reencode")


def merge(dataset: CodedDataset, at: Path) -> Outcome:
    """Merges it with an intact dataset of the same robot."""
    other = replace(intact(dataset), number=1)
    other.write(at / "other")
    outcome = write_or_refuse(at, "merge", at / "ds", at / "other", "--out", at / "out")
    if not outcome.is_refused:
        check_rows(renumbered([dataset.rows(), other.rows()]), at / "out")
    return outcome


def split(dataset: CodedDataset, at: Path) -> Outcome:
    last = dataset.num_episodes - 1
    parts = (f"a={last}", f"b=0-{last - 1}")
    outcome = write_or_refuse(at, "split", at / "ds", "--out", at / "out", *parts)
    if not outcome.is_refused:
        for name, chosen in (("a", [last]), ("b", range(last))):
            rows = [row for row in dataset.rows() if row.episode in chosen]
            check_rows(renumbered([rows]), at / "out" / name)
    return outcome


def train(dataset: CodedDataset, at: Path) -> Outcome:
    return train_or_refuse(dataset, at / "ds")


DOORS: tuple[Door, ...] = (info, validate, to_v21, to_v30, reencode, merge, split, train)


def intact(dataset: CodedDataset) -> CodedDataset:
    cameras = tuple(
        Camera(key=c.key, kind=c.kind, encoding=c.encoding, mark=c.mark) for c in dataset.cameras
    )
    kept = ("version", "dim", "fps", "tasks", "task_table", "references", "columns", "files")
    values = {name: getattr(dataset, name) for name in (*kept, "time_dtype")}
    return CodedDataset(**values, cameras=cameras)


WRONG_START = r"episode 1: dataset_from_index: expected 3, .*|expected 3 \(the lengths\), got 5"
CAMERA = r"videos/.*observation\.images\.top.*"

KINDS: dict[str, Kind] = {
    "the file index is stale at a roll-over": Kind(
        dataset=CodedDataset(
            version="v3.0", lengths=FOUR, data_files=(0, 0, 1, 1), stated_files=(0, 0, 0, 1)
        ),
        fault=r"data_file: .*file-000.parquet \(episode 2\)",
    ),
    "the file index names a file that never existed": Kind(
        dataset=CodedDataset(version="v3.0", lengths=FOUR, stated_files=(0, 0, 1, 1)),
        fault=r"data_file: .*file-001.parquet \(episode 2\)",
    ),
    "the file index names another folder": Kind(
        dataset=CodedDataset(
            version="v3.0",
            lengths=FOUR,
            chunk_size=1,
            data_files=(0, 0, 1, 1),
            stated_files=(0, 0, 2, 1),
        ),
        fault=r"data_file: .*chunk-002/file-000.parquet \(episode 2\)",
    ),
    "lines of the metadata are in another order, in several files": Kind(
        dataset=CodedDataset(
            version="v3.0", lengths=FOUR, are_lines_shuffled=True, lines_per_file=1
        ),
    ),
    "the rows of an episode are stored twice": Kind(
        dataset=CodedDataset(version="v3.0", lengths=FOUR, repeated=(1,)),
        refused=r"episode 1: expected (its rows once|2 rows \(the metadata\), got 4)",
        saved=10,
    ),
    "images are files": Kind(dataset=CodedDataset(cameras=(Camera(kind="image", is_file=True),))),
    "a picture in the middle of a video is lost": Kind(
        dataset=CodedDataset(cameras=(Camera(lost=(1,)),)),
        refused=CAMERA + r"0\.1000 s",
        saved=0,
    ),
    "a picture is lost, and one more at the end": Kind(
        dataset=CodedDataset(lengths=(6, 5), cameras=(Camera(lost=(1,), tail=1),)),
        refused=CAMERA + r"0\.[015]000 s",
        saved=0,
    ),
    "a text has two numbers": Kind(
        dataset=CodedDataset(tasks=("fold the towel", "open the drawer", "fold the towel")),
        fault="task 2: expected another text than task 0",
        saved=12,
    ),
    "starts are in another order than the rows": Kind(
        dataset=CodedDataset(version="v3.0", lengths=FOUR, stated_starts=(0, 5, 3, 9)),
        refused=WRONG_START,
    ),
    "rows are stored in another order": Kind(
        dataset=CodedDataset(version="v3.0", lengths=FOUR, row_order=(2, 0, 3, 1)),
        fault=r"dataset_from_index: .* \(episode 0\)",
    ),
    "an episode is missing, v2.1": Kind(
        dataset=CodedDataset(lengths=FOUR, missing=(("episode", 1),)),
        refused=r"meta/episodes\.jsonl:2: expected episode 1, got 2\. .*flux-data repair",
        read_by=(),
        saved=10,
    ),
    "an episode is missing, v3.0": Kind(
        dataset=CodedDataset(version="v3.0", lengths=FOUR, missing=(("episode", 1),)),
        refused=r"file-000\.parquet: row 1: expected episode 1, got 2\. .*flux-data repair",
        read_by=(),
        saved=10,
    ),
    "the last rows of an episode are missing": Kind(
        dataset=CodedDataset(missing=(("last rows", 2),)),
        refused=r"episode_000002\.parquet.*: expected 4 rows \(the metadata\), got 3",
        saved=11,
    ),
    "the recorder was killed": Kind(
        dataset=CodedDataset(info=(("total_episodes", 5), ("total_frames", 40))),
        refused=r"meta/info\.json.*total_episodes: expected 3, as listed, got 5",
        saved=12,
    ),
    "rows were removed": Kind(
        dataset=CodedDataset(dropped=((0, 2), (2, 1))),
        fault=r"episode 0, frame 2.*expected 0\.2",
        saved=3,
    ),
    "rows were removed, frames keep their numbers": Kind(
        dataset=CodedDataset(dropped=((0, 2), (2, 1)), is_renumbered=False),
        fault=r"episode 0, frame 2.*expected 0\.2",
        saved=3,
    ),
    "rows have messages": Kind(
        dataset=CodedDataset(
            version="v3.0",
            columns=(
                Column(key="persistent", dtype="language", stored="language", kind="persistent"),
                Column(key="events", dtype="language", stored="language", kind="events"),
            ),
        )
    ),
    "subtasks have a table": Kind(dataset=CodedDataset(version="v3.0", references=(Reference(),))),
    "annotations number tasks": Kind(
        dataset=CodedDataset(
            task_numbers=(2, 1),
            references=(Reference(column=ANNOTATION, table="tasks"),),
            files=(("meta/modality.json", MODALITY),),
        )
    ),
    "another text precedes the task": Kind(
        dataset=CodedDataset(version="v3.0", task_table="after a category")
    ),
    **{
        f"depth {kind} marked by {' and '.join(mark)}": Kind(
            dataset=CodedDataset(
                version=version, cameras=(PLAIN, Camera(key=DEPTH, kind=f"depth {kind}", mark=mark))
            )
        )
        for version, kind in (("v2.1", "image"), ("v3.0", "video"))
        for mark in DEPTH_MARKS
    },
    "fractions are declared as whole numbers": Kind(
        dataset=CodedDataset(
            columns=(Column(key="gripper", dtype="int64", stored="float64", kind="fraction"),)
        ),
        refused=r"gripper: frame 0: expected a value that int64 \(info\.json\) can hold, got ",
        read_by=("info", "train"),
        saved=0,
    ),
    **{
        f"a clock in nanoseconds is declared {dtype}": Kind(
            dataset=CodedDataset(
                columns=(Column(key="clock", dtype=dtype, stored="int64", kind="clock"),)
            ),
            refused=rf"clock: frame 0: expected a value that {dtype} \(info\.json\) can hold, got",
            read_by=("info", "train"),
            saved=0,
        )
        for dtype in ("int32", "float32")
    },
    "times are a wall clock's, with images": Kind(
        dataset=CodedDataset(cameras=(Camera(kind="image"),), epoch_s=1.7e9, time_dtype="float64"),
        fault=r"expected 0\.0000 s, got 1700000000\.0000 s",
        saved=0,
    ),
    "times are a wall clock's, with a video": Kind(
        dataset=CodedDataset(epoch_s=1.7e9, time_dtype="float64"),
        refused=CAMERA + r"1700000000\.0000 s",
        saved=0,
    ),
    "times have jitter": Kind(dataset=CodedDataset(jitter=0.2)),
    "times run on over all episodes": Kind(
        dataset=CodedDataset(version="v3.0", times_run_on=True),
        refused=CAMERA,
        read_by=("info", "reencode"),
        saved=5,
    ),
    "episodes of a joined video begin between keyframes": Kind(
        dataset=CodedDataset(version="v3.0", cameras=(Camera(encoding=Encoding(gop=30)),)),
        refused=CAMERA + "does not begin at a keyframe .*--reencode",
        read_by=("info", "validate", "reencode", "train"),
        saved=5,
    ),
    "frames are reordered, after a short episode": Kind(
        dataset=CodedDataset(
            lengths=(1, 3, 4), cameras=(Camera(encoding=Encoding(gop=30, b_frames=2)),)
        )
    ),
    "video and rows begin late": Kind(
        dataset=CodedDataset(row_start_s=0.3, cameras=(Camera(first_stamp_s=0.3),))
    ),
    "the video begins late, the rows do not": Kind(
        dataset=CodedDataset(cameras=(Camera(first_stamp_s=0.3),)),
        refused=CAMERA + r"0\.3000 s",
        read_by=("info", "reencode"),
        saved=0,
    ),
    "the video begins late, as the metadata says": Kind(
        dataset=CodedDataset(version="v3.0", cameras=(Camera(first_stamp_s=0.3),))
    ),
    "a video is too short": Kind(
        dataset=CodedDataset(cameras=(Camera(cut=1),)),
        refused=CAMERA + r"0\.[234]000 s",
        saved=0,
    ),
    "a video is missing": Kind(
        dataset=CodedDataset(missing=(("video", 1),)),
        refused=CAMERA + r"episode_000001\.mp4.* the video file is missing",
        saved=9,
    ),
    "a video is a pointer": Kind(
        dataset=CodedDataset(missing=(("pointer", 1),)),
        refused=CAMERA + r"episode_000001\.mp4.*a Git LFS pointer",
        saved=9,
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_command_and_training_agree_when(name: str) -> None:
    kind = KINDS[name]
    for door in DOORS:
        with folder() as at:
            kind.dataset.write(at / "ds")
            outcome = door(kind.dataset, at)
        is_read = not kind.refused or door.__name__ in kind.read_by
        reason = kind.fault if door is validate and is_read else kind.refused * (not is_read)
        assert outcome.is_refused == bool(reason), f"{door.__name__}: {outcome.error}"
        assert re.search(reason, outcome.error), f"{door.__name__}: {outcome.error}"


@pytest.mark.parametrize("name", KINDS)
def test_repair_saves_what_can_be_saved_when(name: str) -> None:
    kind = KINDS[name]
    rows = kind.dataset.rows()
    saved = len(rows) if kind.saved is None else kind.saved
    with folder() as at:
        out = at / "out"
        outcome = run("repair", kind.dataset.write(at / "ds"), "--out", out)
        assert outcome.is_refused == (kind.saved is not None), outcome.error
        assert out.exists() == bool(saved)
        if saved:
            found = rows_of(out)
            assert len(found) == saved
            frames = {row.state[:2] for row in found}
            check_rows(renumbered([[row for row in rows if row.state[:2] in frames]]), out)
            assert run("validate", out).is_refused == ("remaining: " in outcome.error)
