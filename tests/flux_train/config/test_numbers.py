"""A number that no field can have is refused when the config is bound, by its dotted path."""

from __future__ import annotations

import copy
import math
from functools import cache
from typing import Any

import pytest

from flux_core.config import load_config
from flux_core.errors import ConfigError
from flux_train.config.tree import bind_train_config

from .test_shipped_configs import ROOT

SMALL = "pi05/pi05_small_aloha_sim.py"
GROUPED = "pi05/pi05_paligemma_aloha+ur_full_train.py"
DATASET = "train_dataloader.dataset"

NAMES = ["nan", "inf", "-inf", "an int beyond all floats"]

load = cache(load_config)


def refusal(name: str, path: str, value: object) -> str:
    tree: Any = copy.deepcopy(load(ROOT / "configs" / name))
    *parents, last = path.split(".")
    node = tree
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    if isinstance(node, list):
        node[int(last)] = value
    else:
        node[last] = value
    with pytest.raises(ConfigError) as error:
        bind_train_config(tree)
    return str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "least"),
    [
        ("model.vision_backbone.num_keypoints", 0, 1),
        ("model.vision_backbone.image_height", 0, 1),
        ("model.llm_expert.intermediate_size", -1, 1),
        ("model.llm_backbone.num_key_value_heads", 0, 1),
        ("model.projector.in_dim", 0, 1),
        ("model.number_tokens.first", -1, 0),
        ("model.loss_action_dim", 0, 1),
        ("model.n_action_steps", 0, 1),
        (f"{DATASET}.datasets.transforms.0.num_padding_imgs", -1, 0),
        (f"{DATASET}.datasets.transforms.1.state_dim", -1, 1),
        (f"{DATASET}.datasets.transforms.4.width", -1, 1),
        (f"{DATASET}.datasets.action_window_size", 0, 1),
        (f"{DATASET}.datasets.window_start_idx", -1, 0),
        (f"{DATASET}.min_range", -0.5, 0),
        (f"{DATASET}.dim", 0, 1),
        (f"{DATASET}.seed", -1, 0),
        ("train_dataloader.per_device_batch_size", 0, 1),
        ("train_dataloader.per_device_num_workers", -1, 0),
        ("inference.seed", -1, 0),
        ("inference.dataset.transforms.0.action_dim", -1, 1),
    ],
)
def test_a_number_that_is_too_small_is_refused_at_its_own_path(
    path: str, value: float, least: int
) -> None:
    assert refusal(SMALL, path, value) == f"{path}: expected at least {least}, got {value}"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400], ids=NAMES)
@pytest.mark.parametrize(
    ("path", "own_check"),
    [
        (f"{DATASET}.min_range", "at least 0"),
        ("model.llm_expert.rope_theta", ""),
        ("runner.learning_rate", "a positive number"),
        ("runner.ema_decay", "0 <= decay < 1"),
    ],
)
def test_a_number_that_is_not_finite_is_refused_at_its_own_path(
    path: str, own_check: str, value: float
) -> None:
    message = refusal(SMALL, path, value)
    checks = ("a finite number", own_check) if own_check else ("a finite number",)
    assert message.startswith(tuple(f"{path}: expected {check}, got " for check in checks))
    assert len(message) < 150


def test_numbers_of_one_robot_of_several_are_refused_at_its_own_path() -> None:
    for name in ("action_chunk", "execution_horizon"):
        message = refusal(GROUPED, f"inference.aloha.{name}", 0)
        assert message.startswith(f"inference.aloha.{name}: expected 1 to 32 ")
    message = refusal(GROUPED, "inference.ur3.statistic_name", "nobody")
    assert message.startswith("inference.ur3.statistic_name: expected one of aloha, ur3 ")


@pytest.mark.parametrize("value", [[], {}, {"aloha-sim": []}])
def test_a_mixture_without_a_dataset_is_refused(value: object) -> None:
    assert refusal(SMALL, f"{DATASET}.datasets", value).startswith(
        f"{DATASET}.datasets: expected at least one dataset"
    )


def test_a_list_inside_a_list_of_names_is_refused_at_its_own_path() -> None:
    message = refusal(SMALL, "runner.collator.keys", [["states"]])
    assert message == "runner.collator.keys.0: expected str, got ['states']"


@pytest.mark.parametrize(
    ("value", "hint"), [(1e3, ". Write 1000"), (10.0, ". Write 10"), (1.5, "")]
)
def test_a_whole_number_in_another_notation_says_how_to_write_it(value: float, hint: str) -> None:
    path = "runner.log_interval"
    assert refusal(SMALL, path, value) == f"{path}: expected int, got {value}{hint}"


def test_an_item_of_a_list_that_is_not_written_says_to_write_the_list() -> None:
    tree = load_config(ROOT / "configs" / SMALL, ["runner.betas.0=0.8"])
    with pytest.raises(ConfigError, match=r"^runner\.betas: expected a list .* the whole list, "):
        bind_train_config(tree)
