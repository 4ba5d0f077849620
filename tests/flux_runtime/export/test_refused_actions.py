"""Binary actions of what cannot jump are refused before anything is exported."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flux_core.errors import ExportError
from flux_core.robots import ROBOT_SPECS
from flux_runtime.export.prepare import check_actions


def actions(robot: str, *joints: int) -> Any:
    spec = ROBOT_SPECS[robot]
    mask = np.zeros(spec.action_dim, np.bool_)
    mask[list(joints)] = True
    return SimpleNamespace(binary_mask=mask, inference=SimpleNamespace(spec=spec))


@pytest.mark.parametrize(
    ("robot", "joint", "message"),
    [
        ("aloha-sim", 2, r"action_keys: left_elbow: .* jumps past all limits of speed, got 'rad'"),
        ("aloha-agilex", 6, r"left_gripper: expected a gripper in unit 'normalized'.* got 'm'"),
        ("libero", 0, r"expected a lower limit of 0, because a binary action is no difference"),
    ],
)
def test_only_a_gripper_may_be_switched(robot: str, joint: int, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        check_actions(actions(robot, joint))


def test_grippers_and_robots_without_binary_actions_are_exported() -> None:
    check_actions(actions("aloha-sim", 6, 13))
    check_actions(actions("aloha-agilex"))
