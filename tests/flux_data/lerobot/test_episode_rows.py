"""The rows of an episode, wherever they are: read right by every command, or refused by all."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flux_core.errors import DataError
from flux_data.lerobot.dataset import open_lerobot

from ..coded_commands import check_rows, run, train_or_refuse, write_or_refuse
from ..coded_dataset import EPISODES_V3, STATE, CodedDataset, plain
from ..small_dataset import edit_column, edit_table

TWO_FILES = (0, 0, 1, 1)
V30 = plain("v3.0", lengths=(4, 3, 5, 2), data_files=TWO_FILES)
V21 = plain("v2.1", lengths=(4, 4, 4))

Change = Callable[[Path], object]


def data(number: int) -> str:
    return f"data/chunk-000/file-{number:03d}.parquet"


def check_read(dataset: CodedDataset, root: Path, at: Path) -> None:
    """Every command reads the rows that belong to the episodes."""
    trained = train_or_refuse(dataset, root)
    assert not trained.is_refused, trained.error
    assert not run("info", root).is_refused
    assert not run("stats", root).is_refused
    for version in ("v2.1", "v3.0"):
        written = run("convert", root, "--to", version, "--out", at / version)
        assert not written.is_refused, written.error
        check_rows(dataset.rows(), at / version)
        assert not run("validate", at / version).is_refused
    assert not run("view", root, "--out", at / "page.html").is_refused


def check_refused(dataset: CodedDataset, root: Path, at: Path, episode: int, reason: str) -> None:
    """Every command that reads rows refuses, and says which episode and why."""
    assert not run("info", root).is_refused
    found = {
        "train": train_or_refuse(dataset, root),
        "stats": run("stats", root),
        "view": write_or_refuse(at, "view", root, "--out", at / "page.html"),
        "convert": write_or_refuse(at, "convert", root, "--to", "v3.0", "--out", at / "out"),
        "split": write_or_refuse(at, "split", root, "--out", at / "parts", f"a={episode}"),
    }
    for command, outcome in found.items():
        assert outcome.is_refused, command
        assert reason in outcome.error and f"episode {episode}" in outcome.error, outcome.error
    assert run("validate", root).is_refused


STALE: dict[str, CodedDataset] = {
    "the file before, at a roll-over": plain(
        "v3.0", lengths=(4, 3, 5, 2), data_files=TWO_FILES, stated_files=(0, 0, 0, 1)
    ),
    "a file that never existed": plain("v3.0", lengths=(4, 3, 5, 2), stated_files=TWO_FILES),
    "the first file for all": plain(
        "v3.0", lengths=(4, 3, 5, 2), data_files=TWO_FILES, stated_files=(0, 0, 0, 0)
    ),
    "each other's files": plain(
        "v3.0", lengths=(4, 3, 5, 2), data_files=TWO_FILES, stated_files=(1, 1, 0, 0)
    ),
}


@pytest.mark.parametrize("which", STALE)
def test_rows_are_found_by_their_index_if_the_metadata_names_another_file(
    which: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = STALE[which]
    root = dataset.write(tmp_path / "ds")
    with caplog.at_level(logging.WARNING, "flux.data"):
        source = open_lerobot(root)
        states = source.columns([STATE])[STATE]
    assert [tuple(state) for state in states.tolist()] == [row.state for row in dataset.rows()]
    assert [
        r.message.count("The rows are read from where their index says") for r in caplog.records
    ] == [1]
    check_read(dataset, root, tmp_path)
    assert run("validate", root).error.count("data_file: ") == sum(
        stated != true
        for stated, true in zip(
            dataset.stated_files, dataset.data_files or (0, 0, 0, 0), strict=True
        )
    )


def test_rows_are_found_if_the_metadata_names_another_chunk(tmp_path: Path) -> None:
    root = V30.write(tmp_path / "ds")
    edit_column(EPISODES_V3, "data/chunk_index", lambda values: [7 for _ in values])(root)
    check_read(V30, root, tmp_path)


GOOD: dict[str, tuple[CodedDataset, Change]] = {
    "the index counts in each episode": (plain("v3.0", index="the episode's rows"), lambda _: None),
    "the index counts in each file": (
        V30,
        edit_column(data(1), "index", lambda values: list(range(len(values)))),
    ),
    "the index begins elsewhere": (
        V30,
        lambda root: [
            edit_column(data(file), "index", lambda values: [v + 100 for v in values])(root)
            for file in (0, 1)
        ],
    ),
    "both indices begin elsewhere": (
        V30,
        lambda root: [
            *(
                edit_column(data(file), "index", lambda values: [v + 100 for v in values])(root)
                for file in (0, 1)
            ),
            edit_column(EPISODES_V3, "dataset_from_index", lambda v: [x + 100 for x in v])(root),
        ],
    ),
    "the episodes are stored in another order": (
        plain("v3.0", lengths=(4, 3, 5, 2), row_order=(2, 0, 3, 1)),
        lambda _: None,
    ),
    "no column index": (V30, edit_table(data(0), lambda t: t.drop_columns(["index"]))),
    "no column frame_index": (
        V21,
        edit_table(
            "data/chunk-000/episode_000001.parquet", lambda t: t.drop_columns(["frame_index"])
        ),
    ),
    "one number in a list": (
        V30,
        edit_column(
            data(0), "episode_index", lambda values: [[v] for v in values], pa.list_(pa.int64())
        ),
    ),
}


@pytest.mark.parametrize("which", GOOD)
def test_training_reads_the_rows_of_an_episode_although(which: str, tmp_path: Path) -> None:
    dataset, change = GOOD[which]
    root = dataset.write(tmp_path / "ds")
    change(root)
    trained = train_or_refuse(dataset, root)
    assert not trained.is_refused, trained.error


def test_rows_split_over_two_files_are_read_together(tmp_path: Path) -> None:
    root = V30.write(tmp_path / "ds")
    first, second = (pq.read_table(root / data(number)) for number in (0, 1))
    whole = pa.concat_tables([first, second])
    pq.write_table(whole.slice(0, 9), root / data(0))  # two rows of episode 2
    pq.write_table(whole.slice(9), root / data(1))
    check_read(V30, root, tmp_path)


def test_rows_removed_by_hand_leave_the_others_with_their_times(tmp_path: Path) -> None:
    dataset = plain("v2.1", lengths=(5, 4), dropped=((0, 2), (1, 0)), is_renumbered=False)
    trained = train_or_refuse(dataset, dataset.write(tmp_path / "ds"))
    assert not trained.is_refused, trained.error


def test_starts_in_another_order_than_the_rows_are_refused_by_every_command(tmp_path: Path) -> None:
    dataset = plain("v3.0", lengths=(4, 4, 4), stated_starts=(0, 8, 4))
    root = dataset.write(tmp_path / "ds")
    reason = "dataset_from_index: expected 4, where the rows with episode_index 1 begin, got 8"
    check_refused(dataset, root, tmp_path, 1, reason)


def swap_files(root: Path) -> None:
    one, other = (root / f"data/chunk-000/episode_{i:06d}.parquet" for i in (1, 2))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def reorder(*order: int) -> Change:
    return edit_table(data(0), lambda table: table.take(np.array(order)))


BAD: dict[str, tuple[CodedDataset, Change, str]] = {
    "the files of two episodes are swapped": (
        V21,
        swap_files,
        "episode_index: row 0: expected 1, got 2. These are the rows of another episode",
    ),
    "a file holds rows of another episode too": (
        V21,
        edit_column(
            "data/chunk-000/episode_000001.parquet", "episode_index", lambda v: [1, 1, 2, 1]
        ),
        "episode_index: row 2: expected 1, got 2",
    ),
    "the starts have a gap": (
        V30,
        edit_column(EPISODES_V3, "dataset_from_index", lambda values: [0, 5, 7, 12]),
        "dataset_from_index: expected 4, where the rows with episode_index 1 begin, got 5",
    ),
    "the starts overlap": (
        V30,
        edit_column(EPISODES_V3, "dataset_from_index", lambda values: [0, 3, 7, 12]),
        "dataset_from_index: expected 4, where the rows with episode_index 1 begin, got 3",
    ),
    "the numbers of two episodes are swapped": (
        plain("v3.0", lengths=(4, 4, 4)),
        edit_column(data(0), "episode_index", lambda values: [0] * 4 + [2] * 4 + [1] * 4),
        "dataset_from_index: expected 8, where the rows with episode_index 1 begin, got 4",
    ),
    "a row has the number of another episode": (
        V30,
        edit_column(data(0), "episode_index", lambda values: [0, 0, 0, 0, 1, 1, 0]),
        "expected 3 rows (the metadata), got 2",
    ),
    "rows are in another order": (
        V30,
        reorder(0, 1, 2, 3, 5, 4, 6),
        "frame_index: row 1: expected 1",
    ),
    "rows of two episodes are mixed": (
        V30,
        reorder(4, 0, 1, 2, 3, 5, 6),
        "expected consecutive rows, got 2 pieces",
    ),
    "a row occurs twice": (V30, reorder(0, 1, 2, 3, 4, 5, 5), "frame_index: row 2: expected 2"),
    "an episode occurs twice": (
        V30,
        lambda root: pq.write_table(
            pa.concat_tables([pq.read_table(root / data(0))] * 2), root / data(0)
        ),
        "expected its rows once, got them at row 4 of file-000.parquet and row 11",
    ),
    "frames have other numbers than their times": (
        V30,
        edit_column(data(0), "frame_index", lambda values: [0, 1, 2, 3, 0, 2, 3]),
        "frame_index: row 1: expected 1",
    ),
}


@pytest.mark.parametrize("which", BAD)
def test_every_command_refuses_when(which: str, tmp_path: Path) -> None:
    dataset, change, reason = BAD[which]
    root = dataset.write(tmp_path / "ds")
    change(root)
    source = open_lerobot(root)
    with pytest.raises(DataError) as error:
        source.episode(1, [STATE])
    assert f": episode 1: {reason}" in str(error.value)
    for outcome in (
        train_or_refuse(dataset, root),
        write_or_refuse(tmp_path, "convert", root, "--to", "v2.1", "--out", tmp_path / "out"),
        write_or_refuse(tmp_path, "split", root, "--out", tmp_path / "parts", "a=1", "b=0"),
        run("stats", root),
        run("validate", root),
    ):
        assert outcome.is_refused


def test_finding_rows_reads_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flux_data.lerobot import episode_rows

    read: list[str] = []
    scan = episode_rows.scan_runs
    monkeypatch.setattr(
        episode_rows, "scan_runs", lambda path, fps: read.append(path.name) or scan(path, fps)
    )
    source = open_lerobot(V30.write(tmp_path / "ds"))
    for _ in range(2):
        for position in (3, 0, 2, 1):
            source.episode(position, [STATE])
    assert sorted(read) == ["file-000.parquet", "file-001.parquet"]
