"""Datasets whose columns have other names than LeRobot's train, and recipes say so in one line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_core.bundle import Bundle
from flux_core.config import unbind
from flux_core.errors import ConfigError
from flux_core.models.pi import pi05_model
from flux_core.policy_io import PolicyIO
from flux_core.robots import RobotSpec
from flux_core.types import Observation
from flux_runtime.export.cli import main as export_main
from flux_train.cli import main
from flux_train.config.tree import bind_train_config
from flux_train.recipes import (
    OPENPI_COLUMNS,
    Columns,
    full_runner,
    libero_data,
    robot_data,
    robot_inference,
    small_aloha_sim_data,
    small_libero_object_data,
)
from flux_train.validation.predictions import load_predictions, prediction_path

from .test_shipped_configs import shrink_model, shrink_prompt

HORIZON, EPISODE = 32, 40
AGIBOT_COLUMNS = dict(
    state=["observation.states.joint.position", "observation.states.effector.position"],
    actions=["actions.joint.position", "actions.effector.position"],
)
# case of shared/reports/data -> dimensions, cameras, and the arguments of the recipe.
CASES: dict[str, tuple[int, tuple[str, ...], Any]] = {
    "case01": (8, ("image", "wrist_image"), OPENPI_COLUMNS),
    "case02": (16, ("cam_high",), AGIBOT_COLUMNS),
}


def spec_of(case: str) -> RobotSpec:
    """A robot with the dimensions and cameras of a dataset."""
    dims, cameras, _ = CASES[case]
    return RobotSpec(
        name="my-robot",
        joint_names=tuple(f"joint_{number}" for number in range(dims)),
        lower=(-100.0,) * dims,
        upper=(100.0,) * dims,
        max_velocity=(100.0,) * dims,
        units=("rad",) * dims,
        cameras=cameras,
        control_hz=10.0,
    )


def tree_of(case: str, folder: Path) -> dict[str, Any]:
    """A config of two steps that is tiny, on a dataset of shared/reports/data."""
    dims, _, columns = CASES[case]
    specs = [unbind(spec_of(case))]
    model = pi05_model(action_horizon=HORIZON, action_dim=dims, max_action_dim=None)
    shrink_model(model)
    loader = robot_data(
        "pi05",
        robots={"my-robot": [str(folder / case / "ds")]},
        specs=specs,
        columns={"my-robot": columns},
        tokenizer_path="none",
        actions="recorded",
    )
    loader |= {"per_device_batch_size": 4, "per_device_num_workers": 0}
    inference = robot_inference("pi05", robots={"my-robot": {"1": "fold the towel"}}, specs=specs)
    (member,) = loader["dataset"]["datasets"]["my-robot"]
    for transforms in (member["transforms"], inference["dataset"]["transforms"]):
        shrink_prompt(transforms)
    runner = full_runner(max_steps=2, log_interval=1, num_threads=1)
    runner |= {"enable_mixed_precision_training": False}
    sections = {"model": model, "train_dataloader": loader, "runner": runner}
    return {**sections, "inference": inference}


@pytest.mark.parametrize("case", CASES)
def test_a_dataset_with_its_own_column_names_trains_and_is_exported(
    case: str, reported_datasets: Path, tmp_path: Path
) -> None:
    tree = tree_of(case, reported_datasets)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(tree))
    assert main([str(config), str(tmp_path / "run")]) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [line["loss"] for line in map(json.loads, lines) if "loss" in line]
    assert len(losses) == 2 and all(math.isfinite(loss) and loss > 0 for loss in losses)
    checkpoint = tmp_path / "run" / "checkpoint_epoch_1.pt"
    assert export_main([str(checkpoint), "--out", str(tmp_path / "bundle")]) == 0
    # The robot's observation is what the network was trained on, and its actions come back.
    io = PolicyIO.from_bundle(Bundle.open(tmp_path / "bundle"))
    dataset = bind_train_config(tree).train_dataloader.dataset.build().datasets[0]
    raw, trained = dataset.raw_sample(50), dataset[50]
    images = {name: np.zeros((48, 64, 3), np.uint8) for name in CASES[case][1]}
    seen = io.encode(
        Observation(images=images, state=raw.state, prompt="fold the towel", timestamp_s=0.0)
    )
    np.testing.assert_allclose(seen["state"][0], trained["states"], atol=1e-5)
    np.testing.assert_array_equal(seen["lang_tokens"][0], trained["lang_tokens"])
    np.testing.assert_allclose(io.decode(trained["actions"], raw.state), raw.actions, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_held_out_data_is_validated_in_the_robots_units(
    case: str, reported_datasets: Path, tmp_path: Path
) -> None:
    tree = tree_of(case, reported_datasets)
    tree["validation"] = {"dataset": tree["train_dataloader"]["dataset"], "num_batches": 1}
    config = tmp_path / "config.json"
    config.write_text(json.dumps(tree))
    assert main([str(config), str(tmp_path / "run")]) == 0
    (shown,) = load_predictions(prediction_path(tmp_path / "run", 2))
    assert shown.actions[:, 0].tolist() == [0.5] * EPISODE
    np.testing.assert_allclose(shown.actions[:, 1], np.arange(EPISODE) + 0.5)
    assert shown.cameras == CASES[case][1]
    assert (
        shown.dimensions
        == {
            "case01": tuple(f"{number}" for number in range(8)),
            "case02": (*(f"joint {number}" for number in range(14)), "effector 0", "effector 1"),
        }[case]
    )


# ---- The recipes' argument


@pytest.mark.parametrize("recipe", [small_aloha_sim_data, small_libero_object_data])
def test_every_recipe_takes_columns(recipe: Any) -> None:
    settings = dict(data_root_path="d", action_horizon=HORIZON, batch_size=1)
    section = recipe(**settings, columns=dict(state="state", actions=["a", "b"]))["dataset"]
    member = section["datasets"]
    assert (member["state_key"], member["action_key"]) == ("state", ["a", "b"])
    assert member["window_start_idx"] == 0 and section["statistic_keys"] is None
    plain = recipe(**settings)["dataset"]
    assert "state_key" not in plain["datasets"]
    assert plain["statistic_keys"] == ["observation.state", "action"]


def test_the_libero_recipe_takes_openpis_columns() -> None:
    section = libero_data("pi05", data_root_path="d", tokenizer_path="t", columns=OPENPI_COLUMNS)[
        "dataset"
    ]
    (member,) = section["datasets"]["libero"]
    assert (member["state_key"], member["action_key"]) == ("state", "actions")
    assert member["transforms"][0]["video_keys"] == ["image", "wrist_image"]
    assert section["statistic_keys"] is None


def test_robots_of_one_run_may_have_columns_of_their_own() -> None:
    data = robot_data(
        "pi05",
        robots={"aloha": ["a"], "ur3": ["b"]},
        columns={"ur3": dict(state="q", cameras=dict(cam_wrist="wrist"))},
        tokenizer_path="t",
    )["dataset"]
    assert data["statistic_keys"] is None
    (aloha,), (ur3,) = data["datasets"]["aloha"], data["datasets"]["ur3"]
    assert "state_key" not in aloha
    assert (ur3["state_key"], ur3["action_key"]) == ("q", "q"), "its next states"
    keys = ["observation.images.cam_high", "wrist"]
    assert ur3["transforms"][0]["video_keys"] == keys
    with pytest.raises(ConfigError, match="columns: expected some of .* Did you mean 'ur3'"):
        robot_data("pi05", robots={"ur3": ["b"]}, columns={"ur33": {}}, tokenizer_path="t")


def test_next_states_are_the_actions_of_a_recipe_for_own_robots() -> None:
    columns = Columns(state=("a", "b"))
    assert columns.window(next_states=True) == dict(state_key=["a", "b"], action_key=["a", "b"])
    assert Columns().window(next_states=True) == {}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (dict(stat="state"), r"columns\.stat: .*Did you mean 'state'"),
        (dict(state=3), r"columns\.state: expected .*got 3"),
        (
            dict(cameras=dict(wrist="wrist_image")),
            r"columns\.cameras: expected some of image, wrist_image, got 'wrist'",
        ),
    ],
)
def test_wrong_columns_are_told_with_their_path(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        libero_data("pi05", data_root_path="d", tokenizer_path="t", columns=columns)
