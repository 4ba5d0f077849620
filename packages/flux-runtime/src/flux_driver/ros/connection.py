"""What the drivers need of ROS, so that one driver serves ROS 1 and ROS 2."""

from __future__ import annotations

import importlib
import sys
from functools import lru_cache
from typing import Any, Callable, Mapping, Protocol, cast

from ..robot import DriverError, one_line

TRANSPORTS = {"ros1": ("rospy", "Ros1Connection"), "ros2": ("rclpy", "Ros2Connection")}
REMEDIES = {
    "ros1": "Name the interpreter that has it with --driver-python, such as /usr/bin/python3",
    "ros2": "Source your ROS (source /opt/ros/DISTRO/setup.bash) before you start flux-runtime, or "
    "name with --driver-python a script that sources it",
}

Callback = Callable[[Any, float], None]


class RosConnection(Protocol):
    """A node of its own in a running ROS system.

    A kind of message is written as in ROS 1 under both: "sensor_msgs/Image".
    """

    @property
    def place(self) -> str:
        """The variable that names the ROS system, with its value."""
        ...

    @property
    def remedy(self) -> str:
        """What to do if no message of a topic arrives although somebody publishes it."""
        ...

    def subscribe(self, topic: str, kind: str, callback: Callback) -> None:
        """Calls `callback(message, received_s)` for messages of a topic, from a thread of ROS.

        `received_s` is on `time.monotonic()`. Messages that arrive while the callback runs are
        dropped, except the newest, so a callback should only keep the message.

        Raises:
            DriverError: there is no such kind of message in this environment.
        """
        ...

    def advertise(self, topic: str, kind: str) -> Callable[[Any], None]:
        """Returns the function that publishes a message; it never waits for a subscriber.

        Raises:
            DriverError: there is no such kind of message in this environment.
        """
        ...

    def message(self, kind: str) -> Any:
        """Returns a new empty message.

        Raises:
            DriverError: there is no such kind of message in this environment.
        """
        ...

    def stamp_s(self, message: Any) -> float:
        """Returns the stamp of a message's header, seconds on the sender's clock; 0 if none."""
        ...

    def stamp(self, message: Any, wall_s: float) -> None:
        """Writes a time, `time.time()`, into a message's header."""
        ...

    def published(self) -> dict[str, str]:
        """Returns the topics that other nodes publish now, and their kinds."""
        ...

    def publishers(self, topic: str) -> list[str]:
        """Returns the names of the other nodes that publish a topic now, without dead ones."""
        ...

    def num_subscribers(self, topic: str) -> int:
        """Returns how many nodes take what `advertise(topic)` publishes."""
        ...

    def is_same_machine(self, topic: str) -> bool | None:
        """Whether the publisher of a topic runs on this machine; None if that is not known."""
        ...

    def take_warnings(self) -> list[tuple[str, str]]:
        """Returns what has gone wrong since the last call, as (kind of fault, line)."""
        ...

    def close(self) -> None:
        """Leaves the ROS system; may be called twice."""
        ...


def connect(transport: str, node_name: str, qos: Mapping[str, Any] | None = None) -> RosConnection:
    """Returns a connection to the ROS system that the environment's variables name.

    Args:
        transport: "ros1" or "ros2".
        node_name: how the node is called in that system.
        qos: quality of service of topics under ROS 2, see `qos.QosTable`; None for the defaults.

    Raises:
        DriverError: there is no such transport, its Python package is not installed for this
            interpreter, or the ROS system does not answer.
    """
    if transport not in TRANSPORTS:
        raise DriverError(f"transport: expected {' or '.join(TRANSPORTS)}, got {transport!r}")
    if qos is not None and transport != "ros2":
        raise DriverError(f"qos: expected none over {transport}, which has no quality of service")
    package, name = TRANSPORTS[transport]
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise DriverError(
            f"{package}: cannot be imported by {sys.executable} ({one_line(error)}). "
            f"{REMEDIES[transport]}"
        ) from error
    module = importlib.import_module(f".{transport}", __package__)
    options = {} if qos is None else {"qos": qos}
    return cast(RosConnection, getattr(module, name)(node_name, **options))


@lru_cache(maxsize=None)
def message_class(kind: str) -> Any:
    """Returns the class of a kind of message: "sensor_msgs/Image" is sensor_msgs.msg.Image.

    Raises:
        DriverError: it is not installed.
    """
    package, _, name = kind.partition("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise DriverError(
            f"{kind}: expected this kind of message in {sys.executable}, got {error}. Install "
            f"the ROS package {package}"
        ) from error
