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
)


def test_a_subscription_hears_every_publisher() -> None:
    qos = QosTable().of("/image", SUBSCRIPTIONS)
    for reliability in (RELIABLE, BEST_EFFORT):
        assert mismatch(Qos(reliability), qos) == ""


def test_commands_are_reliable_and_only_the_newest_waits() -> None:
    qos = QosTable().of("/command", COMMANDS)
    assert qos == Qos(RELIABLE, depth=1)
    for reliability in (RELIABLE, BEST_EFFORT):
        assert mismatch(qos, Qos(reliability)) == ""


def test_a_topic_overrides_its_group() -> None:
    table = QosTable(
        {
            "subscriptions": "reliable",
            "/image": {"reliability": "best_effort", "depth": 2},
            "/command": {"durability": "transient_local"},
        }
    )
    assert table.of("/joints", SUBSCRIPTIONS) == Qos(RELIABLE, depth=5)
    assert table.of("/image", SUBSCRIPTIONS) == Qos(BEST_EFFORT, depth=2)
    assert "qos./command: expected one of /image, /joints, commands" in table.fault()
    assert table.of("/command", COMMANDS) == Qos(RELIABLE, TRANSIENT_LOCAL)
    assert table.fault() == ""


@pytest.mark.parametrize(
    "stated, line",
    [
        (["reliable"], r"qos: expected a mapping, got \['reliable'\]"),
        ({"/image": "sometimes"}, "qos./image.reliability: expected one of reliable, best_eff"),
        ({"/image": {"keep": 1}}, "qos./image: expected some of reliability, durability, depth"),
        ({"/image": {}}, "qos./image: expected some of"),
        ({"/image": {"depth": 0}}, "qos./image.depth: expected a whole number above 0, got 0"),
        ({"/image": {"durability": "old"}}, "qos./image.durability: expected one of volatile"),
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
