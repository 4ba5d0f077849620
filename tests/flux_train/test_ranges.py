"""Dimensions that hardly move: reported before step 1 and by validate, with a remedy."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flux_core.config import bind
from flux_core.norm_stats import NormType, compute_stats
from flux_core.robots import robot_spec
from flux_data.commands.main import main as flux_data
from flux_data.lerobot.recorder import EpisodeRecorder, robot_features, video_key
from flux_data.lerobot.writer import WriterV21
from flux_data.samples.mixture import DistributedRepeatingDataset
from flux_data.samples.ranges import (
    SENSIBLE,
    DimensionRange,
    Extremes,
    measured_ranges,
    percent,
    rounded_up,
    sensible_min_ranges,
    training_ranges,
)
from flux_train.cli import main
from flux_train.config.data_checks import range_warnings
from flux_train.run_plan import range_table

ROOT = Path(__file__).resolve().parents[2]
SMALL = str(ROOT / "configs" / "pi05" / "pi05_small_aloha_sim.py")
SPEC = robot_spec("aloha-sim")
DIMS, FRAMES, HORIZON, GRIPPER = SPEC.action_dim, 400, 4, 13
NORM_TYPES: tuple[NormType, ...] = ("quantile", "mean_std", "min_max")


def motion(frames: int = FRAMES) -> NDArray[np.float32]:
    """Every joint swings between -1 and 1."""
    phase = np.arange(frames)[:, None] / 15 + np.arange(DIMS)
    return np.sin(phase).astype(np.float32)


def closes_once(values: NDArray[np.float32], frames: int = 2) -> NDArray[np.float32]:
    """The right gripper is open, except in a few frames."""
    values = values.copy()
    values[:, GRIPPER] = 0.0
    values[200 : 200 + frames, GRIPPER] = 1.0
    return values


def recorded(root: Path, states: NDArray[np.float32], actions: NDArray[np.float32]) -> Path:
    features = robot_features(SPEC, 32, 32)
    cameras = {video_key(name): np.zeros((32, 32, 3), np.uint8) for name in SPEC.cameras}
    with (
        WriterV21(root, fps=50.0, robot_type=SPEC.name, features=features) as writer,
        EpisodeRecorder(writer.staging("0"), 50.0, features) as recorder,
    ):
        for state, action in zip(states, actions, strict=True):
            recorder.add({"observation.state": state, "action": action, **cameras})
        writer.add(recorder.close("transfer the cube"))
    return root


@pytest.fixture(scope="module")
def still_gripper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording in which the right gripper closes in 2 of 400 frames."""
    values = closes_once(motion())
    return recorded(tmp_path_factory.mktemp("data") / "ds", values, values)


def dataset(
    root: Path, norm_type: NormType = "quantile", *units: dict[str, Any], **settings: Any
) -> DistributedRepeatingDataset:
    tokenizer = dict(type="ByteTokenizer", words=[])
    transforms = [
        dict(
            type="ProcessParquetInputs",
            parquet_keys=["observation.state", "actions"],
            name_mappings={"observation.state": ["states"]},
            video_keys=[video_key(name) for name in SPEC.cameras],
        ),
        *units,
        dict(type="NormalizeStatesAndActions", norm_type=norm_type),
        dict(type="TaskPrompter"),
        dict(type="ProcessPrompts", tokenizer=tokenizer, max_len=24),
        dict(type="SimpleNormalizeImages"),
    ]
    tree = dict(
        type="DistributedRepeatingDataset",
        statistic_keys=None,
        datasets=dict(
            type="ParquetDataset",
            data_root_path=str(root),
            transforms=transforms,
            action_window_size=HORIZON,
            action_key="action",
            window_start_idx=0,
        ),
        **settings,
    )
    return bind(DistributedRepeatingDataset.Config, tree).build()


def told(ranges: list[DimensionRange]) -> dict[tuple[str, str], DimensionRange]:
    return {(each.quantity, each.name): each for each in ranges if not each.is_sensible}


RIGHT_GRIPPER = SPEC.joint_names[GRIPPER]


@pytest.mark.parametrize(("norm_type", "largest"), [("quantile", 2e6), ("mean_std", 14.1)])
def test_a_gripper_that_closes_once_is_told_by_name(
    still_gripper: Path, norm_type: NormType, largest: float
) -> None:
    ranges = training_ranges(dataset(still_gripper, norm_type))
    assert len(ranges) == 2 * DIMS
    found = told(ranges)
    assert set(found) == {("state", RIGHT_GRIPPER), ("action", RIGHT_GRIPPER)}
    for each in found.values():
        assert each.largest == pytest.approx(largest, rel=0.01)
        assert each.share_beyond == pytest.approx(2 / FRAMES)
    (line, _) = range_warnings(found.values(), 0.0)
    assert RIGHT_GRIPPER in line and "0.50 % of them are beyond 10" in line
    assert re.search(r"Set train_dataloader\.dataset\.min_range=0\.\d+ \(now 0\)", line)


@pytest.mark.parametrize("norm_type", ["quantile", "mean_std"])
def test_with_the_named_min_range_all_values_are_sensible(
    still_gripper: Path, norm_type: NormType
) -> None:
    found = told(training_ranges(dataset(still_gripper, norm_type)))
    needed = max(rounded_up(each.sensible_min_range) for each in found.values())
    widened = dataset(still_gripper, norm_type, min_range=needed)
    assert not told(training_ranges(widened))
    assert told(training_ranges(dataset(still_gripper, norm_type, min_range=0.9 * needed)))


