"""ALOHA's driver with a connection of its own: what it reads, publishes and warns of."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flux_core.robots import ROBOT_SPECS, AlohaOperator
from flux_driver.robot import DriverError, fault_of
from flux_driver.ros import driver as ros_driver
from flux_driver.ros import sources
from flux_driver.ros.aloha import AlohaDriver

LEFT, RIGHT = "/puppet/joint_left", "/puppet/joint_right"
COMMANDS = ("/master/joint_left", "/master/joint_right")
HIGH = "/camera_h/color/image_raw"
CAMERAS = ROBOT_SPECS["aloha-agilex"].cameras
NAMES = [f"joint{index}" for index in range(7)]


class FakeConnection:
    """A ROS system in this process; messages are delivered by `deliver`."""

    place = "ROS_MASTER_URI=none"
    remedy = "none"

    def __init__(self) -> None:
        self.callbacks: dict[str, Callable[[Any, float], None]] = {}
        self.kinds: dict[str, str] = {}
        self.sent: dict[str, list[Any]] = {topic: [] for topic in COMMANDS}
        self.waiting: dict[str, Any] = {}
        self.commanders: list[str] = []
        self.subscribers = 1
        self.is_closed = False

    def subscribe(self, topic: str, kind: str, callback: Callable[[Any, float], None]) -> None:
        self.callbacks[topic], self.kinds[topic] = callback, kind
        if topic in self.waiting:
            self.deliver(topic, self.waiting.pop(topic))

    def deliver(self, topic: str, message: Any, age_s: float = 0.0) -> None:
        message.header = SimpleNamespace(stamp=time.time() - age_s)
        self.callbacks[topic](message, time.monotonic())

    def advertise(self, topic: str, kind: str) -> Callable[[Any], None]:
        return self.sent[topic].append

    def message(self, kind: str) -> Any:
        return SimpleNamespace(kind=kind, header=None, velocity=[], effort=[])

    def stamp_s(self, message: Any) -> float:
        return float(message.header.stamp)

    def stamp(self, message: Any, wall_s: float) -> None:
        message.header = SimpleNamespace(stamp=wall_s)

    def published(self) -> dict[str, str]:
        return {"/camera_x/color/image_raw": "sensor_msgs/Image", LEFT: "std_msgs/String"}

    def publishers(self, topic: str) -> list[str]:
        return self.commanders

    def num_subscribers(self, topic: str) -> int:
        return self.subscribers

    def is_same_machine(self, topic: str) -> bool | None:
        return True

    def take_warnings(self) -> list[tuple[str, str]]:
        return []

    def close(self) -> None:
        self.is_closed = True


NO_LEFT_ARM = dataclasses.asdict(AlohaOperator(puppet_arm_left_topic=""))


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> FakeConnection:
    """A ROS system with a whole robot, which has said everything once."""
    found = FakeConnection()
    monkeypatch.setattr(ros_driver, "connect", lambda *_: found)
    monkeypatch.setattr(ros_driver, "EXTRAS_S", 0.02)
    monkeypatch.setattr(ros_driver, "SUBSCRIBERS_S", 0.02)
    operator = AlohaOperator()
    found.waiting = {LEFT: joints(0.0), RIGHT: joints(10.0)}
    for topic in (operator.img_front_topic, operator.img_left_topic, operator.img_right_topic):
        found.waiting[topic] = image(1)
    return found


def joints(first: float, names: list[str] = NAMES) -> Any:
    """An arm's message: joint0 is at `first`, joint1 one further, and so on."""
    return SimpleNamespace(name=names, position=[first + int(name[-1]) for name in names])


def image(value: int, encoding: str = "rgb8") -> Any:
    """A camera's message, of one colour."""
    data = bytes([value, 0, 0] * 6)
    return SimpleNamespace(height=2, width=3, step=9, encoding=encoding, is_bigendian=0, data=data)


def make_driver(**arguments: Any) -> AlohaDriver:
    """A driver with the default topics."""
    given: Mapping[str, Any] = {
        "spec": dataclasses.asdict(ROBOT_SPECS["aloha-agilex"]),
        "topics": dataclasses.asdict(AlohaOperator()),
        "first_messages_s": 0.05,
    }
    return AlohaDriver(**(given | arguments))


def connected(**arguments: Any) -> AlohaDriver:
    """A driver that is connected."""
    driver = make_driver(**arguments)
    driver.connect()
    return driver


