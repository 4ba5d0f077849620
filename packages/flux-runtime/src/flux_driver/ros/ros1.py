"""The connection to ROS 1: a rospy node without signal handlers."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any, Callable
from urllib.parse import urlparse
from xmlrpc.client import Error, ServerProxy, Transport

import rosgraph  # pyright: ignore[reportMissingImports]
import rospy  # pyright: ignore[reportMissingImports]

from ..events import DriverWarnings
from ..robot import DriverError, one_line
from .connection import Callback, message_class

MASTER_TIMEOUT_S = 2.0
WATCH_S = 1.0
BUFFER_BYTES = 1 << 24
"""rospy reads this much at once and drops all but the newest message of it: several images."""
SEND_BYTES = 2304
"""Some commands; Linux's smallest buffer."""
PUBLISHERS, SUBSCRIBERS = 0, 1


class _Timeout(Transport):
    """XML-RPC that waits a bounded time; rospy's own waits forever."""

    def make_connection(self, host: Any) -> Any:
        connection = super().make_connection(host)
        connection.timeout = MASTER_TIMEOUT_S
        return connection


class Master:
    """The XML-RPC interface of the ROS master or of a node; every call waits a bounded time.

    Args:
        uri: its address.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def call(self, method: str, *arguments: Any) -> Any:
        """Returns what the master answers.

        Raises:
            DriverError: it does not answer, or refuses.
        """
        proxy = ServerProxy(self.uri, transport=_Timeout())
        try:
            code, text, value = getattr(proxy, method)(rospy.get_name(), *arguments)
        except (OSError, Error, ValueError) as error:
            raise DriverError(
                f"ROS_MASTER_URI={self.uri}: expected a ROS master, got {one_line(error)}. Start "
                f"roscore there, or name another master"
            ) from error
        if code != 1:
            raise DriverError(f"ROS_MASTER_URI={self.uri}: {method}: {text}")
        return value


class _ShortQueues(rospy.SubscribeListener):
    """Has the kernel keep little for each subscriber: megabytes would be minutes of commands, which
    a subscriber that has fallen behind would get one after the other."""

    publisher: Any = None

    def peer_subscribe(self, topic_name: str, topic_publish: Any, peer_publish: Any) -> None:
        """Is called by rospy when a subscriber has connected."""
        for connection in self.publisher.impl.connections if self.publisher else ():
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)


class Ros1Connection:
    """A node of its own under the ROS master of ROS_MASTER_URI.

    Connections between nodes do not need the master, so topics go on when it dies. A new master
    knows nobody: this node registers there again, so that nodes that start later find it.

    Args:
        node_name: a number is appended, because a second node of one name ends the first.

    Raises:
        DriverError: no master answers.
    """

    def __init__(self, node_name: str) -> None:
        self._master = Master(_master_uri())
        pid = self._master.call("getPid")  # init_node would wait for a master forever
        rospy.init_node(node_name, argv=[], anonymous=True, disable_signals=True)
        self._publishers: dict[str, Any] = {}
        self._kinds: tuple[dict[str, str], dict[str, str]] = ({}, {})
        self._senders: dict[str, str] = {}
        self._warnings = DriverWarnings()
        self._end = threading.Event()
        self._watch = threading.Thread(
            target=self._watch_master, args=(pid,), name="ros-master", daemon=True
        )
        self._watch.start()

    @property
    def place(self) -> str:
        """See `RosConnection`."""
        return f"ROS_MASTER_URI={self._master.uri}"

    @property
    def remedy(self) -> str:
        """See `RosConnection`."""
        return "set ROS_IP on both machines"

    def subscribe(self, topic: str, kind: str, callback: Callback) -> None:
        """See `RosConnection`."""

        def receive(message: Any) -> None:
            received_s = time.monotonic()
            header: dict[str, str] = getattr(message, "_connection_header", None) or {}
            self._senders[topic] = header.get("callerid", "")
            callback(message, received_s)

        rospy.Subscriber(
            topic,
            message_class(kind),
            receive,
            queue_size=1,
            buff_size=BUFFER_BYTES,
            tcp_nodelay=True,
        )
        self._kinds[SUBSCRIBERS][rospy.resolve_name(topic)] = kind

    def advertise(self, topic: str, kind: str) -> Callable[[Any], None]:
        """See `RosConnection`."""
        listener = _ShortQueues()
        publisher = rospy.Publisher(
            topic,
            message_class(kind),
            queue_size=1,
            tcp_nodelay=True,
            subscriber_listener=listener,
        )
        listener.publisher = publisher
        self._publishers[topic] = publisher
        self._kinds[PUBLISHERS][rospy.resolve_name(topic)] = kind
        return publisher.publish

    def message(self, kind: str) -> Any:
        """See `RosConnection`."""
        return message_class(kind)()

    def stamp_s(self, message: Any) -> float:
        """See `RosConnection`."""
        header = getattr(message, "header", None)
        return 0.0 if header is None else float(header.stamp.to_sec())

    def stamp(self, message: Any, wall_s: float) -> None:
        """See `RosConnection`."""
        message.header.stamp = rospy.Time.from_sec(wall_s)

    def published(self) -> dict[str, str]:
        """See `RosConnection`."""
        kinds = dict(self._master.call("getTopicTypes"))
        others = self._others()
        return {topic: str(kinds.get(topic, "")) for topic, nodes in others.items() if nodes}

    def publishers(self, topic: str) -> list[str]:
        """See `RosConnection`."""
        nodes = self._others().get(rospy.resolve_name(topic), [])
        return [name for name in nodes if self._is_alive(name)]

    def _others(self) -> dict[str, list[str]]:
        """Returns the other nodes that publish each topic; a master never forgets dead ones."""
        own = rospy.get_name()
        publishers = self._master.call("getSystemState")[PUBLISHERS]
        return {topic: sorted(set(nodes) - {own}) for topic, nodes in publishers}

    def _is_alive(self, name: str) -> bool:
        try:
            Master(self._master.call("lookupNode", name)).call("getPid")
        except DriverError:
            return False
        return True

    def num_subscribers(self, topic: str) -> int:
        """Returns how many nodes take what `advertise(topic)` publishes."""
        return int(self._publishers[topic].get_num_connections())

    def is_same_machine(self, topic: str) -> bool | None:
        """See `RosConnection`; known once a message has come."""
        sender = self._senders.get(topic)
        if not sender:
            return None
        try:
            return _is_local(urlparse(self._master.call("lookupNode", sender)).hostname or "")
        except DriverError:
            return None

    def take_warnings(self) -> list[tuple[str, str]]:
        """See `RosConnection`."""
        return self._warnings.take()

    def close(self) -> None:
        """See `RosConnection`."""
        self._end.set()
        # rospy tells the master at last, and waits for its answer forever.
        leaving = threading.Thread(
            target=rospy.signal_shutdown, args=("the driver is closed",), daemon=True
        )
        leaving.start()
        leaving.join(MASTER_TIMEOUT_S)

    def _watch_master(self, pid: int) -> None:
        """Looks once a second whether the master is there and the same."""
        missing: str | None = None
        while not self._end.wait(WATCH_S):
            try:
                now = self._master.call("getPid")
                if now != pid:
                    self._register()
                    self._warnings.add(
                        "master", f"a new ROS master answers at {self._master.uri}: registered"
                    )
                elif missing is not None:
                    self._warnings.add(
                        "master", f"the ROS master answers again at {self._master.uri}"
                    )
                pid, missing = now, None
            except DriverError as error:
                if missing is None and not self._end.is_set():
                    missing = str(error)
                    self._warnings.add(
                        "master", f"{missing}. The topics go on; registers again when it is back"
                    )

    def _register(self) -> None:
        """Tells a new master of this node's topics, and this node of the publishers there.

        Raises:
            DriverError: the master does not answer.
        """
        own, name = rospy.get_node_uri(), rospy.get_name()
        for topic, kind in self._kinds[PUBLISHERS].items():
            self._master.call("registerPublisher", topic, kind, own)
        for topic, kind in self._kinds[SUBSCRIBERS].items():
            publishers: list[str] = self._master.call("registerSubscriber", topic, kind, own)
            node = ServerProxy(own, transport=_Timeout())
            try:
                node.publisherUpdate(name, topic, publishers)
            except (OSError, Error, ValueError) as error:
                raise DriverError(f"{topic}: {one_line(error)}") from error


def _master_uri() -> str:
    """Returns the master's address from the environment.

    Raises:
        DriverError: it is not set, or no address.
    """
    expected = "ROS_MASTER_URI: expected the ROS master's address, such as http://localhost:11311"
    try:
        uri = rosgraph.get_master_uri(argv=[])
    except ValueError as error:
        raise DriverError(f"{expected}, got {error}") from error
    if not uri:
        raise DriverError(f"{expected}, got none")
    return str(uri)


def _is_local(host: str) -> bool:
    """Whether a host's name or address is this machine's: only then can one bind to it."""
    found: set[bool] = set()
    try:
        addresses = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
    except OSError:
        return False
    for family, kind, protocol, _, address in addresses:
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.bind(address)
                found.add(True)
            except OSError:
                found.add(False)
    return True in found
