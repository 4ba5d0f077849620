"""Two ALOHA arms and their cameras over ROS: the topics and messages of AlohaOperator."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, Mapping, Sequence

import numpy as np

from ..robot import DriverError
from .connection import RosConnection, connect
from .images import depth_image
from .joint_states import JointOrder
from .sources import (
    COMPRESSED,
    IMAGE,
    Source,
    as_float32,
    image_source,
    wait_for_first,
    what_is_missing,
)

ARM_DIM = 7
COMMAND_NAMES = tuple(f"joint{index}" for index in range(ARM_DIM))
PIPER_NAMES = (*(f"joint{index}" for index in range(1, ARM_DIM)), "gripper")
ARM_TOPICS = ("puppet_arm_left_topic", "puppet_arm_right_topic")
COMMAND_TOPICS = ("puppet_arm_left_cmd_topic", "puppet_arm_right_cmd_topic")
CAMERA_TOPICS = ("img_front_topic", "img_left_topic", "img_right_topic")
DEPTH_TOPICS = ("img_front_depth_topic", "img_left_depth_topic", "img_right_depth_topic")
JOINT_STATE, ODOMETRY = "sensor_msgs/JointState", "nav_msgs/Odometry"
BASE_NAMES = ("linear_velocity", "angular_velocity")
FIRST_S = 10.0
SUBSCRIBERS_S = EXTRAS_S = 1.0
WAIT_S = 0.1
REPEATED_S = 0.5


class AlohaDriver:
    """Reads both arms and the cameras, and publishes commands to both arms.

    Attributes:
        extras: what `read_extras` returns, by name: depth images and the base's velocities.

    Args:
        spec: the robot's description: the left arm's seven joints, then the right arm's; and its
            cameras: the one in front, the left wrist's, the right wrist's.
        topics: the fields of AlohaOperator.
        transport: "ros1" or "ros2".
        use_depth_image: reads the depth topics into recordings.
        use_robot_base: reads the base's topic into recordings.
        prepare_pose: instead of the spec's.
        qos: quality of service of topics under ROS 2, see `qos.QosTable`.
        image_transport: {camera: "compressed"} reads TOPIC/compressed.
        joint_names: how one arm's joints are called in measured messages, gripper last; joint0 to
            joint6, joint1 to joint6 and gripper, or the spec's names without their side.
        command_joint_names: how they are called in commands.
        first_messages_s: how long `connect` waits for a message on every topic.
    """

    def __init__(
        self,
        *,
        spec: Mapping[str, Any],
        topics: Mapping[str, Any],
        transport: str = "ros1",
        use_depth_image: bool = False,
        use_robot_base: bool = False,
        prepare_pose: Sequence[float] | None = None,
        qos: Mapping[str, Any] | None = None,
        image_transport: Mapping[str, str] | None = None,
        joint_names: Sequence[str] | None = None,
        command_joint_names: Sequence[str] = COMMAND_NAMES,
        first_messages_s: float = FIRST_S,
    ) -> None:
        self.spec = dict(spec)
        if prepare_pose is not None:
            self.spec["prepare_pose"] = [float(value) for value in np.ravel(prepare_pose)]
        self._transport = transport
        self._qos = qos
        self._first_s = float(first_messages_s)
        self._topics = dict(topics)
        self._command_names = _arm_names("command_joint_names", command_joint_names)
        self._condition = threading.Condition()
        self._arms = self._make_arms(joint_names)
        self._cameras = self._make_cameras(image_transport or {})
        self._extras = self._make_extras(use_depth_image, use_robot_base)
        self.extras = {name: _facts_of(source) for name, source in self._extras.items()}
        self._missing: list[Source] = []
        self._connection: RosConnection | None = None
        self._publish: list[Callable[[Any], None]] = []
        self._last: np.ndarray | None = None
        self._sent_s = 0.0
        self._warnings: list[tuple[str, str]] = []

    def _make_arms(self, joint_names: Sequence[str] | None) -> list[Source]:
        names = list(self.spec["joint_names"])
        if len(names) != 2 * ARM_DIM:
            raise DriverError(f"spec.joint_names: expected {2 * ARM_DIM} joints, got {len(names)}")
        own = [name.partition("_")[2] for name in names[:ARM_DIM]]
        candidates = [COMMAND_NAMES, PIPER_NAMES, own]
        if joint_names is not None:
            candidates = [_arm_names("joint_names", joint_names)]
        return [
            Source(topic, JOINT_STATE, JointOrder(topic, candidates).positions, self._condition)
            for topic in (self._topic(field) for field in ARM_TOPICS)
        ]

    def _make_cameras(self, image_transport: Mapping[str, str]) -> dict[str, Source]:
        names = list(self.spec["cameras"])
        unknown = sorted(set(image_transport) - set(names))
        if unknown or set(image_transport.values()) - {"compressed", "raw"}:
            raise DriverError(
                f"image_transport: expected raw or compressed for each of {', '.join(names)}, got "
                f"{dict(image_transport)}"
            )
        cameras = {}
        for name, field in zip(names, CAMERA_TOPICS):
            is_compressed = image_transport.get(name) == "compressed"
            topic = self._topic(field) + (COMPRESSED if is_compressed else "")
            cameras[name] = image_source(topic, self._condition)
        return cameras

    def _make_extras(self, use_depth_image: bool, use_robot_base: bool) -> dict[str, Source]:
        """Returns the sources of what is recorded and not fed to a policy."""
        condition = threading.Condition()
        found = {}
        if use_depth_image:
            for name, field in zip(self._cameras, DEPTH_TOPICS):
                topic = self._topic(field)
                found[f"{name}_depth"] = Source(topic, IMAGE, depth_image, condition)
        if use_robot_base:
            topic = self._topic("robot_base_topic")
            found["base"] = Source(topic, ODOMETRY, _base_velocity, condition)
        return found

    def _topic(self, field: str) -> str:
        topic = self._topics.get(field)
        if not isinstance(topic, str) or not topic:
            raise DriverError(f"topics.{field}: expected a topic's name, got {topic!r:.60}")
        return topic

    def connect(self) -> None:
        """Waits for both arms, and for those cameras that publish.

        Raises:
            DriverError: no ROS system answers, or an arm is silent.
        """
        self._connection = connection = connect(self._transport, "flux_aloha", self._qos)
        for source in self._sources():
            source.subscribe(connection)
        self._publish = [
            connection.advertise(self._topic(field), JOINT_STATE) for field in COMMAND_TOPICS
        ]
        needed = [*self._arms, *self._cameras.values()]
        self._missing = wait_for_first(needed, self._first_s)
        if any(arm in self._missing for arm in self._arms):
            raise what_is_missing(connection, self._missing, self._first_s)
        for arm in self._arms:
            arm.update()
        self._check_command_topics(connection)
        self._check_extras()

    def _check_extras(self) -> None:
        """Warns of what cannot be recorded."""
        missing = wait_for_first(list(self._extras.values()), EXTRAS_S)
        for name, source in self._extras.items():
            if source in missing:
                line = f"{name}: expected messages on {source.topic}, got none: not recorded"
                self._warnings.append((f"missing {name}", line))

    def _sources(self) -> list[Source]:
        return [*self._arms, *self._cameras.values(), *self._extras.values()]

    def _check_command_topics(self, connection: RosConnection) -> None:
        """Warns of commands that nobody takes, and of a second commander."""
        topics = [self._topic(field) for field in COMMAND_TOPICS]
        end_s = time.monotonic() + SUBSCRIBERS_S
        while not all(map(connection.num_subscribers, topics)) and time.monotonic() < end_s:
            time.sleep(0.01)
        for topic in topics:
            if not connection.num_subscribers(topic):
                self._warnings.append(
                    (
                        f"no_subscriber {topic}",
                        f"{topic}: nobody takes commands. Start the arm's node in the mode that "
                        f"follows this topic",
                    )
                )
            others = connection.publishers(topic)
            if others:
                self._warnings.append(
                    (
                        f"second_commander {topic}",
                        f"{topic}: {', '.join(others)} publishes commands, too. Stop it",
                    )
                )

    def read_state(self) -> tuple[np.ndarray, float]:
        """Returns both arms' joints, (14,) float32, and the older of their two capture times.

        Raises:
            DriverError: a message of an arm cannot be used.
        """
        self._wait_for(self._arms, all)
        for arm in self._arms:
            arm.update()
        found = [arm.newest for arm in self._arms]
        values = [pair for pair in found if pair is not None]
        if len(values) != len(found):
            raise DriverError("read_state(): expected both arms, got one")
        return as_float32([value for value, _ in values]), min(time_s for _, time_s in values)

    def read_frames(self, cameras: Sequence[str]) -> dict[str, tuple[np.ndarray, float]]:
        """Returns the images that are new, (height, width, 3) uint8, and their capture times.

        Raises:
            DriverError: a camera is silent from the start, or its first image cannot be used.
        """
        sources = {name: self._cameras[name] for name in cameras}
        self._wait_for(list(sources.values()), any)
        return {
            name: source.newest
            for name, source in sources.items()
            if self._has_new_image(name, source) and source.newest is not None
        }

    def read_extras(self) -> dict[str, tuple[np.ndarray, float]]:
        """Returns the newest depth images, uint16 millimetres, and the base's velocities.

        Raises:
            DriverError: a message cannot be used.
        """
        for source in self._extras.values():
            source.update()
        return {
            name: source.newest
            for name, source in self._extras.items()
            if source.newest is not None
        }

    def _has_new_image(self, name: str, source: Source) -> bool:
        if source in self._missing:
            if not source.count and self._connection is not None:
                raise what_is_missing(self._connection, [source], self._first_s)
            self._missing.remove(source)
        try:
            return source.update()
        except DriverError as error:
            if source.newest is None:
                raise DriverError(f"{name}: {source.topic}: {error}") from error
            self._warnings.append((f"wrong_image {name}", f"{name}: {source.topic}: {error}"))
            return False

    def _wait_for(self, sources: Sequence[Source], which: Callable[[Any], bool]) -> None:
        """Waits for a new message from any or all of the sources, but not for long."""
        with self._condition:
            self._condition.wait_for(lambda: which(source.has_new for source in sources), WAIT_S)

    def send(self, command: np.ndarray, time_s: float) -> None:
        """Publishes a command, (14,) float32."""
        self._last, self._sent_s = np.array(command, np.float64), time.monotonic()
        self._publish_command(self._last)

    def _publish_command(self, command: np.ndarray) -> None:
        connection = self._connection
        if connection is None:
            raise DriverError("send(): expected a connected robot")
        wall_s = time.time()
        for publish, values in zip(self._publish, np.split(command, 2)):
            message = connection.message(JOINT_STATE)
            connection.stamp(message, wall_s)
            message.name = list(self._command_names)
            message.position = values.tolist()
            publish(message)

    def stop(self, category: int) -> None:
        """Has the arms hold: they follow positions, so the last one is published once more.

        The measured position would be a step back, because a moving arm is behind its command. A
        command of long ago is not repeated: somebody may have moved the arms since.
        """
        last, self._last = self._last, None
        if last is not None and time.monotonic() - self._sent_s < REPEATED_S:
            self._publish_command(last)

    def take_warnings(self) -> list[tuple[str, str]]:
        """Returns what has been noticed since the last call, as (kind of fault, line)."""
        found = self._warnings[:]
        del self._warnings[: len(found)]  # another thread may have added more
        for source in self._sources():
            found += source.take_warnings()
        if self._connection is not None:
            found += self._connection.take_warnings()
        return found

    def close(self) -> None:
        """Leaves ROS; the arms go on holding their last command."""
        if self._connection is not None:
            self._connection.close()


def _facts_of(source: Source) -> dict[str, Any]:
    """Returns what a recording needs to know of a source."""
    if source.kind == ODOMETRY:
        return {"kind": "vector", "names": list(BASE_NAMES)}
    return {"kind": "depth"}


def _base_velocity(message: Any) -> np.ndarray:
    """Returns metres and radians per second, forwards and to the left."""
    twist = message.twist.twist
    return np.array([twist.linear.x, twist.angular.z], np.float32)


def _arm_names(key: str, names: Sequence[str]) -> tuple[str, ...]:
    found = tuple(names)
    if len(found) != ARM_DIM or len(set(found)) != ARM_DIM:
        raise DriverError(
            f"{key}: expected {ARM_DIM} different names, got {', '.join(map(str, found))}"
        )
    return found
