"""The connection to ROS 2: an rclpy node in a context of its own, without signal handlers."""

from __future__ import annotations

import os
import threading
import time
from typing import Any, Callable, Mapping

import rclpy  # pyright: ignore[reportMissingImports]
import rclpy.context  # pyright: ignore[reportMissingImports]
import rclpy.executors  # pyright: ignore[reportMissingImports]
import rclpy.qos  # pyright: ignore[reportMissingImports]

try:
    import rclpy.event_handler as event_handlers  # pyright: ignore[reportMissingImports]
except ImportError:  # until Humble
    import rclpy.qos_event as event_handlers  # pyright: ignore[reportMissingImports]

from ..events import DriverWarnings
from ..robot import DriverError, one_line
from .connection import Callback, message_class
from .qos import (
    BEST_EFFORT,
    COMMANDS,
    RELIABLE,
    SUBSCRIPTIONS,
    TRANSIENT_LOCAL,
    VOLATILE,
    Qos,
    QosTable,
    mismatch,
)

SPIN_S = 0.2
WATCH_S = 0.5
"""Between two looks at who publishes and subscribes."""

CLOSE_TIMEOUT_S = 2.0


class Ros2Connection:
    """A node of its own in the domain of ROS_DOMAIN_ID.

    Args:
        node_name: the process's number is appended, so that two nodes never have one name.
        qos: what differs from the default quality of service, see `QosTable`.

    Raises:
        DriverError: `qos` is wrong, or ROS 2 cannot be started.
    """

    def __init__(self, node_name: str, qos: Mapping[str, Any] | None = None) -> None:
        self._qos = QosTable(qos)
        self._subscriptions: dict[str, Qos] = {}
        self._publishers: dict[str, tuple[Any, Qos]] = {}
        self._warnings = DriverWarnings()
        self._told: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._context = rclpy.context.Context()
        try:
            rclpy.init(args=[], context=self._context)  # with its own context: no signal handlers
            name = f"{node_name}_{os.getpid()}"
            self._node: Any = rclpy.create_node(
                name, context=self._context, enable_rosout=False, start_parameter_services=False
            )
        except Exception as error:  # the middleware may raise anything
            raise DriverError(
                f"ROS 2 ({_middleware()}) cannot be started: {one_line(error)}"
            ) from error
        self._executor: Any = rclpy.executors.SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in ((self._spin, "ros2"), (self._watch, "ros2-watch"))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def place(self) -> str:
        """See `RosConnection`."""
        return f"ROS_DOMAIN_ID={os.environ.get('ROS_DOMAIN_ID') or 0}"

    @property
    def remedy(self) -> str:
        """See `RosConnection`."""
        return "let UDP pass between both machines, and give both the same middleware"

    def subscribe(self, topic: str, kind: str, callback: Callback) -> None:
        """See `RosConnection`."""
        qos = self._qos.of(topic, SUBSCRIPTIONS)

        def receive(message: Any) -> None:
            callback(message, time.monotonic())

        self._node.create_subscription(
            message_class(kind),
            topic,
            receive,
            _profile(qos),
            event_callbacks=event_handlers.SubscriptionEventCallbacks(use_default_callbacks=False),
        )
        with self._lock:
            self._subscriptions[topic] = qos

    def advertise(self, topic: str, kind: str) -> Callable[[Any], None]:
        """See `RosConnection`."""
        qos = self._qos.of(topic, COMMANDS)
        publisher = self._node.create_publisher(
            message_class(kind),
            topic,
            _profile(qos),
            event_callbacks=event_handlers.PublisherEventCallbacks(use_default_callbacks=False),
        )
        with self._lock:
            self._publishers[topic] = publisher, qos
        return publisher.publish

    def message(self, kind: str) -> Any:
        """See `RosConnection`."""
        return message_class(kind)()

    def stamp_s(self, message: Any) -> float:
        """See `RosConnection`."""
        if not hasattr(message, "header"):
            return 0.0
        stamp = message.header.stamp
        return float(stamp.sec) + stamp.nanosec * 1e-9

    def stamp(self, message: Any, wall_s: float) -> None:
        """See `RosConnection`."""
        stamp = message.header.stamp
        stamp.sec, stamp.nanosec = divmod(round(wall_s * 1e9), 1_000_000_000)

    def published(self) -> dict[str, str]:
        """See `RosConnection`."""
        return {
            topic: kinds[0].replace("/msg/", "/")
            for topic, kinds in self._node.get_topic_names_and_types()
            if self._node.count_publishers(topic)
        }

    def publishers(self, topic: str) -> list[str]:
        """See `RosConnection`."""
        found = {_name(end) for end in self._node.get_publishers_info_by_topic(topic)}
        return sorted(found - {self._node.get_fully_qualified_name()})

    def num_subscribers(self, topic: str) -> int:
        """See `RosConnection`."""
        return int(self._publishers[topic][0].get_subscription_count())

    def is_same_machine(self, topic: str) -> bool | None:
        """See `RosConnection`; known only where discovery is restricted to this machine."""
        is_local = (
            os.environ.get("ROS_LOCALHOST_ONLY") == "1"
            or os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE") == "LOCALHOST"
        )
        return True if is_local and not os.environ.get("ROS_STATIC_PEERS") else None

    def take_warnings(self) -> list[tuple[str, str]]:
        """See `RosConnection`."""
        fault = self._qos.fault()  # asked for only once the driver has named all of its topics
        if fault:
            self._tell("qos", fault)
        return self._warnings.take()

    def close(self) -> None:
        """See `RosConnection`."""
        if self._end.is_set():
            return
        self._end.set()
        for thread in self._threads:
            thread.join(CLOSE_TIMEOUT_S)
        self._executor.shutdown(CLOSE_TIMEOUT_S)
        self._node.destroy_node()
        self._context.try_shutdown()

    def _spin(self) -> None:
        while not self._end.is_set():
            try:
                self._executor.spin_once(timeout_sec=SPIN_S)
            except Exception as error:  # noqa: BLE001 - a damaged message raises in this thread
                if not self._end.wait(SPIN_S):
                    self._tell("ros2", one_line(error))

    def _watch(self) -> None:
        """Says which other nodes cannot be heard or told; rclpy's own lines do not say enough."""
        while not self._end.wait(WATCH_S):
            with self._lock:
                subscriptions, publishers = dict(self._subscriptions), dict(self._publishers)
            try:
                for topic, qos in subscriptions.items():
                    for end in self._node.get_publishers_info_by_topic(topic):
                        reason = mismatch(_qos_of(end), qos)
                        self._tell_mismatch(topic, f"nothing of {_name(end)} arrives", reason)
                for topic, (_, qos) in publishers.items():
                    for end in self._node.get_subscriptions_info_by_topic(topic):
                        reason = mismatch(qos, _qos_of(end))
                        self._tell_mismatch(topic, f"{_name(end)} gets no commands", reason)
            except Exception as error:  # noqa: BLE001 - the middleware may raise anything
                if not self._end.is_set():
                    self._tell("ros2", one_line(error))

    def _tell_mismatch(self, topic: str, what: str, reason: str) -> None:
        if reason:
            text = f"{topic}: {what}: {reason}. State qos for this topic in --robot-config"
            self._tell(f"qos {topic}", text)

    def _tell(self, name: str, text: str) -> None:
        if (name, text) not in self._told:
            self._told.add((name, text))
            self._warnings.add(name, text)


def _profile(qos: Qos) -> Any:
    policies = rclpy.qos
    return policies.QoSProfile(
        history=policies.HistoryPolicy.KEEP_LAST,
        depth=qos.depth,
        reliability=getattr(policies.ReliabilityPolicy, qos.reliability.upper()),
        durability=getattr(policies.DurabilityPolicy, qos.durability.upper()),
    )


def _qos_of(end: Any) -> Qos:
    """Returns what a publisher offers, or a subscription asks for, elsewhere in the domain."""
    policies, profile = rclpy.qos, end.qos_profile
    is_reliable = profile.reliability == policies.ReliabilityPolicy.RELIABLE
    keeps = profile.durability == policies.DurabilityPolicy.TRANSIENT_LOCAL
    return Qos(RELIABLE if is_reliable else BEST_EFFORT, TRANSIENT_LOCAL if keeps else VOLATILE)


def _name(end: Any) -> str:
    return f"{end.node_namespace.rstrip('/')}/{end.node_name}"


def _middleware() -> str:
    return os.environ.get("RMW_IMPLEMENTATION") or "the default middleware"
