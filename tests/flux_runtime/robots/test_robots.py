"""Finding robots by name."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from flux_core.errors import RobotError
from flux_core.robots import ROBOT_SPECS
from flux_runtime import robots
from flux_runtime.robots import SimulatedRobot, make_robot, robot_names
from flux_runtime.robots.shipped import REAL


def test_the_shipped_robots_have_names() -> None:
    assert robot_names()[:6] == (
        *("aloha-sim", "aloha-agilex", "aloha-viperx"),
        *("ur3", "ur5e", "ur10e"),
    )
    assert make_robot("aloha-sim").spec.name == "aloha-sim"
    assert all(name in ROBOT_SPECS for name in REAL)


def test_an_unknown_robot_is_answered_with_the_known_ones() -> None:
    with pytest.raises(RobotError, match="r2d2: no such robot. Known robots: aloha-sim, aloha-ag"):
        make_robot("r2d2")


def register(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    point = EntryPoint(name="toy", value=value, group=robots.ENTRY_POINT_GROUP)
    monkeypatch.setattr(
        "flux_core.robots.providers.entry_points",
        lambda *, group: [point] if group == point.group else [],
    )


def test_another_package_can_register_a_robot(monkeypatch: pytest.MonkeyPatch, fakes: Any) -> None:
    module = ModuleType("a_strangers_driver")
    module.__dict__["Toy"] = fakes.ToyRobot
    monkeypatch.setitem(sys.modules, "a_strangers_driver", module)
    register(monkeypatch, "a_strangers_driver:Toy")
    assert "toy" in robot_names()
    assert isinstance(make_robot("toy"), SimulatedRobot)


def test_a_registered_robot_that_cannot_be_loaded_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register(monkeypatch, "no_such_module_anywhere:Toy")
    with pytest.raises(RobotError, match="entry point 'no_such_module_anywhere:Toy' cannot be"):
        make_robot("toy")


def test_the_simulated_aloha_must_be_connected_first() -> None:
    robot = make_robot("aloha-sim")
    assert isinstance(robot, SimulatedRobot)
    with pytest.raises(RobotError, match="aloha-sim: not connected"):
        robot.state()
    robot.close()


def test_the_simulated_aloha_is_a_robot() -> None:
    pytest.importorskip("gym_aloha", reason="the simulated ALOHA needs flux-core[sim]")
    robot = make_robot("aloha-sim")
    robot.connect()
    try:
        assert isinstance(robot, SimulatedRobot)
        robot.reset(3)
        start = robot.state()
        assert (start.shape, start.dtype) == ((14,), np.float32)
        seen = robot.observe("hand over the cube", ["cam_high"])
        assert list(seen.images) == ["cam_high"]
        robot.command(start)
        stages = robot.stages()
        assert {robot.success_stage, robot.end_state} <= set(stages)
        assert not stages[robot.success_stage]
        assert robot.render(["cam_high"])["cam_high"].shape == (192, 256, 3)
    finally:
        robot.close()
