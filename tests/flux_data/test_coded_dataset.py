"""The tests' own datasets: the files hold what their description says, read by other code."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from .coded_dataset import DEPTH, Camera, CodedDataset, Column, Reference, plain
from .coded_pictures import HEVC_SIDE, Code, Encoding, code_in, picture
from .coded_rows import rows_of
from .coded_strategies import COLUMNS, REFERENCES

WRIST = "observation.images.wrist"
ANNOTATION = "annotation.human.action"

DATASETS = {
    "v2.0": plain("v2.0"),
    "v2.1": plain("v2.1"),
    "v3.0": plain("v3.0"),
    "files": plain(
        "v3.0",
        lengths=(3, 2, 4, 3),
        data_files=(0, 0, 1, 2),
        cameras=(Camera(files=(0, 1, 1, 2)), Camera(key=WRIST, kind="image")),
    ),
    "ntsc": plain("v3.0", fps=29.97, lengths=(20, 30)),
    "odd rate": plain("v2.1", fps=12.5),
    "long gop": plain("v3.0", cameras=(Camera(encoding=Encoding(gop=12, b_frames=2)),)),
    "late rows alone": plain(row_start_s=0.1, cameras=(Camera(tail=1),)),
    "times that run on": plain("v3.0", times_run_on=True),
    "late rows": plain("v3.0", row_start_s=0.3),
    "late rows and video": plain(row_start_s=0.3, cameras=(Camera(first_stamp_s=0.3),)),
    "late video": plain("v3.0", cameras=(Camera(first_stamp_s=0.3),)),
    "more pictures": plain("v3.0", cameras=(Camera(lead=2, tail=1, oversampling=2),)),
    "dropped rows": plain(dropped=((0, 1), (2, 0))),
    "jitter": plain(jitter=0.3),
    "tasks": plain("v3.0", task_numbers=(7, 2), task_of=((0, 1), (1,), (0, 1, 0))),
    "category": plain("v3.0", task_table="after a category"),
    "references": plain(
        "v3.0", references=(Reference(), Reference(column=ANNOTATION, table="tasks"))
    ),
    "references in lines": plain("v2.1", references=(Reference(),)),
    "columns": plain(
        columns=(
            Column(key="gripper", dtype="float32", stored="float32", kind="fraction"),
            Column(key="clock", dtype="int64", stored="int64", kind="clock"),
            Column(key="note", dtype="string", stored="string", kind="text"),
            Column(key="is_held", dtype="bool", stored="bool", kind="flag"),
            Column(key="events", dtype="language", stored="language", kind="events"),
        )
    ),
    "more columns": plain(columns=COLUMNS, references=REFERENCES, time_stored="float64"),
    "chunks, v2.1": plain(chunk_size=2, are_lines_shuffled=True),
    "chunks, v3.0": plain(
        "v3.0",
        chunk_size=1,
        data_files=(0, 1, 1),
        lines_per_file=1,
        are_lines_shuffled=True,
        cameras=(Camera(files=(0, 0, 1)),),
    ),
    "image files": plain(cameras=(Camera(kind="image", is_file=True),)),
    "uneven stamps": plain("v3.0", cameras=(Camera(jitter=0.2, lost=(1,)),)),
    "hevc": plain(cameras=(Camera(encoding=Encoding(codec="libx265", side=HEVC_SIDE, gop=6)),)),
    "mpeg4": plain("v3.0", cameras=(Camera(encoding=Encoding(codec="mpeg4", gop=6)),)),
    "depth image": plain(cameras=(Camera(), Camera(key=DEPTH, kind="depth image"))),
    "depth video": plain("v3.0", cameras=(Camera(), Camera(key=DEPTH, kind="depth video"))),
    "other order": plain("v3.0", row_order=(2, 0, 1)),
    "reversed": plain("v3.0", is_reversed=True, index="the episode's rows"),
    "stale file": plain("v3.0", data_files=(0, 0, 1), stated_files=(0, 0, 0)),
}


@pytest.mark.parametrize("name", DATASETS)
def test_the_files_hold_what_the_description_says(name: str, tmp_path: Path) -> None:
    dataset = DATASETS[name]
    assert rows_of(dataset.write(tmp_path / "ds")) == dataset.rows()


def test_a_video_with_a_late_start_is_not_paired_with_rows_from_zero(tmp_path: Path) -> None:
    dataset = plain(cameras=(Camera(first_stamp_s=0.3),))
    first = rows_of(dataset.write(tmp_path / "ds"))[0]
    assert first.pictures == (("observation.images.top", None),)


def test_every_code_can_be_read_from_its_picture() -> None:
    codes = [Code(*(int(x) for x in row)) for row in np.argwhere(np.ones((16, 16, 1)))]
    codes += [Code(3, 5, frame) for frame in range(256)]
    for code in codes:
        assert code_in(picture(code)) == code


@pytest.mark.parametrize(
    "what", ["video", "pointer", "data", "line", "rows", "last rows", "episode"]
)
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_missing_piece_makes_the_rows_contradict_the_description(
    version: str, what: str, tmp_path: Path
) -> None:
    dataset = CodedDataset(version=version, missing=((what, 1),))
    root = dataset.write(tmp_path / "ds")
    try:
        found = rows_of(root)
    except (AssertionError, FileNotFoundError, av.error.FFmpegError):
        return
    assert found != dataset.rows()
