"""The property of every command: rows keep what belongs to them, or the command refuses.

A dataset without contradictions must not be refused.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
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
from .coded_strategies import PLAIN, companions, datasets

Command = Callable[[st.DataObject, str], None]

OTHER_VERSION = {"v2.1": "v3.0", "v3.0": "v2.1"}
SELDOM_PLAIN = "something that a merge may refuse"

versions = st.sampled_from(tuple(OTHER_VERSION))


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
    dataset, version = data.draw(datasets(plant)), data.draw(versions)
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
    dataset, version = data.draw(datasets(plant)), data.draw(versions)
    with folder() as at:
        root, there, back = dataset.write(at / "ds"), at / "there", at / "back"
        if is_done(write_or_refuse(at, "convert", root, "--out", there, "--to", version), plant):
            to = OTHER_VERSION[version]
            if is_done(write_or_refuse(at, "convert", there, "--out", back, "--to", to), plant):
                check_rows(dataset.rows(), back)
                check_files(dataset, back)


def merge(data: st.DataObject, plant: str) -> None:
    first, version = data.draw(datasets(plant)), data.draw(versions)
    second = data.draw(companions(first))
    pair = [first, second] if data.draw(st.booleans()) else [second, first]
    with folder() as at:
        roots = [dataset.write(at / f"ds{i}") for i, dataset in enumerate(pair)]
        out = at / "out"
        outcome = write_or_refuse(at, "merge", *roots, "--out", out, "--to", version)
        if is_done(outcome, SELDOM_PLAIN if may_clash(first, second) else plant):
            check_rows(renumbered([dataset.rows() for dataset in pair]), out)
            check_files(first, out)


def may_clash(first: CodedDataset, second: CodedDataset) -> bool:
    """Whether a merge may refuse: numbers of two tables, categories, or files unknown to it."""
    has_categories = first.task_table == "after a category"
    has_references = bool(first.references)
    alike = (first.references, first.tasks) == (second.references, second.tasks)
    return bool(first.files) or (has_references and not alike) or (has_categories and not alike)


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


def encode_again(data: st.DataObject, plant: str) -> None:
    """Converts with --reencode, which may also pair rows and pictures in their order."""
    dataset, version = data.draw(datasets(plant)), data.draw(versions)
    with folder() as at:
        root, out = dataset.write(at / "ds"), at / "out"
        arguments = ("convert", root, "--out", out, "--to", version, "--reencode")
        if is_done(write_or_refuse(at, *arguments), PLAIN if plant == "long GOPs" else plant):
            check_rows(dataset.rows(), out, in_order=dataset.rows(by_time=False))


def train(data: st.DataObject, plant: str) -> None:
    dataset = data.draw(datasets(plant))
    with folder() as at:
        is_done(train_or_refuse(dataset, dataset.write(at / "ds")), plant)


COMMANDS: tuple[Command, ...] = (convert, convert_and_back, merge, split, encode_again, train)


def try_datasets(
    plant: str,
    count: int,
    *,
    commands: Sequence[Command] = COMMANDS,
    is_random: bool = False,
    is_shrunk: bool = True,
) -> None:
    """Tries a command on each of `count` datasets; raises the first failure.

    Args:
        plant: the kind of dataset.
        count: how many.
        commands: one of them is drawn for each dataset.
        is_random: whether each call tries other datasets.
        is_shrunk: whether a smaller dataset that fails is looked for.
    """

    @settings(
        max_examples=count,
        derandomize=not is_random,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink) if is_shrunk else (Phase.generate,),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def try_one(data: st.DataObject) -> None:
        data.draw(st.sampled_from(commands))(data, plant)

    try_one()
