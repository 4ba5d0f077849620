"""TensorBoard and Weights & Biases, read back from files that the real packages wrote."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from flux_core.errors import FluxError, MissingDependencyError
from flux_train.config.runner import VLAMetric
from flux_train.metrics.trackers import check_trackers, flat_numbers, make_trackers

LINE = {
    "step": 10,
    "epoch": 1,
    "loss": 0.5,
    "loss_by_robot": {"aloha": 0.25, "ur3": 0.75},
    "loss_by_dimension": {"ur3": [1.0, 2.0]},
    "mfu": None,
    "note": "text",
}
CONFIG = {"runner": {"learning_rate": 1e-3, "betas": [0.9, 0.95]}}


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TENSORBOARD_LOG_PATH", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def log(work_dir: Path, resume_step: int, lines: list[dict[str, Any]], **metric: Any) -> None:
    work_dir.mkdir(exist_ok=True)
    (tracker,) = make_trackers(VLAMetric(**metric), work_dir, CONFIG, resume_step)
    for line in lines:
        tracker.log(line["step"], line)
    tracker.close()


def test_nested_values_are_named_by_their_path() -> None:
    assert flat_numbers(LINE) == {
        "step": 10,
        "epoch": 1,
        "loss": 0.5,
        "loss_by_robot/aloha": 0.25,
        "loss_by_robot/ur3": 0.75,
        "loss_by_dimension/ur3/0": 1.0,
        "loss_by_dimension/ur3/1": 2.0,
    }


def test_jsonl_alone_needs_no_tracker(tmp_path: Path) -> None:
    assert make_trackers(VLAMetric(), tmp_path, CONFIG, 0) == []
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_one_line_with_its_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("wandb", "tensorboard"):
        metric = VLAMetric(active_trackers=("jsonl", name))
        for check in (check_trackers, lambda m: make_trackers(m, tmp_path, CONFIG, 0)):
            with pytest.raises(MissingDependencyError, match=f"{name}.*: pip install {name}$"):
                check(metric)


# ---- TensorBoard


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.scalars.Keys()}


def test_tensorboard_has_every_number(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    log(tmp_path / "run", 0, [LINE, {**LINE, "step": 20}], active_trackers=("tensorboard",))
    found = scalars(tmp_path / "run" / "tensorboard")
    assert found["loss_by_robot/ur3"] == [(10, 0.75), (20, 0.75)]
    assert found["loss_by_dimension/ur3/1"] == [(10, 2.0), (20, 2.0)]
    assert set(found) == set(flat_numbers(LINE)) - {"step", "epoch"}


def test_tensorboard_drops_steps_after_the_resumed_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    tracker = {"active_trackers": ("tensorboard",)}
    log(tmp_path / "run", 0, [{"step": s, "loss": 1.0} for s in (10, 20, 30)], **tracker)
    log(tmp_path / "run", 20, [{"step": s, "loss": 2.0} for s in (30, 40)], **tracker)
    found = scalars(tmp_path / "run" / "tensorboard")
    assert found["loss"] == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0)]


def test_tensorboard_writes_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    monkeypatch.setenv("TENSORBOARD_LOG_PATH", str(tmp_path / "logs"))
    log(tmp_path / "run", 0, [LINE], active_trackers=("tensorboard",))
    assert scalars(tmp_path / "logs")["loss"] == [(10, 0.5)]
    assert not list((tmp_path / "run").iterdir())


# ---- Weights & Biases

BLOCK, HEADER = 32768, 7


def wandb_records(file: Path) -> list[Any]:
    """The records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, place, parts, records = file.read_bytes(), HEADER, b"", []
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:  # the rest of a block has no room for a header
            place += BLOCK - place % BLOCK
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            records.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return records


def wandb_runs(work_dir: Path) -> list[tuple[Any, list[dict[str, Any]]]]:
    """Each offline run: its first record and its lines."""
    import wandb

    wandb.teardown()  # as at the end of a process: its service may still be writing
    runs = []
    for file in sorted((work_dir / "wandb").glob("offline-run-*/*.wandb")):
        records = wandb_records(file)
        (begin,) = (r.run for r in records if r.WhichOneof("record_type") == "run")
        history = [r.history for r in records if r.WhichOneof("record_type") == "history"]
        lines = [
            {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in h.item}
            for h in history
        ]
        runs.append((begin, lines))
    return runs


def test_wandb_has_every_number_and_continues_the_same_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    tracker = {"active_trackers": ("wandb",), "wandb_project": "p", "wandb_entity": "e"}
    work_dir = tmp_path / "fold"
    log(work_dir, 0, [LINE, {**LINE, "step": 20}], **tracker)
    run_id = (work_dir / "wandb_run_id").read_text().strip()
    log(work_dir, 10, [{**LINE, "step": 20}], **tracker)
    (begin, first), (resumed, second) = sorted(wandb_runs(work_dir), key=lambda run: -len(run[1]))
    assert (begin.run_id, begin.project, begin.entity) == (run_id, "p", "e")
    assert begin.display_name == "fold"
    assert resumed.run_id == run_id
    configs = {item.key: json.loads(item.value_json) for item in begin.config.update}
    assert configs["runner"] == CONFIG["runner"]
    for lines, steps in ((first, [10, 20]), (second, [20])):
        ours = [{k: v for k, v in line.items() if not k.startswith("_")} for line in lines]
        assert ours == [{**flat_numbers(LINE), "step": step} for step in steps]


def test_a_new_run_in_an_old_directory_is_a_new_wandb_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    for _ in range(2):
        log(tmp_path / "run", 0, [LINE], active_trackers=("wandb",))
    assert len({begin.run_id for begin, _ in wandb_runs(tmp_path / "run")}) == 2


def test_the_environment_names_the_wandb_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_ENTITY", "us")
    log(tmp_path / "run", 0, [LINE], active_trackers=("wandb",), wandb_entity="them")
    ((begin, _),) = wandb_runs(tmp_path / "run")
    assert (begin.project, begin.entity) == ("mine", "us")


def test_wandb_without_a_login_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    wandb.teardown()  # it reads the environment once
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(
        FluxError, match="'wandb' refused the login .*WANDB_MODE=offline$"
    ) as refusal:
        log(tmp_path / "run", 0, [LINE], active_trackers=("wandb",))
    assert "\n" not in str(refusal.value)
    wandb.teardown()