def test_it_has_every_part_of_a_real_robots_driver() -> None:
    assert fault_of(make_driver()) == ""


def test_the_state_is_the_left_arm_then_the_right_one(ros: FakeConnection) -> None:
    before_s = time.monotonic()
    state, time_s = connected().read_state()

    assert state.dtype == np.float32
    assert state.tolist() == [*range(7), *range(10, 17)]
    assert before_s - 0.1 <= time_s <= time.monotonic() + 0.1


def test_the_state_is_as_old_as_the_older_arm(ros: FakeConnection) -> None:
    driver = connected()
    _, before_s = driver.read_state()
    time.sleep(0.01)
    ros.deliver(LEFT, joints(20.0), age_s=0.004)
    ros.deliver(RIGHT, joints(30.0))

    state, time_s = driver.read_state()

    assert state[[0, 7]].tolist() == [20, 30]
    assert before_s < time_s < time.monotonic() - 0.003
    ros.deliver(RIGHT, joints(40.0))
    assert driver.read_state()[1] == time_s, "one arm alone makes no newer state"


def test_images_are_passed_on_once(ros: FakeConnection) -> None:
    driver = connected()

    first = driver.read_frames(CAMERAS)
    ros.deliver(HIGH, image(2))
    second = driver.read_frames(CAMERAS)

    assert set(first) == set(CAMERAS)
    assert {name: pair[0][0, 0].tolist() for name, pair in second.items()} == {
        "cam_high": [2, 0, 0]
    }


def test_the_newest_image_wins(ros: FakeConnection) -> None:
    driver = connected()
    for value in range(5, 50):
        ros.deliver(HIGH, image(value))

    assert driver.read_frames(["cam_high"])["cam_high"][0][0, 0, 0] == 49


def test_a_first_image_that_cannot_be_used_is_an_error_with_camera_and_topic(
    ros: FakeConnection,
) -> None:
    ros.waiting[HIGH] = image(1, "yuv422")

    with pytest.raises(DriverError, match=f"cam_high: {HIGH}: encoding: expected one of rgb8"):
        connected().read_frames(CAMERAS)


def test_a_later_image_that_cannot_be_used_is_reported_and_left_out(ros: FakeConnection) -> None:
    driver = connected()
    driver.read_frames(CAMERAS)
    ros.deliver(HIGH, image(1, "yuv422"))

    assert driver.read_frames(CAMERAS) == {}
    assert [name for name, _ in driver.take_warnings()] == ["wrong_image cam_high"]


def test_a_silent_camera_matters_only_to_who_asks_for_it(ros: FakeConnection) -> None:
    del ros.waiting[HIGH]
    driver = connected()

    assert set(driver.read_frames(CAMERAS[1:])) == set(CAMERAS[1:])
    with pytest.raises(DriverError) as info:
        driver.read_frames(CAMERAS)
    assert f"got none on {HIGH} (nobody publishes it)" in str(info.value)
    assert "Other topics of that kind here: /camera_x/color/image_raw" in str(info.value)


def test_a_silent_arm_is_an_error_that_names_its_topic(ros: FakeConnection) -> None:
    del ros.waiting[LEFT]

    with pytest.raises(DriverError) as info:
        connected()

    expected = f"got none on {LEFT} (its kind is std_msgs/String, expected sensor_msgs/JointState)"
    assert expected in str(info.value)


def test_a_command_goes_to_both_arms_with_names_and_stamps(ros: FakeConnection) -> None:
    driver = connected()

    before_s = time.time()
    driver.send(np.arange(14, dtype=np.float32), time.monotonic())
    after_s = time.time()

    for topic, first in zip(COMMANDS, (0, 7), strict=True):
        (message,) = ros.sent[topic]
        assert message.name == NAMES
        assert message.position == [float(first + index) for index in range(7)]
        assert (message.velocity, message.effort) == ([], [])
        assert before_s - 0.01 <= message.header.stamp <= after_s + 0.01


def test_commands_may_have_other_names(ros: FakeConnection) -> None:
    driver = connected(command_joint_names=list("abcdefg"))

    driver.send(np.zeros(14, np.float32), 0.0)

    assert ros.sent[COMMANDS[0]][0].name == list("abcdefg")


