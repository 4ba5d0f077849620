"""What a robot measures, topic by topic: the newest value of each and when it was captured."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, Sequence, Tuple

import numpy as np

from ..clocks.stamps import StampClock
from ..robot import DriverError
from .connection import RosConnection
from .images import colour_image, compressed_image
from .newest import Newest

Value = Tuple[Any, float]
MAX_NAMED = 8
COMPRESSED = "/compressed"
IMAGE = "sensor_msgs/Image"


class TopicSource:
    """One topic; `convert` turns its messages into values.

    Args:
        topic: the topic's name.
        kind: the kind of its messages.
        convert: raises DriverError if a message cannot be used.
        condition: notified at each message.

    Attributes:
        newest: the newest value and its capture time; None until there is one.
    """

    def __init__(
        self,
        topic: str,
        kind: str,
        convert: Callable[[Any], Any],
        condition: threading.Condition,
    ) -> None:
        self.topic = topic
        self.kind = kind
        self._convert = convert
        self._slot = Newest(condition)
        self._connection: RosConnection | None = None
        self._clock: StampClock | None = None
        self.newest: Value | None = None

    @property
    def count(self) -> int:
        """Messages that have come so far."""
        return self._slot.count

    @property
    def has_new(self) -> bool:
        """Whether a message waits for `update`."""
        return self._slot.has_one

    def subscribe(self, connection: RosConnection) -> None:
        """Keeps the newest message of the topic from now on."""
        self._connection = connection
        connection.subscribe(self.topic, self.kind, self._slot.put)

    def update(self) -> bool:
        """Converts the newest message; returns whether there is a new value.

        Raises:
            DriverError: the message cannot be used; it is dropped.
        """
        found = self._slot.take()
        if found is None or self._connection is None:
            return False
        message, received_s = found
        if self._clock is None:
            self._clock = StampClock(self.topic, self._connection.is_same_machine(self.topic))
        time_s = self._clock.time_s(self._connection.stamp_s(message), received_s)
        if time_s is None:
            return False
        self.newest = self._convert(message), time_s
        return True

    def take_warnings(self) -> list[tuple[str, str]]:
        """Returns what the stamps' clock has noticed since the last call."""
        return self._clock.take_warnings() if self._clock is not None else []


def image_source(topic: str, condition: threading.Condition) -> TopicSource:
    """Returns a camera's topic; one whose name ends with /compressed has JPEG or PNG images."""
    if topic.endswith(COMPRESSED):
        return TopicSource(topic, "sensor_msgs/CompressedImage", compressed_image, condition)
    return TopicSource(topic, IMAGE, colour_image, condition)


def wait_for_first(sources: Sequence[TopicSource], timeout_s: float) -> list[TopicSource]:
    """Waits for a message from each source; returns those that have had none."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s and not all(source.count for source in sources):
        time.sleep(0.01)
    return [source for source in sources if not source.count]


def what_is_missing(
    connection: RosConnection, missing: Sequence[TopicSource], timeout_s: float
) -> DriverError:
    """Returns an error that names each topic without messages and what was seen instead."""
    published = connection.published()
    reasons = ", ".join(
        f"{source.topic} ({_reason(source, connection, published)})" for source in missing
    )
    kinds = {source.kind for source in missing}
    alike = sorted(
        topic
        for topic, kind in published.items()
        if kind in kinds and topic not in {source.topic for source in missing}
    )
    seen = ", ".join(alike[:MAX_NAMED]) or "none"
    return DriverError(
        f"{connection.place}: expected messages within {timeout_s:g} s, got none on {reasons}. "
        f"Other topics of that kind here: {seen}. Start the robot's nodes, or name its topics with "
        f"--topic or in --robot-config"
    )


def _reason(source: TopicSource, connection: RosConnection, published: dict[str, str]) -> str:
    kind = published.get(source.topic)
    if kind is None:
        return "nobody publishes it"
    if kind != source.kind:
        return f"its kind is {kind}, expected {source.kind}"
    return f"announced, but no message arrives: see that it is sent, or {connection.remedy}"


def as_float32(values: Sequence[np.ndarray]) -> np.ndarray:
    """Returns several vectors as one of float32."""
    return np.concatenate(values).astype(np.float32)