def test_relative_actions_are_measured_after_the_subtraction(tmp_path: Path) -> None:
    # The commands are the states, so relative actions move in the chunks around one jump only.
    states = np.zeros((FRAMES, DIMS), np.float32)
    states[:, 1:] = motion()[:, 1:]
    states[300:, 0] = 0.7
    root = recorded(tmp_path / "ds", states, states)
    relative = dict(type="RelativeActions", mask=[True] * (DIMS - 1) + [False])
    assert not told(training_ranges(dataset(root)))
    found = told(training_ranges(dataset(root, "quantile", relative)))
    assert set(found) == {("action", SPEC.joint_names[0])}
    (each,) = found.values()
    # Frame 299 jumps at its second step, 298 at its third, 297 at its last.
    supervised = FRAMES * HORIZON - sum(range(HORIZON))
    assert each.share_beyond == pytest.approx((3 + 2 + 1) / supervised)


@pytest.mark.parametrize("norm_type", NORM_TYPES)
@pytest.mark.parametrize("value", [0.0, 1.5708, -1234.5])
def test_a_dimension_that_never_moves_is_sensible(
    tmp_path: Path, norm_type: NormType, value: float
) -> None:
    values = motion()
    values[:, GRIPPER] = value
    ranges = training_ranges(dataset(recorded(tmp_path / "ds", values, values), norm_type))
    assert not told(ranges)
    assert all(np.isfinite([each.low, each.high]).all() for each in ranges)


def test_held_out_values_are_measured_with_the_statistics_of_training(
    still_gripper: Path, tmp_path: Path
) -> None:
    values = motion()
    values[:, GRIPPER] = 0.0
    trained = dataset(recorded(tmp_path / "ds", values, values))
    assert not told(training_ranges(trained))
    stats = trained.stats[trained.group_names[0]]
    found = told(measured_ranges("held out", dataset(still_gripper).datasets, stats))
    assert {name for _, name in found} == {RIGHT_GRIPPER}
    (line, _) = range_warnings(found.values(), 0.0, is_held_out=True)
    assert line.startswith("validation.dataset: held out: state") and "hold out other" in line


@given(
    st.sampled_from(NORM_TYPES),
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=40),
    st.integers(1, 300),
)
def test_the_statistics_and_the_values_give_the_same_extremes(
    norm_type: NormType, moving: list[float], num_still: int
) -> None:
    values = np.concatenate([moving, np.full(num_still, moving[0])]).astype(np.float32)[:, None]
    stats = compute_stats(values)
    ours = Extremes.of_statistics(stats, norm_type)
    theirs = Extremes.of_values([values[:7], values[7:]], stats, norm_type)
    np.testing.assert_allclose(ours.low, theirs.low, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(ours.high, theirs.high, rtol=1e-5, atol=1e-4)
    if ours.magnitude[0] > SENSIBLE:
        remedy = rounded_up(sensible_min_ranges(ours, stats, norm_type)[0])
        widened = Extremes.of_statistics(stats.widened(remedy), norm_type)
        assert widened.magnitude[0] <= SENSIBLE * (1 + 1e-4)


def test_the_table_lists_every_dimension_by_name(still_gripper: Path) -> None:
    table = range_table(training_ranges(dataset(still_gripper)))
    columns = [list(column.cells) for column in table.columns]
    assert columns[1] == ["state"] * DIMS + ["action"] * DIMS
    assert columns[2] == [*SPEC.joint_names, *SPEC.joint_names]
    assert [cell for cell in columns[5] if cell] == ["0.50 %"] * 2
    assert columns[4][GRIPPER] == "2e+06"


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0.0 %"), (0.005, "0.50 %"), (0.25, "25.0 %"), (1.2e-6, "0.00012 %")]
)
def test_a_share_is_written_with_two_digits_that_count(share: float, text: str) -> None:
    assert percent(share) == text


def test_training_tells_before_the_first_step_and_learns_with_the_remedy(
    still_gripper: Path,
    tmp_path: Path,
    tiny_network: list[str],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = "train_dataloader.dataset"
    options = [*tiny_network, f"{data}.datasets.data_root_path={still_gripper}"]
    options += [f"{data}.min_range=0", "runner.max_steps=1"]
    options += ["train_dataloader.per_device_batch_size=100", "runner.seed=1"]
    assert main([SMALL, str(tmp_path / "dry"), "--dry-run", "--cfg-options", *options]) == 0
    lines = [record.getMessage() for record in caplog.records]
    lines = [line for line in lines if "normalised values reach" in line]
    assert len(lines) == 2 and all(RIGHT_GRIPPER in line for line in lines)
    shown = capsys.readouterr().err
    assert "Normalised ranges" in shown and "beyond 10" in shown
    remedy = re.search(r"min_range=([\d.e-]+)", lines[1])
    assert remedy is not None
    losses = []
    for number, more in enumerate(([], [f"{data}.min_range={remedy[1]}"])):
        caplog.clear()
        work_dir = tmp_path / str(number)
        assert main([SMALL, str(work_dir), "--cfg-options", *options, *more]) == 0
        losses.append(json.loads((work_dir / "metrics.jsonl").read_text())["loss"])
        assert ("normalised values reach" in caplog.text) == (not more)
    assert losses[0] > 1e6 and losses[1] < 10


def test_validate_warns_and_finds_no_fault(
    still_gripper: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert flux_data(["validate", str(still_gripper), "--no-decode", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] and not answer["faults"]
    warnings = answer["warnings"]
    assert [each["kind"] for each in warnings] == ["range"] * 2
    assert all(RIGHT_GRIPPER in each["where"] for each in warnings)
    assert flux_data(["validate", str(still_gripper), "--no-decode"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "no faults; 2 warnings"
    assert all(line.startswith("warning: range: ") for line in lines[:-1])
    sound = recorded(tmp_path / "ds", motion(), motion())
    assert flux_data(["validate", str(sound), "--no-decode"]) == 0
    assert capsys.readouterr().out == "no faults\n"
