"""A command refuses and says why, or what it writes is right and has no faults itself."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flux_data.validate.rows import validate

from ..coded_commands import check_rows, run, write_or_refuse
from ..coded_dataset import DATA_V3, EPISODES_V3, TOP, Camera, Column, Reference, plain
from ..coded_pictures import SIDE
from ..small_dataset import edit_column, edit_info, edit_table

VERSIONS = ("v2.1", "v3.0")
MANY = tuple(f"step {i}" for i in range(6))
ANNOTATION = "annotation.human.action.task_description"


def outputs(root: Path, folder: Path, *options: str) -> list[Sequence[object]]:
    """The commands that write `root` anew below a folder."""
    return [
        *(("convert", root, "--to", v, "--out", folder / v, *options) for v in VERSIONS),
        ("merge", root, root, "--out", folder / "merged", *options),
        ("split", root, "--out", folder / "parts", "a=0", "b=1-2", *options),
    ]


def refused_everywhere(root: Path, folder: Path, *options: str) -> str:
    """Checks that every command refuses with the same words; returns them."""
    errors = {write_or_refuse(folder, *argv).error for argv in outputs(root, folder, *options)}
    assert len(errors) == 1, errors
    return errors.pop()


@pytest.mark.parametrize("own", ["first", "second"])
@pytest.mark.parametrize("table", ["subtasks", "tasks"])
def test_a_number_without_a_text_does_not_get_that_of_another_dataset(
    tmp_path: Path, table: str, own: str
) -> None:
    """The other dataset's table has a text for the number, which must stay without one."""
    name = "subtask_index" if table == "subtasks" else ANNOTATION
    texts = {"reach, grasp": ("reach", "grasp"), "many": MANY}
    roots = {}
    for key, known in texts.items():
        tables: dict[str, Any] = {"references": (Reference(column=name, texts=known),)}
        if table == "tasks":
            tables = {"references": (Reference(column=name, table="tasks"),), "tasks": known}
        roots[key] = plain("v3.0", **tables).write(tmp_path / key)
    edit_column(DATA_V3, name, lambda numbers: [5] * len(numbers))(roots["reach, grasp"])
    order = list(roots.values()) if own == "first" else list(roots.values())[::-1]
    outcome = write_or_refuse(tmp_path, "merge", *order, "--out", tmp_path / "merged")
    assert outcome.is_refused
    assert f"{DATA_V3}: episode 0, {name}: frame 0: expected a number of the table" in outcome.error


@pytest.mark.parametrize("version", VERSIONS)
def test_the_largest_whole_numbers_are_copied(tmp_path: Path, version: Any) -> None:
    column = Column(key="device_time", dtype="uint64", stored="uint64", kind="largest")
    dataset = plain(version, columns=(column,))
    root = dataset.write(tmp_path / "in")
    for target in VERSIONS:
        assert not run("convert", root, "--to", target, "--out", tmp_path / target).is_refused
        check_rows(dataset.rows(), tmp_path / target)
        assert list(validate(tmp_path / target)) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_lists_of_texts_are_copied(tmp_path: Path, version: Any) -> None:
    column = Column(key="words", dtype="string", stored="string", kind="text", width=2)
    dataset = plain(version, columns=(column,))
    root = dataset.write(tmp_path / "in")
    for target in VERSIONS:
        assert not run("convert", root, "--to", target, "--out", tmp_path / target).is_refused
        check_rows(dataset.rows(), tmp_path / target)
        assert list(validate(tmp_path / target)) == []


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("L", 3), ("RGBA", 4), ("RGBA", 3)])
def test_stored_images_of_any_number_of_channels_get_statistics_that_fit(
    tmp_path: Path, mode: str, channels: int
) -> None:
    def encoded(images: list[Any]) -> list[Any]:
        for image in images:
            file = io.BytesIO()
            Image.open(io.BytesIO(image["bytes"])).convert(mode).save(file, "PNG")
            image["bytes"] = file.getvalue()
        return images

    dataset = plain(lengths=(2,), cameras=(Camera(kind="image"),))
    root = dataset.write(tmp_path / "in")
    edit_column("data/chunk-000/episode_000000.parquet", TOP, encoded)(root)
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features[TOP]["shape"] = [SIDE, SIDE, channels]
    edit_info(features=features)(root)
    assert list(validate(root)) == []
    assert not run("convert", root, "--to", "v3.0", "--out", tmp_path / "out").is_refused
    assert list(validate(tmp_path / "out")) == []


