"""`recipes.robot_data` and `robot_inference` for any robot."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flux_core.config import bind, unbind
from flux_core.deployment import AlohaInferenceRunner, inference_sections, section_of_robot
from flux_core.errors import ConfigError, RobotError
from flux_core.robots import ROBOT_SPECS, SPEC_GROUP, RobotSpec
from flux_train.config.tree import TrainConfig, bind_train_config
from flux_train.recipes import (
    SmallRobot,
    pi05_model,
    robot_data,
    robot_inference,
    runners,
    small_data,
    small_inference,
    small_pi05_model,
    small_runner,
)

from ...distributions import install
from .. import degrees

ARM = RobotSpec(
    name="my-arm",
    joint_names=("shoulder", "elbow", "gripper"),
    lower=(-3.0, -2.0, 0.0),
    upper=(3.0, 2.0, 1.0),
    max_velocity=(2.0, 2.0, 10.0),
    units=("rad", "rad", "normalized"),
    cameras=("top",),
    control_hz=20.0,
)
PUSHER = replace(
    ARM,
    name="pusher",
    units=("normalized",) * 3,
    rest_command=(0.0, 0.0, 1.0),
    state_names=("x", "y"),
    state_units=("m", "m"),
)
TASKS = {"1": "reach"}
RADIANS = {"type": f"{degrees.__name__}:DegreesToRadians", "joints": [True, True, False]}
SMALL = SmallRobot(
    name="my-arm",
    description=ARM,
    cameras=("top",),
    image_size=(32, 48),
    tasks=TASKS,
    prompt_length=48,
)


def train_config(data: dict[str, Any], inference: dict[str, Any]) -> TrainConfig:
    model = pi05_model(action_horizon=32)
    sections = {"model": model, "train_dataloader": data, "inference": inference}
    return bind_train_config({**sections, "runner": runners.full_runner(max_epochs=1)})


def of(robots: dict[str, Any], **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    actions = {"actions": options.pop("actions")} if "actions" in options else {}
    data = robot_data(
        "pi05",
        robots={name: [f"data/{name}"] for name in robots},
        tokenizer_path="tokenizer",
        **options,
        **actions,
    )
    return data, robot_inference("pi05", robots=robots, **options)


def transforms(section: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [t for t in section["dataset"]["transforms"] if t["type"] == kind]


def datasets(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: group for name, (group,) in data["dataset"]["datasets"].items()}


@pytest.mark.parametrize("policy", ["pi0", "pi05"])
@pytest.mark.parametrize("options", [{}, {"relative": False}, {"adapt_to_pi": True}])
def test_aloha_and_ur3_are_robots_like_others(policy: Any, options: dict[str, Any]) -> None:
    paths = {"aloha": ["a", "b"], "ur3": ["c"]}
    tasks = {name: {"1": name} for name in paths}
    named = robot_data(policy, **paths, tokenizer_path="t", **options)
    assert robot_data(policy, robots=paths, tokenizer_path="t", **options) == named
    assert robot_inference(policy, robots=tasks, **options) == robot_inference(
        policy, **tasks, **options
    )


def test_a_robot_that_the_config_writes_out_trains_and_is_carried() -> None:
    data, inference = of({"my-arm": TASKS}, specs=[ARM])
    assert (inference["type"], inference["robot"]) == ("InferenceRunner", unbind(ARM))
    config = train_config(data, inference)
    (runner,) = inference_sections(config.inference).values()
    assert runner.spec == ARM and runner.dataset.img_keys == ("top",)
    assert json.loads(json.dumps(unbind(config)))["inference"]["robot"]["name"] == "my-arm"


def test_a_description_may_be_plain_data() -> None:
    assert of({"my-arm": TASKS}, specs=[unbind(ARM)]) == of({"my-arm": TASKS}, specs=[ARM])


def test_a_registered_robot_is_named_and_the_bound_config_carries_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"from flux_core.robots import RobotSpec\nSPEC = {ARM!r}\n"
    site = install(
        tmp_path, "my-arm", {SPEC_GROUP: {"my-arm": "recipe_arm:SPEC"}}, {"recipe_arm": source}
    )
    monkeypatch.syspath_prepend(str(site))
    data, inference = of({"my-arm": TASKS})
    assert inference["robot"] == "my-arm"
    assert unbind(train_config(data, inference))["inference"]["robot"] == unbind(ARM)


def test_joints_are_relative_and_grippers_are_not() -> None:
    data, inference = of({"my-arm": TASKS}, specs=[ARM])
    (mask,) = [t["mask"] for t in datasets(data)["my-arm"]["transforms"] if "mask" in t]
    assert mask == [True, True, False]
    assert transforms(inference, "RelativeActions") == [dict(type="RelativeActions", mask=mask)]
    _, absolute = of({"my-arm": TASKS}, specs=[ARM], relative=False)
    assert transforms(absolute, "RelativeActions") == []


def test_transforms_of_ones_own_come_before_all_others_in_training_and_on_the_robot() -> None:
    data, inference = of({"my-arm": TASKS}, specs=[ARM], units={"my-arm": [RADIANS]})
    _, first, second, *_ = datasets(data)["my-arm"]["transforms"]
    assert (first, second["type"]) == (RADIANS, "RelativeActions")
    assert inference["dataset"]["transforms"][:2] == [first, second]
    config = train_config(data, inference)
    (runner,) = inference_sections(config.inference).values()
    kinds = [type(step).__name__ for step in runner.pipeline.unit_steps]
    assert kinds == ["DegreesToRadians", "RelativeActions"]


@pytest.mark.parametrize("units", [[], [RADIANS]])
def test_a_small_policy_is_made_for_any_robot(units: list[dict[str, Any]]) -> None:
    settings: dict[str, Any] = dict(data_root_path="d", action_horizon=8, batch_size=2)
    inference = small_inference(SMALL, units=units, execution_horizon=4)
    config = bind_train_config(
        {
            "model": small_pi05_model(robot=SMALL, action_horizon=8),
            "train_dataloader": small_data(SMALL, **settings, units=units),
            "runner": small_runner(max_steps=1),
            "inference": inference,
        }
    )
    assert inference["robot"] == unbind(ARM)
    assert config.model.action_dim == ARM.action_dim
    (runner,) = inference_sections(config.inference).values()
    assert (runner.spec, runner.execution_horizon) == (ARM, 4)
    assert len(runner.pipeline.unit_steps) == len(units)
    named = replace(SMALL, name="ur3", description=None)
    assert small_inference(named)["robot"] == "ur3"
    tightened = unbind(replace(ARM, max_velocity=tuple(v / 2 for v in ARM.max_velocity)))
    assert small_inference(SMALL, robot=tightened)["robot"] == tightened


def test_with_a_larger_robot_an_arm_is_padded_to_its_dimensions_and_cameras() -> None:
    data, inference = of({"aloha": TASKS, "my-arm": TASKS}, specs=[ARM])
    pad = dict(type="PadKeyToDim", keys=["actions", "states"], dim=14)
    assert transforms(inference["my-arm"], "PadKeyToDim") == [pad]
    assert transforms(inference["aloha"], "PadKeyToDim") == []
    inputs, *_ = datasets(data)["my-arm"]["transforms"]
    assert inputs["video_keys"] == ["observation.images.top"] and inputs["num_padding_imgs"] == 2
    assert data["dataset"]["dim"] == 14
    config = train_config(data, inference)
    assert list(inference_sections(config.inference)) == ["aloha", "my-arm"]


def test_a_tightened_aloha_keeps_its_operator() -> None:
    slow = replace(ROBOT_SPECS["aloha"], max_velocity=(0.5,) * 14)
    _, inference = of({"aloha": TASKS}, specs=[slow])
    assert inference["type"] == "AlohaInferenceRunner"
    assert inference["operator"]["type"] == "AlohaOperator"
    assert inference["robot"]["max_velocity"] == [0.5] * 14


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_training_says_that_a_robots_driver_will_refuse_wider_limits(
    scale: float, caplog: pytest.LogCaptureFixture
) -> None:
    speeds = tuple(scale * speed for speed in ROBOT_SPECS["ur3"].max_velocity)
    ur3 = replace(ROBOT_SPECS["ur3"], max_velocity=speeds)
    with caplog.at_level(logging.WARNING, "flux.config"):
        train_config(*of({"ur3": TASKS}, specs=[ur3]))
    told = [message for message in caplog.messages if message.startswith("inference.robot: ")]
    assert len(told) == (scale > 1)
    assert all("max_velocity: shoulder_pan: the driver allows at most 3.14" in m for m in told)


def test_sections_share_nothing_that_a_config_could_change() -> None:
    first, second = (of({"aloha": TASKS})[1] for _ in range(2))
    first["operator"]["img_front_topic"] = "/mine"
    assert second["operator"]["img_front_topic"] != "/mine"


def test_a_robot_of_differences_trains_on_recorded_actions() -> None:
    data, inference = of({"pusher": TASKS}, specs=[PUSHER], actions="recorded")
    assert transforms(inference, "RelativeActions") == transforms(inference, "PadKeyToDim") == []
    group = datasets(data)["pusher"]
    assert (group["action_key"], group["window_start_idx"]) == ("action", 0)
    assert data["dataset"]["statistic_keys"] == ["observation.state", "action"]
    train_config(data, inference)
    with pytest.raises(ConfigError, match="pusher is commanded by differences, so its next state"):
        of({"pusher": TASKS}, specs=[PUSHER])


def test_recorded_actions_are_for_any_robot() -> None:
    data, inference = of({"my-arm": TASKS}, specs=[ARM], actions="recorded")
    mappings = data["dataset"]["name_mappings"]
    assert mappings == {"observation.state": ["proprio"], "action": ["action"]}
    train_config(data, inference)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "robots: expected at least one robot, got none"),
        ({"robots": {"aloha": ["a"]}, "aloha": ["b"]}, "'aloha' is also given as aloha=."),
        ({"robots": {"ur3": []}}, "robots: 'ur3': expected at least one entry, got none"),
        ({"ur3": ["a"], "specs": [ARM]}, "specs: expected the robots ur3, got 'my-arm'"),
        ({"ur3": ["a"], "units": {"my-arm": []}}, "units: expected the robots ur3, got 'my-arm'"),
        ({"ur3": ["a"], "specs": [{"name": "x"}]}, "specs.joint_names: RobotSpec needs"),
    ],
)
def test_robots_that_cannot_be_meant_are_refused(arguments: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        robot_data("pi05", tokenizer_path="t", **arguments)


def test_an_unknown_robot_is_refused_by_its_name() -> None:
    with pytest.raises(RobotError, match="unknown robot 'my-arm'"):
        robot_data("pi05", robots={"my-arm": ["a"]}, tokenizer_path="t")


def aloha_section(**options: Any) -> dict[str, Any]:
    return robot_inference("pi05", aloha=TASKS, **options)


def test_the_arms_of_aloha_may_be_named() -> None:
    """The data's group keeps its name, and so do paths in configs that name it."""
    data = robot_data("pi05", aloha=["data/aloha"], tokenizer_path="tokenizer")
    section = aloha_section(aloha_variant="aloha-agilex")
    config = train_config(data, section)
    (runner,) = inference_sections(config.inference).values()
    assert isinstance(runner, AlohaInferenceRunner) and runner.spec == ROBOT_SPECS["aloha-agilex"]
    assert runner.statistics_group(datasets(data)) == "aloha"
    assert section["dataset"] == aloha_section()["dataset"], "grippers in metres are not relative"
    assert section["operator"] == aloha_section()["operator"]
    both = robot_inference("pi05", aloha=TASKS, ur3=TASKS, aloha_variant="aloha-agilex")
    assert list(both) == ["aloha", "ur3"] and both["aloha"]["robot"] == "aloha-agilex"
    mixed = robot_data("pi05", aloha=["a"], ur3=["b"], tokenizer_path="t")
    sections = inference_sections(train_config(mixed, both).inference)
    assert section_of_robot(sections, "aloha") is sections["aloha-agilex"]
    assert sections["aloha-agilex"].statistics_group(datasets(mixed)) == "aloha"


