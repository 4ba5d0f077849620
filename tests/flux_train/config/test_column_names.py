"""Datasets whose columns have other names than LeRobot's train, and recipes say so in one line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_core.errors import ConfigError
from flux_core.models.pi import pi05_model
from flux_train.cli import main
from flux_train.config.tree import bind_train_config
from flux_train.recipes import (
    OPENPI_COLUMNS,
    Columns,
    full_runner,
    libero_data,
    small_aloha_sim_data,
    small_libero_object_data,
)
from flux_train.validation.predictions import load_predictions, prediction_path

from .test_shipped_configs import shrink_model, shrink_prompt

HORIZON = 10
AGIBOT_COLUMNS = dict(
    state=["observation.states.joint.position", "observation.states.effector.position"],
    actions=["actions.joint.position", "actions.effector.position"],
)
# case -> dimensions of the actions, and the recipe's arguments.
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "case01": (8, dict(columns=OPENPI_COLUMNS)),
    "case02": (16, dict(columns=AGIBOT_COLUMNS)),
}


def tree_of(case: str, folder: Path) -> dict[str, Any]:
    """A config of two steps that is tiny, on a dataset of shared/reports/data."""
    dims, arguments = CASES[case]
    model = pi05_model(action_horizon=HORIZON, action_dim=dims, max_action_dim=None)
    shrink_model(model)
    loader = libero_data(
        "pi05", data_root_path=str(folder / case / "ds"), tokenizer_path="none", **arguments
    )
    loader |= {"per_device_batch_size": 4, "per_device_num_workers": 0}
    (member,) = loader["dataset"]["datasets"]["libero"]
    shrink_prompt(member["transforms"])
    if case == "case02":  # one camera, of another name than LIBERO's
        member["transforms"][0]["video_keys"] = ["observation.images.cam_high"]
    runner = full_runner(max_steps=2, log_interval=1, num_threads=1)
    runner |= {"enable_mixed_precision_training": False}
    return {"model": model, "train_dataloader": loader, "runner": runner}


@pytest.mark.parametrize("case", CASES)
def test_a_dataset_with_its_own_column_names_trains(
    case: str, reported_datasets: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(tree_of(case, reported_datasets)))
    assert main([str(config), str(tmp_path / "run")]) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [line["loss"] for line in map(json.loads, lines) if "loss" in line]
    assert len(losses) == 2 and all(math.isfinite(loss) and loss > 0 for loss in losses)
    assert (tmp_path / "run" / "checkpoint_epoch_1.pt").is_file()


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
    assert shown.actions[:, 0].tolist() == [0.5] * 40
    np.testing.assert_allclose(shown.actions[:, 1], np.arange(40) + 0.5)
    assert (
        shown.dimensions
        == {
            "case01": tuple(f"{number}" for number in range(8)),
            "case02": (*(f"joint {number}" for number in range(14)), "effector 0", "effector 1"),
        }[case]
    )


@pytest.mark.parametrize("case", CASES)
def test_the_samples_of_a_recipe_come_back_in_the_datasets_units(
    case: str, reported_datasets: Path
) -> None:
    config = bind_train_config(tree_of(case, reported_datasets))
    dims, _ = CASES[case]
    dataset = config.train_dataloader.dataset.build()
    part = dataset.datasets[0].parts[0]
    assert (part.state_dim, part.action_dim) == (dims, dims)
    stats = dataset.stats["libero"]
    for index in (0, 41, 119):
        episode, frame = divmod(index, 40)
        scale, offset = stats["proprio"].affine("quantile")
        state = dataset[index]["states"] * scale + offset
        np.testing.assert_allclose(state[:2], [episode, frame], atol=1e-3)
        scale, offset = stats["action"].affine("quantile")
        actions = dataset[index]["actions"] * scale + offset
        np.testing.assert_allclose(actions[0, :2], [episode + 0.5, frame + 0.5], atol=1e-3)


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
