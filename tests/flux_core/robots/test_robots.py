"""The robots that flux describes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from flux_core.deployment import LiberoInferenceRunner, ObservationTransforms
from flux_core.errors import ConfigError, RobotError
from flux_core.robots import ROBOT_SPECS, robot_spec
from flux_core.transforms import DenormalizeActions, RelativeActions


@pytest.mark.parametrize("name", ROBOT_SPECS)
def test_every_joint_has_a_range_a_speed_and_a_unit(name: str) -> None:
    spec = robot_spec(name)
    assert spec.name == name
    assert all(low < high for low, high in zip(spec.lower, spec.upper, strict=True))
    assert all(speed > 0 for speed in spec.max_velocity)
    assert set(spec.units) <= {"rad", "m", "normalized"}
    assert len(set(spec.joint_names)) == spec.action_dim


def test_grippers_are_normalized_and_close_each_arm() -> None:
    spec = robot_spec("aloha-sim")
    grippers = [i for i, unit in enumerate(spec.units) if unit == "normalized"]
    assert grippers == [6, 13]
    assert [spec.joint_names[i] for i in grippers] == ["left_gripper", "right_gripper"]
    assert {(spec.lower[i], spec.upper[i]) for i in grippers} == {(0.0, 1.0)}


def test_the_dimensions_and_rates_are_those_of_the_tutorial() -> None:
    facts = {name: (s.action_dim, s.control_hz) for name, s in ROBOT_SPECS.items()}
    alohas = ("aloha-sim", "aloha", "aloha-agilex", "aloha-viperx")
    tutorial = dict.fromkeys(alohas, (14, 50.0)) | dict.fromkeys(
        ("ur3", "ur5e", "ur10e"), (7, 30.0)
    )
    assert facts == tutorial | {"libero": (7, 20.0)}
    assert robot_spec("ur3").cameras == ("cam_high", "cam_wrist")


def test_aloha_joints_are_in_the_order_of_a_real_dataset(shared_data: Path) -> None:
    info = json.loads((shared_data / "lerobot" / "v21" / "meta" / "info.json").read_text())
    assert list(robot_spec("aloha").joint_names) == info["features"]["action"]["names"]


@pytest.mark.parametrize("name", ["aloha-sim", "aloha", "aloha-agilex", "ur3", "ur10e"])
def test_a_state_is_a_command_that_requests_no_motion(name: str) -> None:
    spec = robot_spec(name)
    state = np.arange(spec.action_dim, dtype=np.float32)
    assert spec.state_dim == spec.action_dim and not spec.is_commanded_by_differences
    assert spec.hold(state) is state


def test_libero_is_commanded_by_differences_and_rests_with_an_open_gripper() -> None:
    spec = robot_spec("libero")
    assert (spec.state_dim, spec.action_dim, len(spec.state_units)) == (8, 7, 8)
    assert spec.hold(np.ones(8, np.float32)).tolist() == [0, 0, 0, 0, 0, 0, -1]
    # From one end to the other in one step: the filter limits the range, not the change.
    assert all(speed / spec.control_hz == 2 for speed in spec.max_velocity)


def test_differences_cannot_be_relative_to_a_state() -> None:
    dataset = ObservationTransforms(
        img_keys=("image",), transforms=(RelativeActions(mask=(True,) * 6 + (False,)),)
    )
    with pytest.raises(ConfigError, match="libero, whose commands are already differences"):
        LiberoInferenceRunner(
            task_descriptions={"0": "open the drawer"},
            dataset=dataset,
            denormalize_action=DenormalizeActions(norm_type="quantile"),
        )


def test_a_missing_state_unit_is_an_error_with_both_counts() -> None:
    with pytest.raises(RobotError, match=r"'libero', state_units: expected 8 values, got 7"):
        dataclasses.replace(robot_spec("libero"), state_units=("m",) * 7)


def test_the_error_for_an_unknown_robot_lists_the_known_ones() -> None:
    with pytest.raises(
        RobotError, match=r"unknown robot 'alhoa'. Known robots: aloha, aloha-agilex"
    ):
        robot_spec("alhoa")


def test_a_missing_limit_is_an_error_with_both_counts() -> None:
    with pytest.raises(RobotError, match=r"'ur3', upper: expected 7 values, got 6"):
        dataclasses.replace(robot_spec("ur3"), upper=(1.0,) * 6)
