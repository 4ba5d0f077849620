"""The quality of service of ROS 2 topics, without ROS 2."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from flux_driver.robot import DriverError
from flux_driver.ros.connection import connect
from flux_driver.ros.qos import (
    BEST_EFFORT,
    COMMANDS,
    RELIABLE,
    SUBSCRIPTIONS,
    TRANSIENT_LOCAL,
    Qos,
    QosTable,
    mismatch,
    resolved,
)


def test_a_subscription_does_as_its_publishers_do() -> None:
    wanted = QosTable().of("/image", SUBSCRIPTIONS)
    reliable, best_effort = Qos(RELIABLE), Qos(BEST_EFFORT)
    assert resolved(wanted, []).reliability == BEST_EFFORT
    assert resolved(wanted, [reliable, reliable]).reliability == RELIABLE
    assert resolved(wanted, [reliable, best_effort]).reliability == BEST_EFFORT
    assert resolved(reliable, [best_effort]) == reliable


def test_commands_are_reliable_and_only_the_newest_waits() -> None:
    assert QosTable().of("/command", COMMANDS) == Qos(RELIABLE, depth=1)


def test_a_topic_overrides_its_group() -> None:
    table = QosTable(
        {
            "subscriptions": "best_effort",
            "/image": {"reliability": "reliable", "depth": 2},
            "/command": {"durability": "transient_local"},
        }
    )
    assert table.of("/joints", SUBSCRIPTIONS).reliability == BEST_EFFORT
    assert table.of("/image", SUBSCRIPTIONS) == Qos(RELIABLE, depth=2)
    assert table.of("/command", COMMANDS) == Qos(RELIABLE, TRANSIENT_LOCAL)


@pytest.mark.parametrize(
    "stated, line",
    [
        (["reliable"], r"qos: expected a mapping, got \['reliable'\]"),
        ({"/image": "sometimes"}, "qos./image.reliability: expected one of auto, reliable, best"),
        ({"/image": {"keep": 1}}, "qos./image: expected some of reliability, durability, depth"),
        ({"/image": {}}, "qos./image: expected some of"),
        ({"/image": {"depth": 0}}, "qos./image.depth: expected a whole number above 0, got 0"),
        ({"/image": {"durability": "old"}}, "qos./image.durability: expected one of volatile"),
        (
            {"commands": "auto"},
            "qos./image.reliability: expected reliable or best_effort, got auto",
        ),
    ],
)
def test_a_wrong_entry_is_named(stated: Any, line: str) -> None:
    with pytest.raises(DriverError, match=line):
        QosTable(stated).of("/image", COMMANDS)


def test_a_mismatch_is_named_from_both_sides() -> None:
    offered = Qos(BEST_EFFORT)
    assert "asks for reliable" in mismatch(offered, Qos(RELIABLE))
    assert "asks for transient_local" in mismatch(offered, Qos(BEST_EFFORT, TRANSIENT_LOCAL))
    assert mismatch(Qos(RELIABLE, TRANSIENT_LOCAL), Qos(BEST_EFFORT)) == ""


def test_without_ros_2_the_error_says_to_source_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rclpy", None)
    with pytest.raises(DriverError, match="rclpy: cannot be imported by /.* Source your ROS"):
        connect("ros2", "flux")
    with pytest.raises(DriverError, match="qos: expected none over ros1"):
        connect("ros1", "flux", qos={})
