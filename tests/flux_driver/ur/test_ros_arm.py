"""A UR arm over ROS with a connection of its own: what the driver reads and publishes."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from flux_core.robots import ROBOT_SPECS, UROperator
from flux_driver.robot import DriverError, fault_of
from flux_driver.ros import driver as ros_driver
from flux_driver.ur.ros_arm import GRIPPER_S, UrRosDriver

from ...documents import ROOT

SPEC = dataclasses.asdict(ROBOT_SPECS["ur3"])
TOPICS = UROperator()
ARM, GRIPPER = TOPICS.puppet_arm_left_topic, TOPICS.puppet_gripper_left_topic
OPEN = "gripper_open: "
SCALING = "/speed_scaling_factor"
SORTED = ("elbow", "shoulder_lift", "shoulder_pan", "wrist_1", "wrist_2", "wrist_3")


class FakeConnection:
    """A ROS system in this process; messages are delivered by `deliver`."""

    place = "ROS_MASTER_URI=none"
    remedy = "none"

    def __init__(self) -> None:
        self.callbacks: dict[str, Callable[[Any, float], None]] = {}
        self.kinds: dict[str, str] = {}
        self.sent: dict[str, list[Any]] = {}

    def subscribe(self, topic: str, kind: str, callback: Callable[[Any, float], None]) -> None:
        self.callbacks[topic], self.kinds[topic] = callback, kind
        if topic == ARM:
            self.deliver(ARM, joints(SORTED))
        elif topic == GRIPPER:
            self.deliver(GRIPPER, SimpleNamespace(data=0.085))

    def deliver(self, topic: str, message: Any, age_s: float = 0.0) -> None:
        message.stamp = time.time() - age_s
        self.callbacks[topic](message, time.monotonic())

    def advertise(self, topic: str, kind: str) -> Callable[[Any], None]:
        self.kinds[topic] = kind
        self.sent[topic] = []
        return self.sent[topic].append

    def message(self, kind: str) -> Any:
        return SimpleNamespace(kind=kind)

    def stamp_s(self, message: Any) -> float:
        return float(message.stamp)

    def stamp(self, message: Any, wall_s: float) -> None:
        message.stamp = wall_s

    def published(self) -> dict[str, str]:
        return {}

    def publishers(self, topic: str) -> list[str]:
        return []

    def num_subscribers(self, topic: str) -> int:
        return 1

    def is_same_machine(self, topic: str) -> bool | None:
        return True

    def take_warnings(self) -> list[tuple[str, str]]:
        return []

    def close(self) -> None:
        pass


def joints(names: tuple[str, ...], suffix: str = "_joint") -> Any:
    """An arm's message, in which a joint's position is its place in the spec."""
    places = {name: float(index) for index, name in enumerate(SPEC["joint_names"])}
    return SimpleNamespace(
        name=[name + suffix for name in names], position=[places[name] for name in names]
    )


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> FakeConnection:
    found = FakeConnection()
    monkeypatch.setattr(ros_driver, "connect", lambda *_: found)
    monkeypatch.setattr(ros_driver, "WAIT_S", 0.01)
    monkeypatch.setattr(ros_driver, "EXTRAS_S", 0.01)
    return found


def connected(**arguments: Any) -> UrRosDriver:
    """A connected driver with the tutorial's topics, whose cameras are silent."""
    given: dict[str, Any] = {"spec": SPEC, "topics": dataclasses.asdict(TOPICS)}
    driver = UrRosDriver(first_messages_s=0.02, **given | arguments)
    driver.connect()
    return driver


def test_joints_are_read_by_name_whatever_their_order(ros: FakeConnection) -> None:
    state, _ = connected().read_state()

    np.testing.assert_allclose(state, [0, 1, 2, 3, 4, 5, 0.085])


@pytest.mark.parametrize("suffix", ["_joint", ""])
def test_the_specs_names_do_as_well_as_the_urdfs(ros: FakeConnection, suffix: str) -> None:
    driver = connected()
    ros.deliver(ARM, joints(SORTED, suffix))

    np.testing.assert_allclose(driver.read_state()[0][:6], range(6))