def test_variants_are_robots_by_their_names_too() -> None:
    for name in ("aloha-agilex", "aloha-viperx", "ur5e", "ur10e"):
        data, inference = of({name: TASKS})
        (runner,) = inference_sections(train_config(data, inference).inference).values()
        assert runner.spec == ROBOT_SPECS[name] and hasattr(runner, "operator")
    _, adapted = of({"aloha-viperx": TASKS}, adapt_to_pi=True)
    assert transforms(adapted, "AlohaToPi") == [dict(type="AlohaToPi")]


def test_a_variant_is_of_aloha_and_adapt_to_pi_of_viperx_arms() -> None:
    with pytest.raises(ConfigError, match="aloha_variant: expected aloha-agilex or aloha-viperx"):
        robot_inference("pi05", ur3=TASKS, aloha_variant="aloha-agilex")
    with pytest.raises(ConfigError, match="adapt_to_pi: expected ViperX arms, got aloha-agilex"):
        aloha_section(aloha_variant="aloha-agilex", adapt_to_pi=True)
    section = aloha_section(aloha_variant="aloha-viperx", adapt_to_pi=True)
    assert transforms(section, "AlohaToPi") == [dict(type="AlohaToPi")]


def test_the_prepare_pose_may_be_in_two_parts_as_in_fluxvla() -> None:
    section = aloha_section(aloha_variant="aloha-agilex")
    arm = [0.1, 2.0, -1.0, 0.0, 0.0, 0.0, 0.092]
    runner = bind(AlohaInferenceRunner, section | {"prepare_pose": [arm, arm]}, "inference")
    assert runner.spec.prepare_pose == (*arm, *arm)
    assert bind(AlohaInferenceRunner, unbind(runner), "inference") == runner
    with pytest.raises(ConfigError, match="prepare_pose: .* expected 14 values, got 7"):
        bind(AlohaInferenceRunner, section | {"prepare_pose": arm}, "inference")
