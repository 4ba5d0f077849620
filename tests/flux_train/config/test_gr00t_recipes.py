"""GR00T on a robot of one's own: names of modality.json, a rule per key, its embodiment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_core.config import unbind
from flux_core.deployment import inference_sections
from flux_core.errors import ConfigError
from flux_core.policy_io import PolicyIO
from flux_core.robots import RobotSpec
from flux_core.types import Observation
from flux_train import recipes
from flux_train.cli import main
from flux_train.config.tree import bind_train_config

from .test_shipped_configs import HEIGHT, WIDTH, shrink_model, shrink_prompt, write_dataset

ARM = RobotSpec(
    name="my-arm",
    joint_names=("shoulder", "elbow", "wrist", "gripper"),
    lower=(-3.0, -2.0, -3.0, 0.0),
    upper=(3.0, 2.0, 3.0, 1.0),
    max_velocity=(2.0, 2.0, 2.0, 10.0),
    units=("rad", "rad", "rad", "normalized"),
    cameras=("front", "wrist"),
    control_hz=20.0,
)
MODALITY = {
    "state": {"arm": {"start": 0, "end": 3}, "gripper": {"start": 3, "end": 4}},
    "action": {"arm": {"start": 0, "end": 3}, "gripper": {"start": 3, "end": 4}},
    "video": {name: {"original_key": f"observation.images.{name}"} for name in ARM.cameras},
    "annotation": {"human.task_description": {"original_key": "task_index"}},
}
COLUMNS: dict[str, Any] = {
    "state": ["state.arm", "state.gripper"],
    "actions": ["action.arm", "action.gripper"],
    "cameras": {name: f"video.{name}" for name in ARM.cameras},
}
KEYS: dict[str, Any] = {
    "state_keys": [["arm", 3, "sin_cos"], ["gripper", 1, "min_max"]],
    "action_keys": [["arm", 3, "q99"], ["gripper", 1, "binary"]],
}


def tree(root: str, **options: Any) -> dict[str, Any]:
    robot = {"specs": [ARM], "relative": False}
    data = recipes.robot_data(
        "gr00t",
        robots={"my-arm": [root]},
        columns={"my-arm": COLUMNS},
        tokenizer_path="tokenizer",
        actions="recorded",
        **robot,
        **{"keys": {"my-arm": KEYS}, **options},
    )
    keys = {"keys": options.get("keys", {"my-arm": KEYS})}
    inference = recipes.robot_inference("gr00t", robots={"my-arm": {"1": "pour"}}, **robot, **keys)
    model = recipes.gr00t_model(n_action_steps=32, loss_action_dim=4)
    runner = recipes.full_runner(max_steps=2)
    return {"model": model, "train_dataloader": data, "runner": runner, "inference": inference}


def test_training_and_robot_agree_and_a_new_robot_has_an_embodiment_of_its_own() -> None:
    config = bind_train_config(tree("data"))
    ((dataset,),) = config.train_dataloader.dataset.groups().values()
    assert dataset.transforms[0].embodiment == 31  # type: ignore[attr-defined]
    assert dataset.state_columns == ("state.arm", "state.gripper")
    (robot,) = inference_sections(config.inference).values()
    assert robot.denormalize_action.action_keys == (("arm", 3, "q99"), ("gripper", 1, "binary"))
    chosen = bind_train_config(tree("data", embodiments={"my-arm": "gr1"}))
    ((dataset,),) = chosen.train_dataloader.dataset.groups().values()
    assert dataset.transforms[0].embodiment == 24  # type: ignore[attr-defined]


def test_the_robot_must_undo_the_rules_of_training() -> None:
    other = tree("data")
    other["inference"]["denormalize_action"]["action_keys"][1][2] = "min_max"
    with pytest.raises(ConfigError, match=r"inference.denormalize_action.action_keys: expected"):
        bind_train_config(other)
    other = tree("data")
    other["inference"]["dataset"]["embodiment_id"] = 7
    with pytest.raises(ConfigError, match=r"inference.dataset.embodiment_id: expected 31"):
        bind_train_config(other)


def test_arguments_of_gr00t_are_refused_for_others_and_for_unknown_robots() -> None:
    paths: dict[str, Any] = {"aloha": ["a"], "tokenizer_path": "t"}
    with pytest.raises(ConfigError, match="keys: expected policy 'gr00t', got 'pi05'"):
        recipes.robot_data("pi05", **paths, keys={"aloha": KEYS})
    with pytest.raises(ConfigError, match="embodiments: expected the robots aloha, got 'ur3'"):
        recipes.robot_data("gr00t", **paths, embodiments={"ur3": 2})
    with pytest.raises(ConfigError, match="got 'my_arm'.*use 'new_embodiment'"):
        bind_train_config(tree("data", embodiments={"my-arm": "my_arm"}))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("recordings") / "my-arm"
    write_dataset(root, 4, 4, ARM.cameras, ARM.control_hz)
    (root / "meta" / "modality.json").write_text(json.dumps(MODALITY))
    found = tree(str(root))
    shrink_model(found["model"])
    found["train_dataloader"] |= {"per_device_batch_size": 4, "per_device_num_workers": 0}
    (member,) = found["train_dataloader"]["dataset"]["datasets"]["my-arm"]
    for section in (member, found["inference"]["dataset"]):
        shrink_prompt(section["transforms"])
    few = {"max_epochs": None, "num_threads": 1, "enable_mixed_precision_training": False}
    found["runner"] |= few
    return json.loads(json.dumps(unbind(bind_train_config(found))))


def test_it_trains_from_such_a_dataset(tiny: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(tiny))
    assert main([str(file), str(tmp_path / "run")]) == 0
    stats = json.loads((tmp_path / "run" / "norm_stats.json").read_text())
    assert len(stats["my-arm"]["proprio"]["mean"]) == len(stats["my-arm"]["action"]["mean"]) == 4


def test_the_robots_actions_are_those_of_the_recordings(tiny: dict[str, Any]) -> None:
    config = bind_train_config(tiny)
    dataset = config.train_dataloader.dataset.build()
    (robot,) = inference_sections(config.inference).values()
    io = PolicyIO.from_policy(robot, dataset.stats)
    raw, trained = dataset.datasets[0].raw_sample(3), dataset[3]
    assert trained["states"].shape == (64,) and trained["embodiment_ids"] == 31
    np.testing.assert_allclose(trained["states"][:3], np.sin(raw.state[:3]), atol=1e-6)
    images = {name: np.zeros((HEIGHT, WIDTH, 3), np.uint8) for name in ARM.cameras}
    seen = io.encode(Observation(images=images, state=raw.state, prompt="pour", timestamp_s=0.0))
    np.testing.assert_allclose(seen["state"][0], trained["states"], atol=1e-6)
    actions = io.decode(trained["actions"], raw.state)
    stats = dataset.stats["my-arm"]["action"]
    arm = np.clip(raw.actions[:, :3], stats.q01[:3], stats.q99[:3])
    np.testing.assert_allclose(actions[:, :3], arm, atol=1e-5)
    np.testing.assert_array_equal(actions[:, 3], raw.actions[:, 3] > 0.5)
    np.testing.assert_array_equal(io.binary_mask, [False, False, False, True])
