"""What the drivers of robots over ROS share: cameras, what is only recorded, warnings, stopping."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, Mapping, Sequence

import numpy as np

from ..events import DriverWarnings
from ..robot import DriverError
from .connection import RosConnection, connect
from .images import depth_image
from .sources import COMPRESSED, IMAGE, TopicSource, image_source, wait_for_first, what_is_missing

JOINT_STATE, ODOMETRY = "sensor_msgs/JointState", "nav_msgs/Odometry"
BASE_NAMES = ("linear_velocity", "angular_velocity")
FIRST_S = 10.0
SUBSCRIBERS_S = EXTRAS_S = 1.0
WAIT_S = 0.1
REPEATED_S = 0.5
RAW, JPEG = "raw", "compressed"


class RosDriver:
    """A robot whose joints, cameras and commands are topics.

    A class for one robot adds its `TopicSource`s of joints to `_joints` and its command topics to
    `_command_topics`, and defines `read_state` and `_publish_command`.

    Attributes:
        extras: what `read_extras` returns, by name: depth images and the base's velocities.

    Args:
        spec: the robot's description.
        topics: the fields of the robot's operator.
        camera_fields: the fields with the topics of the spec's cameras, in their order.
        transport: "ros1" or "ros2".
        node_name: how this node is called.
        qos: quality of service of topics under ROS 2, see `qos.QosTable`.
        image_transport: {camera: "compressed"} reads TOPIC/compressed.
        first_messages_s: how long `connect` waits for a message on every topic.
    """

    def __init__(
        self,
        *,
        spec: Mapping[str, Any],
        topics: Mapping[str, Any],
        camera_fields: Sequence[str],
        transport: str,
        node_name: str,
        qos: Mapping[str, Any] | None,
        image_transport: Mapping[str, str] | None,
        first_messages_s: float,
    ) -> None:
        self.spec = dict(spec)
        self.extras: dict[str, Any] = {}
        self._transport = transport
        self._node_name = node_name
        self._qos = qos
        self._first_s = float(first_messages_s)
        self._topics = dict(topics)
        self._condition = threading.Condition()
        self._extras_condition = threading.Condition()
        self._joints: list[TopicSource] = []
        self._command_topics: list[tuple[str, str]] = []
        self._cameras = self._make_cameras(camera_fields, image_transport or {})
        self._extras: dict[str, TopicSource] = {}
        self._missing: list[TopicSource] = []
        self._connection: RosConnection | None = None
        self._publish: list[Callable[[Any], None]] = []
        self._last: np.ndarray | None = None
        self._sent_s = 0.0
        self._warnings = DriverWarnings()

    def _make_cameras(
        self, fields: Sequence[str], image_transport: Mapping[str, str]
    ) -> dict[str, TopicSource]:
        names = list(self.spec["cameras"])
        unknown = sorted(set(image_transport) - set(names))
        if unknown or set(image_transport.values()) - {RAW, JPEG}:
            raise DriverError(
                f"image_transport: expected {RAW} or {JPEG} for each of {', '.join(names)}, got "
                f"{dict(image_transport)}"
            )
        cameras = {}
        for name, field in zip(names, fields):
            suffix = COMPRESSED if image_transport.get(name) == JPEG else ""
            cameras[name] = image_source(self._topic(field) + suffix, self._condition)
        return cameras

    def _add_depth(self, camera: str, topic: str) -> None:
        """Records a camera's depth images."""
        name = f"{camera}_depth"
        self._extras[name] = TopicSource(topic, IMAGE, depth_image, self._extras_condition)
        self.extras[name] = {"kind": "depth"}

    def _add_base(self, topic: str) -> None:
        """Records a mobile base's velocities."""
        self._extras["base"] = TopicSource(topic, ODOMETRY, _base_velocity, self._extras_condition)
        self.extras["base"] = {"kind": "vector", "names": list(BASE_NAMES)}

    def _topic(self, field: str) -> str:
        topic = self._topics.get(field)
        if not isinstance(topic, str) or not topic:
            raise DriverError(f"topics.{field}: expected a topic's name, got {topic!r:.60}")
        return topic

    def connect(self) -> None:
        """Waits for the joints, and for those cameras that publish.

        Raises:
            DriverError: no ROS system answers, or joints are silent.
        """
        self._connection = connection = connect(self._transport, self._node_name, self._qos)
        for source in self._sources():
            source.subscribe(connection)
        self._publish = [connection.advertise(*topic) for topic in self._command_topics]
        needed = [*self._joints, *self._cameras.values()]
        self._missing = wait_for_first(needed, self._first_s)
        if any(source in self._missing for source in self._joints):
            raise what_is_missing(connection, self._missing, self._first_s)
        for source in self._joints:
            source.update()
        self._check_command_topics(connection)
        self._check_extras()

    def _check_extras(self) -> None:
        """Warns of what cannot be recorded."""
        missing = wait_for_first(list(self._extras.values()), EXTRAS_S)
        for name, source in self._extras.items():
            if source in missing:
                line = f"{name}: expected messages on {source.topic}, got none: not recorded"
                self._warnings.add(f"missing {name}", line)

    def _sources(self) -> list[TopicSource]:
        return [*self._joints, *self._cameras.values(), *self._extras.values()]

    def _check_command_topics(self, connection: RosConnection) -> None:
        """Warns of commands that nobody takes, and of a second commander."""
        topics = [topic for topic, _ in self._command_topics]
        end_s = time.monotonic() + SUBSCRIBERS_S
        while not all(map(connection.num_subscribers, topics)) and time.monotonic() < end_s:
            time.sleep(0.01)
        for topic in topics:
            if not connection.num_subscribers(topic):
                self._warnings.add(
                    f"no_subscriber {topic}",
                    f"{topic}: nobody takes commands. Start the arm's node in the mode that "
                    f"follows this topic",
                )
            others = connection.publishers(topic)
            if others:
                self._warnings.add(
                    f"second_commander {topic}",
                    f"{topic}: {', '.join(others)} publishes commands, too. Stop it",
                )

    def _read_joints(self) -> list[tuple[np.ndarray, float]]:
        """Waits for a new message from each source of joints, not for long; returns the newest.

        Raises:
            DriverError: a message cannot be used.
        """
        self._wait_for(self._awaited_joints(), all)
        for source in self._joints:
            source.update()
        found = [source.newest for source in self._joints if source.newest is not None]
        if len(found) != len(self._joints):
            expected = ", ".join(source.topic for source in self._joints)
            raise DriverError(f"expected a message on each of {expected}, got {len(found)}")
        return found

    def _awaited_joints(self) -> Sequence[TopicSource]:
        """Returns the sources of joints whose next message makes a new state."""
        return self._joints

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

    def _has_new_image(self, name: str, source: TopicSource) -> bool:
        if source in self._missing:
            if not source.count and self._connection is not None:
                raise what_is_missing(self._connection, [source], self._first_s)
            self._missing.remove(source)
        try:
            return source.update()
        except DriverError as error:
            if source.newest is None:
                raise DriverError(f"{name}: {source.topic}: {error}") from error
            self._warnings.add(f"wrong_image {name}", f"{name}: {source.topic}: {error}")
            return False

    def _wait_for(self, sources: Sequence[TopicSource], which: Callable[[Any], bool]) -> None:
        """Waits for a new message from any or all of the sources, but not for long."""
        with self._condition:
            self._condition.wait_for(lambda: which(source.has_new for source in sources), WAIT_S)

    def send(self, command: np.ndarray, time_s: float) -> None:
        """Publishes a command, float32, one number per joint."""
        self._last, self._sent_s = np.array(command, np.float64), time.monotonic()
        self._publish_command(self._last)

    def _publish_command(self, command: np.ndarray) -> None:
        raise NotImplementedError

    def _connected(self) -> RosConnection:
        if self._connection is None:
            raise DriverError("send(): expected a connected robot")
        return self._connection

    def _joint_state(self, names: Sequence[str], positions: np.ndarray, wall_s: float) -> Any:
        """Returns a stamped message with positions alone."""
        connection = self._connected()
        message = connection.message(JOINT_STATE)
        connection.stamp(message, wall_s)
        message.name = list(names)
        message.position = positions.tolist()
        return message

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
        found = self._warnings.take()
        for source in self._sources():
            found += source.take_warnings()
        if self._connection is not None:
            found += self._connection.take_warnings()
        return found

    def close(self) -> None:
        """Leaves ROS; the arms go on holding their last command."""
        if self._connection is not None:
            self._connection.close()


def joint_names(key: str, names: Sequence[str], number: int) -> tuple[str, ...]:
    """Returns the names of a robot's joints in messages, as a user has given them.

    Raises:
        DriverError: they are not `number` different ones; the message begins with `key`.
    """
    found = tuple(names)
    if len(found) != number or len(set(found)) != number:
        raise DriverError(
            f"{key}: expected {number} different names, got {', '.join(map(str, found))}"
        )
    return found


def _base_velocity(message: Any) -> np.ndarray:
    """Returns metres and radians per second, forwards and to the left."""
    twist = message.twist.twist
    return np.array([twist.linear.x, twist.angular.z], np.float32)
