"""Random small datasets: every row keeps its picture, task, values and references, or the command
refuses in one line and writes nothing. A dataset without contradictions is never refused.

The slow target tries 5,000 datasets, each run of CI 300, always the same ones.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .coded_commands import (
    Outcome,
    check_files,
    check_rows,
    run,
    train_or_refuse,
    write_or_refuse,
)
from .coded_dataset import CodedDataset
from .coded_rows import renumbered
from .coded_strategies import PLAIN, PLANTS, companions, datasets

VERSIONS = ("v2.1", "v3.0")
NUM_PLAIN, NUM_PLANTED = 60, 16
"""Datasets without a contradiction, and with each kind of one."""

MANY = 5_000 / (NUM_PLAIN + NUM_PLANTED * (len(PLANTS) - 1))

other_version = {"v2.1": "v3.0", "v3.0": "v2.1"}


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder in memory if there is one: most of the time would be spent waiting for a disk."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


def is_done(outcome: Outcome, plant: str) -> bool:
    """Whether the command did its work; a dataset without contradictions must not be refused."""
    assert plant != PLAIN or not outcome.is_refused, outcome.error
    return not outcome.is_refused


def convert(data: st.DataObject, plant: str) -> None:
    dataset, version = data.draw(datasets(plant)), data.draw(st.sampled_from(VERSIONS))
    with folder() as at:
        root, out = dataset.write(at / "ds"), at / "out"
        outcome = write_or_refuse(at, "convert", root, "--out", out, "--to", version)
        if is_done(outcome, plant):
            check_rows(dataset.rows(), out)
            check_files(dataset, out)
            if plant == PLAIN:
                checked = run("validate", out)
                assert not checked.is_refused, checked.error


def convert_and_back(data: st.DataObject, plant: str) -> None:
    dataset, version = data.draw(datasets(plant)), data.draw(st.sampled_from(VERSIONS))
    with folder() as at:
        root, there, back = dataset.write(at / "ds"), at / "there", at / "back"
        if is_done(write_or_refuse(at, "convert", root, "--out", there, "--to", version), plant):
            to = other_version[version]
            if is_done(write_or_refuse(at, "convert", there, "--out", back, "--to", to), plant):
                check_rows(dataset.rows(), back)
                check_files(dataset, back)


def merge(data: st.DataObject, plant: str) -> None:
    first, version = data.draw(datasets(plant)), data.draw(st.sampled_from(VERSIONS))
    second = data.draw(companions(first))
    pair = [first, second] if data.draw(st.booleans()) else [second, first]
    with folder() as at:
        roots = [dataset.write(at / f"ds{i}") for i, dataset in enumerate(pair)]
        out = at / "out"
        outcome = write_or_refuse(at, "merge", *roots, "--out", out, "--to", version)
        if is_done(outcome, unlike(first, second) if plant == PLAIN else plant):
            check_rows(renumbered([dataset.rows() for dataset in pair]), out)
            check_files(first, out)


def unlike(first: CodedDataset, second: CodedDataset) -> str:
    """What a merge may refuse: files that it does not know, and numbers of two tables."""
    if first.references and (first.references, first.tasks) != (second.references, second.tasks):
        return "other texts"
    if first.version == second.version == "v3.0" and first.task_table == "after a category":
        return "other categories"
    return "unknown files" if first.files else PLAIN


def split(data: st.DataObject, plant: str) -> None:
    dataset = data.draw(datasets(plant))
    episodes = range(dataset.num_episodes)
    part_of = [data.draw(st.integers(0, 2)) for _ in episodes]
    parts = {f"p{p}": [e for e in episodes if part_of[e] == p] for p in sorted(set(part_of))}
    with folder() as at:
        root, out = dataset.write(at / "ds"), at / "out"
        texts = [f"{name}={','.join(map(str, chosen))}" for name, chosen in parts.items()]
        if is_done(write_or_refuse(at, "split", root, "--out", out, *texts), plant):
            for name, chosen in parts.items():
                rows = [row for row in dataset.rows() if row.episode in chosen]
                check_rows(renumbered([rows]), out / name)


def train(data: st.DataObject, plant: str) -> None:
    dataset = data.draw(datasets(plant))
    with folder() as at:
        is_done(train_or_refuse(dataset, dataset.write(at / "ds")), plant)


COMMANDS = (convert, convert_and_back, merge, split, train)


def examples(plant: str) -> int:
    return NUM_PLAIN if plant == PLAIN else NUM_PLANTED


def try_datasets(plant: str, count: int, *, is_random: bool) -> None:
    @settings(
        max_examples=count,
        derandomize=not is_random,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def try_one(data: st.DataObject) -> None:
        data.draw(st.sampled_from(COMMANDS))(data, plant)

    try_one()


@pytest.mark.parametrize("plant", PLANTS)
def test_rows_keep_what_belongs_to_them_or_the_command_refuses(plant: str) -> None:
    try_datasets(plant, examples(plant), is_random=False)


@pytest.mark.slow
@pytest.mark.parametrize("plant", PLANTS)
def test_rows_of_many_datasets_keep_what_belongs_to_them(plant: str) -> None:
    try_datasets(plant, round(MANY * examples(plant)), is_random=True)