def test_other_names_are_refused_with_what_to_do(ros: FakeConnection) -> None:
    driver = connected()
    ros.deliver(ARM, joints(SORTED, "_of_the_left_arm"))

    with pytest.raises(DriverError, match="as joint_names in --robot-config"):
        driver.read_state()


def test_a_gripper_in_metres_is_read_and_sent_with_the_number_for_open(ros: FakeConnection) -> None:
    driver = connected(gripper_open=0.085)

    assert driver.read_state()[0][6] == pytest.approx(1.0)
    driver.send(np.array([*range(6), 0.5], np.float32), 0.0)
    assert ros.sent[TOPICS.puppet_gripper_left_cmd_topic][0].data == pytest.approx(0.0425)


def test_a_command_has_the_urdfs_names_and_a_stamp(ros: FakeConnection) -> None:
    connected().send(np.arange(7, dtype=np.float32), 0.0)

    message = ros.sent[TOPICS.puppet_arm_left_cmd_topic][0]
    assert message.name == [f"{name}_joint" for name in SPEC["joint_names"][:6]]
    assert message.position == [0, 1, 2, 3, 4, 5]
    assert message.stamp == pytest.approx(time.time(), abs=5)
    assert ros.kinds[TOPICS.puppet_gripper_left_cmd_topic] == "std_msgs/Float32"


def test_a_state_is_not_new_while_the_gripper_is_silent(ros: FakeConnection) -> None:
    driver = connected()
    ros.deliver(GRIPPER, SimpleNamespace(data=0.04), age_s=0.0)
    _, first_s = driver.read_state()
    driver._joints[1].newest = (np.array([0.04]), first_s - GRIPPER_S - 0.1)

    ros.deliver(ARM, joints(SORTED))
    _, second_s = driver.read_state()

    assert second_s == first_s
    assert ("silent /gripper/position") in [name for name, _ in driver.take_warnings()]


@pytest.mark.parametrize(("data", "share"), [(20.0, 0.2), (0.2, 0.2), (100.0, 1.0), (0.0, 0.0)])
def test_the_speed_is_a_share_or_a_percentage(
    ros: FakeConnection, data: float, share: float
) -> None:
    driver = connected(speed_scaling_topic=SCALING)
    assert driver.speed_scaling() == 1.0

    ros.deliver(SCALING, SimpleNamespace(data=data))

    assert driver.speed_scaling() == pytest.approx(share)


def test_without_a_topic_the_speed_is_full(ros: FakeConnection) -> None:
    assert connected().speed_scaling() == 1.0


def test_depth_is_recorded_from_topics_that_are_named(ros: FakeConnection) -> None:
    driver = connected(use_depth_image=True, depth_topics={"cam_high": "/front/depth"})

    assert driver.extras == {"cam_high_depth": {"kind": "depth"}}
    with pytest.raises(DriverError, match="expected depth_topics"):
        connected(use_depth_image=True)


def test_the_example_of_the_documentation_is_accepted(ros: FakeConnection) -> None:
    text = (ROOT / "docs" / "ur.md").read_text()
    found = next(each for each in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if OPEN in each)
    config = yaml.safe_load(found)
    topics = dataclasses.asdict(dataclasses.replace(TOPICS, **config.pop("topics")))

    connected(topics=topics, **config)

    assert ros.kinds[TOPICS.img_front_topic + "/compressed"] == "sensor_msgs/CompressedImage"
    assert ros.kinds[GRIPPER] == "std_msgs/Float32"


def test_no_stop_may_remove_the_power(ros: FakeConnection) -> None:
    assert SPEC["holds_without_power"]
    assert not connected().spec["holds_without_power"]


def test_the_driver_has_every_part_of_a_real_robot(ros: FakeConnection) -> None:
    assert fault_of(connected()) == ""
