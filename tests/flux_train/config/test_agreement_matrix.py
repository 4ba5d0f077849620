"""Each field of the training and of the robot's section, changed alone: refused, or allowed.

The fields are found by reflection, so a new one without a rule makes these tests fail.
"""

from __future__ import annotations

import copy
import dataclasses
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import pytest

from flux_core.agreement import RULES, DataFacts, rule_of
from flux_core.config import bind, component, config_class, unbind
from flux_core.config.installed import installed
from flux_core.errors import FluxError
from flux_core.transforms import Rule
from flux_train import recipes
from flux_train.config import TrainConfig
from flux_train.config.robot_checks import check_robot_facts

STATE_WIDTH = ("NormalizeStatesAndActions.state_dim", "PadKeyToDim.keys", "PadKeyToDim.dim")
"""The width of a state matters only to a network that reads it beside the prompt."""
SECTIONS = ("model", "train_dataloader", "inference")
"""`runner` decides how a network learns, and `validation` is compared with the training data."""


def small() -> dict[str, Any]:
    return {
        "model": recipes.small_pi05_model(action_horizon=8),
        "train_dataloader": recipes.small_aloha_sim_data(
            data_root_path="data", action_horizon=8, batch_size=2
        ),
        "runner": recipes.small_runner(max_steps=1),
        "inference": recipes.small_aloha_sim_inference(
            execution_horizon=4, rtc_config={"method": "guidance", "prefix_len": 2}
        ),
    }


def grouped() -> dict[str, Any]:
    robots: Any = {"aloha": ["a"], "ur3": ["b"]}
    return {
        "model": recipes.pi0_model(action_horizon=32, action_dim=14),
        "train_dataloader": recipes.robot_data("pi0", robots=robots, tokenizer_path="tokenizer"),
        "runner": recipes.full_runner(max_epochs=1),
        "inference": recipes.robot_inference(
            "pi0", robots={name: {"1": "fold the towel"} for name in robots}
        ),
    }


def lora() -> dict[str, Any]:
    return {
        "model": recipes.libero_model("pi05", **recipes.lora(rank=4, alpha=4, modules_to_save=())),
        "train_dataloader": recipes.libero_data(
            "pi05", data_root_path="data", tokenizer_path="tokenizer"
        ),
        "runner": recipes.lora_runner(max_epochs=1),
        "inference": recipes.libero_inference("pi05", suite="libero_10"),
    }


def gr00t() -> dict[str, Any]:
    return small() | {
        "model": recipes.small_gr00t_model(action_horizon=8),
        "train_dataloader": recipes.small_aloha_sim_data(
            data_root_path="data", action_horizon=8, batch_size=2, policy="gr00t"
        ),
        "inference": recipes.small_aloha_sim_inference(policy="gr00t", execution_horizon=4),
    }


CONFIGS = {"small": small, "grouped": grouped, "lora": lora, "gr00t": gr00t}
FACTS = {
    "aloha-sim": DataFacts(fps=50.0, state_dim=14, action_dim=14, tasks=("transfer the cube",)),
    "aloha": DataFacts(fps=50.0, state_dim=14, action_dim=14, tasks=("fold the towel",)),
    "ur3": DataFacts(fps=30.0, state_dim=7, action_dim=7, tasks=("fold the towel",)),
    "libero": DataFacts(fps=20.0, state_dim=8, action_dim=7, tasks=("put both moka pots",)),
}

OTHERS: dict[str, Any] = {
    # Values of the right type, or that contradict what a field is checked against.
    "InferenceRunner.robot": "ur3",
    "InferenceRunner.action_chunk": 1000,
    "InferenceRunner.execution_horizon": 1000,
    "InferenceRunner.rtc_config": {"type": "RTCConfig", "prefix_len": 5},
    "InferenceRunner.statistic_name": "another",
    "InferenceRunner.task_descriptions": {"1": "wave"},
    "RTCConfig.prefix_len": 1000,
    "RTCConfig.decay_end": 1000,
    "DenormalizeActions.action_dim": 3,
    "DenormalizeActions.action_key": "proprio",
    "ObservationTransforms.trained_cameras": None,  # see `trained_cameras`
    "RobotSpec.schema_version": 4,
    "RobotSpec.cameras": ["cam_elsewhere"],
    "RobotSpec.name": None,  # see the test of its group
    "RobotSpec.units": None,  # a closed set
    "RobotSpec.state_units": None,
    "PI0FlowMatching.pretrained_adapt": "reinit",
    "PI0FlowMatching.loss_action_dim": None,  # of the data; tried in test_tutorial_configs
    "RobotSpec.joint_names": None,  # their number is part of every other field
    "RobotSpec.state_names": None,
    "NormalizeStatesAndActions.state_key": "action",
    "NormalizeStatesAndActions.action_key": "proprio",
    "NormalizeStatesAndActions.state_dim": 99,
    "NormalizeStatesAndActions.state_keys": [["all", 2, "none"]],
    "NormalizeStatesAndActions.action_keys": [["all", 2, "binary"]],
    "DenormalizeActions.action_keys": [["all", 2, "binary"]],
    "ProcessParquetInputs.embodiment_id": 7,
    "ObservationTransforms.embodiment_id": 7,
    "NormalizeStatesAndActions.action_dim": None,
    "ParquetDataset.action_key": ["observation.state", "other"],
    "ParquetDataset.state_key": "action",
    "ParquetDataset.frame_cache": "elsewhere",
    "DistributedRepeatingDataset.statistic_keys": ["action"],
    "DistributedRepeatingDataset.sampling_weights": None,
    "DistributedRepeatingDataset.statistic_name": None,
    "DistributedRepeatingDataset.dim": 40,
    "DistributedRepeatingDataset.name_mappings": {"observation.state": ["action"]},
    "PretrainedTokenizer.model_path": "elsewhere",
}


