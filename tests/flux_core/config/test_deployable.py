"""The names that a deployed config may contain, decided before anything is imported."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from flux_core.config import (
    component,
    obstacles,
    own_training_transforms,
    registrations,
    unbind,
    with_current_types,
    without_own_training_transforms,
)
from flux_core.config.deployable import uses
from flux_core.config.installed import installed
from flux_core.config.kinds import FIELD_KINDS, ROBOT_NAMES, field_kind
from flux_core.config.old_paths import OLD_PATHS
from flux_core.errors import ConfigError
from flux_core.robots import ROBOT_SPECS
from flux_runtime.control.session import shipped_policy

from ...distributions import write_distribution


def test_every_type_at_any_depth_is_found_in_order() -> None:
    tree = {"type": "A", "x": [{"type": "B"}, {"y": {"type": 3}}], "z": {"type": {"type": "C"}}}
    found = [(use.where, use.name) for use in uses(tree)]
    assert found == [
        ("type", "A"),
        ("x[0].type", "B"),
        ("x[1].y.type", 3),
        ("z.type", {"type": "C"}),
    ]


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (
            {"model": {"type": "my:X"}},
            "model.type: 'my:X' is the path of a class, not a",
        ),
        ({"model": {"type": "Pi05FlowMatching"}}, "Did you mean 'PI05FlowMatching'?"),
        ({"model": {"type": "AlohaToPi"}}, "of kind 'model', got 'AlohaToPi', which flux-core"),
        (
            {"inference": {"x": {"y": {"type": "A"}}}},
            "inference.x.y.type: no component is",
        ),
        ({"modl": {"type": "PI05FlowMatching"}}, "modl.type: no component is expected here"),
        ({"runner": {"type": None}}, "runner.type: expected the name of a component, got None"),
        ({"\x1b[2J" * 9: {"type": "A"}}, r"\x1b[2J"),
    ],
)
def test_each_obstacle_is_one_line(tree: dict[str, Any], expected: str) -> None:
    (line,) = obstacles(tree)
    assert expected in line and line.isprintable() and line.endswith(".")
    with pytest.raises(ConfigError):
        registrations(tree)


def test_a_name_of_a_table_cannot_be_deployed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    mark = write_distribution(tmp_path, "acme-old", "1.0", {"acme": "acme_old:NAMES"})
    tree = {"inference": {"dataset": {"transforms": [{"type": "Tabled"}]}}}
    (line,) = obstacles(tree)
    assert "transforms[0].type: 'Tabled' has no entry point of its own in flux.components" in line
    assert not mark.exists()


def test_transforms_may_contain_transforms() -> None:
    inner = {"type": "ResizeImages", "transforms": [{"type": "AlohaToPi"}]}
    assert obstacles({"inference": {"aloha": {"dataset": {"transforms": [inner]}}}}) == []


def test_each_of_our_kinds_has_a_field_and_each_field_has_one_of_our_kinds() -> None:
    ours = {each.kind for found in installed().values() for each in found if each.is_ours}
    assert set(FIELD_KINDS.values()) == ours | {None}
    assert field_kind(("inference", "dataset", "transforms", 3)) == "transform"
    assert field_kind(("inference", "dataset", "transforms")) is None
    assert field_kind(("inference", 0)) is None


def test_a_robot_is_one_that_flux_describes_or_is_written_out() -> None:
    assert set(ROBOT_NAMES) == ROBOT_SPECS.keys()
    for where in ({"robot": "my-arm"}, {"left": {"robot": "my-arm"}}):
        (line,) = obstacles({"inference": where})
        assert "robot: expected the description of a robot (type 'RobotSpec'), or one of" in line
    assert obstacles({"inference": {"robot": unbind(ROBOT_SPECS["ur3"])}}) == []
    assert obstacles({"inference": {"robot": "ur3"}}) == []
    assert registrations({"inference": {"robot": "ur3"}})["ur3"].distribution == "flux-core"
    assert obstacles({"inference": {"task_descriptions": {"robot": "wave"}}}) == []


def test_the_shipped_policy_names_what_is_registered() -> None:
    config = json.loads((shipped_policy("aloha-sim") / "config.json").read_text())
    found = registrations(config)
    assert found["TrainConfig"].distribution == "flux-train"
    assert found["ByteTokenizer"].kind == "tokenizer"
    assert {each.distribution for each in found.values()} == {
        *("flux-core", "flux-data", "flux-train"),
    }
    # As policies were shipped before their configs had names for their types.
    older = config | {"type": "flux_train.config:TrainConfig"}
    assert registrations(older)["flux_train.config:TrainConfig"].distribution == "flux-train"
    assert with_current_types(older) == config
    assert with_current_types(config) == config


@pytest.mark.parametrize("path", OLD_PATHS)
def test_every_class_path_ever_written_still_names_its_class(path: str) -> None:
    assert ":" in path
    assert component(path) is component(OLD_PATHS[path])
    assert component(path).__name__ == path.rpartition(":")[2] or path.endswith(
        ":PrivateInferenceDataset"
    )
    assert OLD_PATHS[path] in installed()


def test_own_training_transforms_are_left_out_and_nothing_else_is() -> None:
    own, ours = {"type": "my:X", "size": 3}, {"type": "SimpleNormalizeImages"}
    group = {"transforms": [own, ours, own]}
    tree = {
        "train_dataloader": {"dataset": {"datasets": {"arm": [group, {"transforms": [own]}]}}},
        "validation": {"dataset": {"datasets": {"transforms": [ours, own]}}},
        "inference": {"dataset": {"transforms": [own]}},
        "runner": {"collator": {"type": "my:Collator"}},
    }
    before = copy.deepcopy(tree)
    places = [use.where for use in own_training_transforms(tree)]
    where = "train_dataloader.dataset.datasets.arm"
    assert places == [
        f"{where}[0].transforms[0].type",
        f"{where}[0].transforms[2].type",
        f"{where}[1].transforms[0].type",
        "validation.dataset.datasets.transforms[1].type",
    ]
    assert without_own_training_transforms(tree) == {
        "train_dataloader": {
            "dataset": {"datasets": {"arm": [{"transforms": [ours]}, {"transforms": []}]}}
        },
        "validation": {"dataset": {"datasets": {"transforms": [ours]}}},
        "inference": tree["inference"],
        "runner": tree["runner"],
    }
    assert tree == before