def test_a_stop_repeats_the_last_command_once(ros: FakeConnection) -> None:
    driver = connected()
    driver.send(np.arange(14, dtype=np.float32), 0.0)

    driver.stop(2)
    driver.stop(2)

    assert [message.position[0] for message in ros.sent[COMMANDS[1]]] == [7, 7]


def test_a_stop_without_a_command_or_long_after_one_sends_nothing(
    ros: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ros_driver, "REPEATED_S", 0.01)
    driver = connected()
    driver.stop(2)
    driver.send(np.zeros(14, np.float32), 0.0)
    time.sleep(0.02)
    driver.stop(2)

    assert len(ros.sent[COMMANDS[0]]) == 1


def test_it_warns_of_commands_that_nobody_takes_and_of_a_second_commander(
    ros: FakeConnection,
) -> None:
    ros.subscribers, ros.commanders = 0, ["/teleop"]

    texts = [text for _, text in connected().take_warnings()]

    assert f"{COMMANDS[0]}: nobody takes commands" in texts[0]
    assert "/teleop publishes commands, too" in texts[1]


def test_depth_and_the_base_are_extras(ros: FakeConnection) -> None:
    operator = AlohaOperator()
    depth = SimpleNamespace(
        height=1, width=2, step=4, encoding="16UC1", is_bigendian=0, data=b"\1\0\0\1"
    )
    twist = SimpleNamespace(linear=SimpleNamespace(x=0.25), angular=SimpleNamespace(z=-0.5))
    ros.waiting[operator.img_left_depth_topic] = depth
    ros.waiting[operator.robot_base_topic] = SimpleNamespace(twist=SimpleNamespace(twist=twist))
    driver = connected(use_depth_image=True, use_robot_base=True)

    found = driver.read_extras()

    assert driver.extras["base"] == {
        "kind": "vector",
        "names": ["linear_velocity", "angular_velocity"],
    }
    assert driver.extras["cam_left_wrist_depth"] == {"kind": "depth"}
    assert found["base"][0].tolist() == [0.25, -0.5]
    assert found["cam_left_wrist_depth"][0].tolist() == [[1, 256]]
    missing = [name for name, _ in driver.take_warnings()]
    assert missing == ["missing cam_high_depth", "missing cam_right_wrist_depth"]


def test_without_being_asked_for_depth_is_not_even_subscribed(ros: FakeConnection) -> None:
    driver = connected()

    assert driver.extras == {} == driver.read_extras()
    assert not any("depth" in topic for topic in ros.callbacks)


def test_a_compressed_topic_is_read_as_such(ros: FakeConnection) -> None:
    connected(image_transport={"cam_high": "compressed"})

    assert ros.kinds[f"{HIGH}/compressed"] == "sensor_msgs/CompressedImage"


def test_another_prepare_pose_replaces_the_specs() -> None:
    driver = make_driver(prepare_pose=[[0.1] * 7, [0.2] * 7])

    assert driver.spec["prepare_pose"] == [0.1] * 7 + [0.2] * 7


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"image_transport": {"cam_top": "compressed"}}, "image_transport: expected raw or"),
        ({"image_transport": {"cam_high": "theora"}}, "got {'cam_high': 'theora'}"),
        ({"joint_names": ["a"]}, "joint_names: expected 7 different names, got a"),
        ({"topics": NO_LEFT_ARM}, "puppet_arm_left_topic: expected a topic's"),
    ],
)
def test_wrong_settings_are_refused_by_name(arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(DriverError) as info:
        make_driver(**arguments)

    assert expected in str(info.value)


def test_closing_leaves_ros_and_is_allowed_before_connecting(ros: FakeConnection) -> None:
    make_driver().close()
    driver = connected()
    driver.close()

    assert ros.is_closed


def test_a_reader_waits_for_a_message_that_is_on_its_way(ros: FakeConnection) -> None:
    driver = connected()
    driver.read_frames(CAMERAS)
    threading.Timer(0.02, ros.deliver, (HIGH, image(9))).start()

    assert "cam_high" in driver.read_frames(CAMERAS)


def test_topics_of_that_kind_are_not_all_named(
    ros: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {f"/camera_{index:02}": "sensor_msgs/Image" for index in range(20)}
    monkeypatch.setattr(ros, "published", lambda: found)
    del ros.waiting[HIGH]

    with pytest.raises(DriverError) as info:
        connected().read_frames(CAMERAS)

    assert f"/camera_{sources.MAX_NAMED - 1:02}. Start" in str(info.value)
