"""Values that the declared dtype cannot hold are faults; messages and texts are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux_data.validate import validate

from ..coded_commands import check_rows, run, train_or_refuse
from ..coded_dataset import Column, plain
from ..small_dataset import edit_column

DATA = "data/chunk-000/episode_000000.parquet"

UNFIT = {
    "a fraction in whole numbers": (
        Column(key="observation.gripper", dtype="int64", stored="float64", kind="fraction"),
        "observation.gripper: frame 0: expected a value that int64 (info.json) can hold, got 0.46",
    ),
    "a clock in 32 bits": (
        Column(key="observation.clock_ns", dtype="int32", stored="int64", kind="clock"),
        "observation.clock_ns: frame 0: expected a value that int32 (info.json) can hold",
    ),
    "a clock in a short float": (
        Column(key="observation.clock_ns", dtype="float32", stored="int64", kind="clock"),
        "observation.clock_ns: frame 0: expected a value that float32 (info.json) can hold",
    ),
}


@pytest.mark.parametrize("which", UNFIT)
def test_validate_finds_a_value_that_its_declared_dtype_cannot_hold(
    which: str, tmp_path: Path
) -> None:
    column, message = UNFIT[which]
    faults = validate(plain(columns=(column,)).write(tmp_path / "ds"))
    assert {fault.kind for fault in faults} == {"value", "dtype"}
    first = next(fault for fault in faults if fault.kind == "value")
    assert first.message.startswith(message) and first.where.startswith("episode 0, frame")


def test_validate_finds_times_that_float32_cannot_tell_apart(tmp_path: Path) -> None:
    dataset = plain(epoch_s=1.7e9, time_dtype="float64", cameras=())
    root = dataset.write(tmp_path / "ds")
    assert {fault.kind for fault in validate(root)} == {"time"}  # declared as float64
    from flux_data.lerobot.dataset import open_lerobot

    from ..small_dataset import edit_info

    features = open_lerobot(root).info["features"]
    features["timestamp"]["dtype"] = "float32"
    edit_info(features=features)(root)
    assert {fault.kind for fault in validate(root)} == {"time", "value", "dtype"}


def test_values_that_fit_a_narrower_dtype_are_only_of_another_type(tmp_path: Path) -> None:
    columns = (
        Column(key="observation.count", dtype="int32", stored="int64"),
        Column(key="observation.force", dtype="float32", stored="float64", kind="fraction"),
    )
    assert {f.kind for f in validate(plain(columns=columns).write(tmp_path / "ds"))} == {"dtype"}


MESSAGES = (
    Column(key="language_persistent", dtype="language", stored="language", kind="persistent"),
    Column(key="language_events", dtype="language", stored="language", kind="events"),
)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_messages_are_no_fault_for_any_command(version: str, tmp_path: Path) -> None:
    dataset = plain(version, columns=MESSAGES)  # type: ignore[arg-type]
    root = dataset.write(tmp_path / "ds")
    found = run("validate", root)
    assert not found.is_refused, found.error
    assert "language_events: language (1,)" in run("info", root).error + info_of(root)
    assert not run("stats", root).is_refused
    trained = train_or_refuse(dataset, root)
    assert not trained.is_refused, trained.error
    page = tmp_path / "page.html"
    assert not run("view", root, "--out", page).is_refused
    text = page.read_text()
    for column in MESSAGES:
        said = column.value(1, 1)
        assert isinstance(said, list) and f"{said[0]['content']}</td>" in text
    other = {"v2.1": "v3.0", "v3.0": "v2.1"}[version]
    assert not run("convert", root, "--to", other, "--out", tmp_path / "out").is_refused
    check_rows(dataset.rows(), tmp_path / "out")


def info_of(root: Path) -> str:
    from flux_data.info import dataset_info

    features = dataset_info(root)["features"]
    return "; ".join(f"{k}: {f['dtype']} {tuple(f['shape'])}" for k, f in features.items())


def test_a_column_of_numbers_that_holds_messages_is_a_fault(tmp_path: Path) -> None:
    root = plain().write(tmp_path / "ds")
    edit_column(DATA, "task_index", lambda values: ["x"] * len(values), "string")(root)
    assert "type" in {fault.kind for fault in validate(root)}