@dataclass(frozen=True)
class Leaf:
    """A field whose value holds no other section."""

    path: tuple[str | int, ...]
    kind: type
    name: str
    value: Any

    @property
    def title(self) -> str:
        return f"{owner(self.kind)}.{self.name}"

    @property
    def rule(self) -> Rule | None:
        return rule_of(self.kind, self.name)


def owner(kind: type) -> str:
    return kind.__qualname__.removesuffix(".Config").rpartition(".")[2]


def fields_of(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[Leaf]:
    """Every field at any depth, sections included."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for each in dataclasses.fields(value):
            inner = getattr(value, each.name)
            yield Leaf((*path, each.name), type(value), each.name, inner)
            yield from fields_of(inner, (*path, each.name))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from fields_of(item, (*path, key))
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from fields_of(item, (*path, index))


def holds_section(value: Any) -> bool:
    return any(True for _ in fields_of(value))


@cache
def bound(name: str) -> TrainConfig:
    return bind(TrainConfig, CONFIGS[name]())


def leaves(name: str) -> list[Leaf]:
    config = bound(name)
    return [leaf for each in SECTIONS for leaf in fields_of(getattr(config, each), (each,))]


def other_value(leaf: Leaf) -> Any:
    """Returns a different value of the same type, or None if the type has no other."""
    if leaf.name == "video_keys":  # another camera of the robot, or another order
        return ["observation.images.cam_left_wrist"] if len(leaf.value) < 2 else leaf.value[::-1]
    owners = [owner(base) for base in leaf.kind.__mro__]
    for key in (f"{name}.{leaf.name}" for name in owners):
        if key in OTHERS:
            return OTHERS[key]
    value, declared = leaf.value, typing.get_type_hints(leaf.kind)[leaf.name]
    if typing.get_origin(declared) is Literal:
        return next(each for each in typing.get_args(declared) if each != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1 if isinstance(value, int) else value * 0.5
    if isinstance(value, str):
        return f"{value}_other"
    if isinstance(value, tuple) and value:
        return changed_items(value)
    return None


def changed_items(value: tuple[Any, ...]) -> Any:
    if all(isinstance(item, str) for item in value):
        return [*(str(item) for item in value[:-1]), f"{value[-1]}_other"]
    first = value[0]
    if isinstance(first, tuple):
        return [changed_items(item) for item in value]
    if isinstance(first, bool):
        return [not first, *value[1:]]
    return [first + 0.5, *value[1:]]


def with_value(name: str, leaf: Leaf, value: Any) -> dict[str, Any]:
    tree = copy.deepcopy(tree_of(name))
    node: Any = tree
    for step in leaf.path[:-1]:
        node = node[step]
    node[leaf.path[-1]] = value
    return tree


@cache
def tree_of(name: str) -> dict[str, Any]:
    return unbind(bound(name))


def refusal(tree: Mapping[str, Any]) -> str | None:
    """What is said before the first step, with the data that the sections were made for."""
    try:
        config = bind(TrainConfig, tree)
        groups = config.train_dataloader.dataset.groups()
        by_group = {name: FACTS["aloha-sim" if name == "private" else name] for name in groups}
        check_robot_facts(config.model, config.train_dataloader.dataset, config.inference, by_group)
    except FluxError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", CONFIGS)
def test_the_configs_of_this_matrix_agree(name: str) -> None:
    assert refusal(tree_of(name)) is None


def our_classes() -> dict[str, type]:
    found = {name: config_class(component(name)) for name, each in installed().items() if each}
    return {owner(kind): kind for kind in found.values()}


def test_every_rule_is_of_a_field_and_has_a_reason() -> None:
    kinds = our_classes()
    for key, rule in RULES.items():
        assert len(rule.reason) > 5, key
        name, _, field = key.partition(".")
        derived = [kind for kind in kinds.values() if issubclass(kind, kinds[name])]
        known = {each.name for kind in derived for each in dataclasses.fields(kind)}
        assert field in {*known, "*"}, key


def test_every_field_of_every_component_has_a_rule() -> None:
    """Also of those that the configs of this matrix do not use."""
    missing = [
        f"{name}.{each.name}"
        for name, kind in our_classes().items()
        for each in dataclasses.fields(kind)
        if rule_of(kind, each.name) is None and name not in ("Kinematics", "DHJoint")
    ]
    assert not missing, "say in Transform.rules or flux_core/agreement/rules.py what must hold"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_field_changed_alone_is_refused_or_allowed_as_its_rule_says(name: str) -> None:
    wrong: list[str] = []
    tried = 0
    unread = () if bound(name).model.reads_state else STATE_WIDTH
    for leaf in leaves(name):
        rule = leaf.rule
        if rule is None or holds_section(leaf.value) or f"{owner(leaf.kind)}.*" in RULES:
            continue
        value = other_value(leaf)
        if value is None:
            continue
        tried += 1
        told = refusal(with_value(name, leaf, value))
        is_refused = rule.kind in ("equal", "checked") and leaf.title not in unread
        if (told is not None) != is_refused:
            place = ".".join(map(str, leaf.path))
            wrong.append(f"{place}: {leaf.value!r} -> {value!r}: {rule.kind}, but {told}")
    assert not wrong, "\n".join(wrong)
    assert tried > 40
