"""Runs flux-data on coded datasets in this process, and judges what it wrote."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from flux_core.errors import FluxError
from flux_core.transforms import ResizeImages
from flux_data.commands.main import main
from flux_data.samples.process_inputs import ProcessParquetInputs
from flux_data.samples.windows import ParquetDataset

from .coded_dataset import ACTION, STATE, CodedDataset, Row
from .coded_pictures import SIDE, code_in
from .coded_rows import rows_of

RELATIVE = 2e-6
"""Numbers may be rounded to float32, which info.json usually declares."""

TIME_S = 1e-5

NUMBERS = ("float32", "float64", "int8", "int32", "int64", "uint8")


class Outcome(NamedTuple):
    """How a command ended: its exit code, and the line that says why it failed."""

    code: int
    error: str

    @property
    def is_refused(self) -> bool:
        return self.code != 0


def run(*argv: object) -> Outcome:
    """Runs `flux-data` with these arguments.

    A failing command must say why in one line, without a traceback.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _logs_to(err):
        code = main([str(argument) for argument in argv])
    lines = [line for line in err.getvalue().splitlines() if "error:" in line]
    assert "Traceback" not in err.getvalue(), err.getvalue()
    if argv[0] not in ("validate", "repair"):  # which report what they found
        assert len(lines) == (code != 0), err.getvalue()
    return Outcome(code, lines[0] if lines else out.getvalue())


@contextlib.contextmanager
def _logs_to(file: io.StringIO):
    handler, logger = logging.StreamHandler(file), logging.getLogger("flux")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def write_or_refuse(folder: Path, *argv: object) -> Outcome:
    """Runs a command that writes below `folder`; if it refuses, it must leave nothing there."""
    before = sorted(folder.rglob("*"))
    outcome = run(*argv)
    if outcome.is_refused:
        assert sorted(folder.rglob("*")) == before, "a refused command left files behind"
    return outcome


def difference(expected: Sequence[Row], found: Sequence[Row]) -> str:
    """Describes the first difference between rows; '' if there is none."""
    if len(expected) != len(found):
        return f"expected {len(expected)} rows, got {len(found)}"
    for ours, theirs in zip(expected, found, strict=True):
        for name, right, value in zip(Row._fields, ours, theirs, strict=True):
            if not _is_same(name, right, value):
                return f"{ours.episode}, {ours.state[1]:g}: {name}: expected {right}, got {value}"
    return ""


def _is_same(name: str, expected: object, found: object) -> bool:
    if isinstance(expected, list) and len(expected) == 1 and not isinstance(found, list):
        expected = expected[0]  # LeRobot stores a vector of one value as a number
    both = (expected, found)
    if all(isinstance(x, tuple) for x in both) or all(isinstance(x, list) for x in both):
        pairs = zip(expected, found, strict=False)
        return len(expected) == len(found) and all(_is_same(name, *pair) for pair in pairs)
    if isinstance(expected, float) and isinstance(found, float):
        tolerance = TIME_S if name == "time_s" else RELATIVE * abs(expected)
        return abs(expected - found) <= tolerance
    return type(expected) is type(found) and expected == found


def check_rows(
    expected: Sequence[Row], root: Path, *, in_order: Sequence[Row] | None = None
) -> None:
    """Checks that a dataset holds exactly these rows, with everything that belongs to them.

    A row that has no picture must have been refused.

    Args:
        expected: the rows.
        root: the dataset.
        in_order: the same rows, with the pictures that an episode may have instead.
    """
    found = rows_of(root)
    if in_order is not None:
        expected = _with_pictures_in_order(expected, in_order, found)
    without = [row for row in expected if None in dict(row.pictures).values()]
    assert not without, f"accepted, although a row has no picture: {without[0]}"
    wrong = difference(expected, found)
    assert not wrong, f"{root.name}: {wrong}"


def _with_pictures_in_order(
    expected: Sequence[Row], in_order: Sequence[Row], found: Sequence[Row]
) -> list[Row]:
    """Takes the other pictures for each episode and camera of which all were found."""
    rows, others = list(expected), [dict(row.pictures) for row in in_order]
    shown = [dict(row.pictures) for row in found]
    for key, _ in expected[0].pictures:
        for episode in {row.episode for row in rows}:
            places = [i for i, row in enumerate(rows) if row.episode == episode]
            if all(i < len(shown) and shown[i][key] == others[i][key] for i in places):
                for i in places:
                    pictures = {**dict(rows[i].pictures), key: others[i][key]}
                    rows[i] = rows[i]._replace(pictures=tuple(pictures.items()))
    return rows


def check_files(dataset: CodedDataset, root: Path) -> None:
    """Checks that the files which are not LeRobot's were kept."""
    for name, text in dataset.files:
        assert (root / name).is_file(), f"{name} is lost"
        assert (root / name).read_text() == text


def train_or_refuse(dataset: CodedDataset, root: Path) -> Outcome:
    """Reads every sample as training does; each that is read must be right."""
    cameras = tuple(camera.key for camera in dataset.cameras if not camera.is_depth)
    numbers = tuple(c.key for c in dataset.columns if c.dtype in NUMBERS and c.stored in NUMBERS)
    inputs = ProcessParquetInputs(
        parquet_keys=(STATE, "actions", "timestamp", *numbers), video_keys=cameras
    )
    sides = {camera.how.side for camera in dataset.cameras if not camera.is_depth}
    resize = (ResizeImages(height=2 * SIDE, width=2 * SIDE),) if len(sides) > 1 else ()
    config = ParquetDataset.Config(
        data_root_path=str(root),
        transforms=(inputs, *resize),
        action_window_size=2,
        action_key=ACTION,
        window_start_idx=0,
    )
    rows, last = dataset.rows(), dataset.num_episodes - 1
    if {("line", last), ("episode", last)} & {*dataset.missing}:
        # Fewer episodes are listed than counted: training warns and reads those.
        rows = [row for row in rows if row.episode != last]
    try:
        samples = config.build()
        for number in range(len(samples)):
            _check_sample(rows, number, samples[number], cameras)
    except FluxError as error:
        assert "\n" not in str(error), error
        return Outcome(1, str(error))
    assert len(samples) == len(rows), f"expected {len(rows)} samples, got {len(samples)}"
    return Outcome(0, "")


def _check_sample(
    rows: Sequence[Row], number: int, sample: dict[str, object], cameras: Sequence[str]
) -> None:
    row, where = rows[number], f"sample {number}"
    state, actions, mask = (np.asarray(sample[k]) for k in ("states", "actions", "action_masks"))
    assert tuple(state.tolist()) == row.state, f"{where}: state {state}, expected {row.state}"
    assert _is_same("action", row.action, tuple(actions[0].tolist())), where
    follows = number + 1 < len(rows) and rows[number + 1].episode == row.episode
    assert bool(mask[1]) == follows, where
    if follows:
        assert _is_same("action", rows[number + 1].action, tuple(actions[1].tolist())), where
    assert sample["task_description"] == row.task, f"{where}: {sample['task_description']}"
    values, pictures = dict(row.values), dict(row.pictures)
    for key in values:
        if key in sample:
            found, right = (np.ravel(x).tolist() for x in (sample[key], values[key]))
            assert found == pytest.approx(right, rel=RELATIVE), f"{where}: {key}"
    for key, image in zip(cameras, np.asarray(sample["images"]), strict=True):
        found = code_in(image)
        assert found == pictures[key], f"{where}: {key}: expected {pictures[key]}, got {found}"