def test_starts_in_another_order_than_the_episodes_do_not_tell_which_pictures_are_whose(
    tmp_path: Path,
) -> None:
    """Lengths differ, so that one of the starts is wrong; the sum of the lengths is right."""
    root = plain("v3.0", lengths=(4, 6, 3)).write(tmp_path / "in")
    start = f"videos/{TOP}/from_timestamp"
    edit_column(EPISODES_V3, start, lambda starts: [starts[1], starts[0], starts[2]])(root)
    error = refused_everywhere(root, tmp_path, "--reencode")
    assert "do not start in the order of their numbers" in error


def test_a_camera_that_is_faster_than_the_rows_is_no_fault(tmp_path: Path) -> None:
    dataset = plain(cameras=(Camera(oversampling=2),))
    root = dataset.write(tmp_path / "in")
    assert list(validate(root)) == []
    for argv in outputs(root, tmp_path):
        assert not run(*argv).is_refused
    for written in ("v2.1", "v3.0", "merged", "parts/a", "parts/b"):
        assert list(validate(tmp_path / written)) == []
    check_rows(dataset.rows(), tmp_path / "v2.1")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("options", [(), ("--reencode",)])
def test_where_pictures_are_lost_a_new_encoding_is_not_the_remedy(
    tmp_path: Path, version: Any, options: Sequence[str]
) -> None:
    dataset = plain(version, cameras=(Camera(cut=1),), lengths=(3, 3, 3))
    root = dataset.write(tmp_path / "in")
    outcome = write_or_refuse(
        tmp_path, "convert", root, "--to", "v2.1", "--out", tmp_path / "out", *options
    )
    assert outcome.is_refused
    assert "Use --reencode" not in outcome.error
    assert f"flux-data repair {root}" in outcome.error


@pytest.mark.parametrize("version", VERSIONS)
def test_times_in_milliseconds_are_not_taken_for_seconds(tmp_path: Path, version: Any) -> None:
    """Also where there are as many pictures as rows, so that their order would tell."""
    root = plain(version).write(tmp_path / "in")
    for path in (root / "data").rglob("*.parquet"):
        name = str(path.relative_to(root))
        edit_column(name, "timestamp", lambda times: [1000 * time for time in times])(root)
    error = refused_everywhere(root, tmp_path, "--reencode")
    assert "timestamp: expected rows about 0.1 s apart (fps in info.json), got 100 s" in error


def test_a_codec_that_the_new_file_cannot_hold_is_named(tmp_path: Path) -> None:
    root = plain(lengths=(2,)).write(tmp_path / "in")
    name = f"videos/chunk-000/{TOP}/episode_000000.mkv"
    edit_info(video_path=name)(root)
    with av.open(str(root / name), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = SIDE
        for _ in range(2):
            picture = np.zeros((SIDE, SIDE, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    outcome = write_or_refuse(tmp_path, "convert", root, "--to", "v3.0", "--out", tmp_path / "out")
    assert outcome.is_refused
    assert f"{root / name}: ffv1 cannot be stored in mp4 files" in outcome.error


def test_an_episode_in_two_files_is_read_and_both_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = plain("v3.0", lengths=(4, 4, 4))
    root = dataset.write(tmp_path / "in")
    table = pq.read_table(root / DATA_V3)
    pq.write_table(table.slice(6), root / "data/chunk-000/file-001.parquet")
    edit_table(DATA_V3, lambda table: table.slice(0, 6))(root)
    assert not run("convert", root, "--to", "v2.1", "--out", tmp_path / "out").is_refused
    check_rows(dataset.rows(), tmp_path / "out")
    (warning,) = [line for line in caplog.messages if "meta/episodes" in line]
    assert f"instead of {DATA_V3} and data/chunk-000/file-001.parquet" in warning


def test_files_beside_the_metadata_are_not_left_behind_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = (("calibration.json", "{}"), ("notes/day.txt", "sunny"))
    root = plain(lengths=(2,), files=files).write(tmp_path / "in")
    for number, argv in enumerate((("convert", root, "--to", "v3.0"), ("repair", root))):
        caplog.clear()
        assert not run(*argv, "--out", tmp_path / f"out{number}").is_refused
        assert f"{root}: not copied: calibration.json, notes" in caplog.messages


def test_shuffled_rows_are_counted_not_listed(tmp_path: Path) -> None:
    root = plain("v3.0", lengths=(6, 6)).write(tmp_path / "in")
    order = pa.array([0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11])
    edit_table(DATA_V3, lambda table: table.take(order))(root)
    outcome = write_or_refuse(tmp_path, "stats", root)
    assert outcome.is_refused
    assert "got 6 pieces, at row 0 of file-000.parquet and row 2" in outcome.error
    assert "and 3 more" in outcome.error
