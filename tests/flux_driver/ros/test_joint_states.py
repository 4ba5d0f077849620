"""Joint positions out of messages: by name, or by position in the robot's order."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_driver.robot import DriverError
from flux_driver.ros.joint_states import JointOrder

NAMES = ("waist", "elbow", "gripper")
OTHER = ("joint0", "joint1", "joint2")


def order(*candidates: tuple[str, ...]) -> JointOrder:
    """Of one topic."""
    return JointOrder("/puppet/joint_left", candidates or (OTHER, NAMES))


def message(names: object, positions: object) -> SimpleNamespace:
    """A sensor_msgs/JointState."""
    return SimpleNamespace(name=names, position=positions)


@given(st.permutations([*NAMES, "left_finger", "right_finger"]))
def test_joints_are_found_by_name_in_any_order_and_among_others(names: list[str]) -> None:
    values = {name: float(index) for index, name in enumerate(names)}

    found = order().positions(message(names, [values[name] for name in names]))

    assert found.tolist() == [values[name] for name in NAMES]


@pytest.mark.parametrize("names", [[], ["", "", ""]])
def test_without_names_the_positions_are_in_the_robots_order(names: list[str]) -> None:
    assert order().positions(message(names, (1.0, 2.0, 3.0))).tolist() == [1, 2, 3]


def test_the_order_may_change_between_messages() -> None:
    joints = order()

    first = joints.positions(message(["joint0", "joint1", "joint2"], [1, 2, 3]))
    second = joints.positions(message(["joint2", "joint0", "joint1"], [3, 1, 2]))

    assert first.tolist() == second.tolist()


def test_nan_is_passed_on_because_the_host_reports_it() -> None:
    assert np.isnan(order().positions(message([], [1.0, np.nan, 3.0]))).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    "names", [["a", "b", "c"], ["waist", "elbow"], ["waist", "waist", "elbow"]]
)
def test_other_names_are_refused_and_both_are_named(names: list[str]) -> None:
    with pytest.raises(DriverError) as info:
        order().positions(message(names, [0.0] * len(names)))

    assert (
        "expected each of the joints joint0, joint1, joint2 or waist, elbow, gripper once, got"
        in (text := str(info.value))
    )
    assert ", ".join(names) in text
    assert "joint_names" in text


@pytest.mark.parametrize(
    ("names", "positions", "expected"),
    [
        ([], [1.0, 2.0], r"expected 3 positions \(joint0, joint1, joint2\), got 2"),
        ([], [1.0] * 4, "got 4"),
        (NAMES, [1.0, 2.0], r"expected 3 positions \(waist, elbow, gripper\), got 2"),
    ],
)
def test_a_message_with_another_number_of_positions_is_refused(
    names: list[str], positions: list[float], expected: str
) -> None:
    with pytest.raises(DriverError, match=expected):
        order().positions(message(names, positions))
