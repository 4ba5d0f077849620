"""Quality of service of ROS 2 topics, as plain data: what a user may state, and the defaults.

A best-effort subscription hears reliable publishers and those that send best effort. A reliable one
hears only the former, and has them send again what was lost of an image that is old by then: three
cameras over loopback held up the publishing node so much that its joint states came late.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Mapping

from ..robot import DriverError

RELIABLE, BEST_EFFORT = "reliable", "best_effort"
VOLATILE, TRANSIENT_LOCAL = "volatile", "transient_local"
SUBSCRIPTIONS, COMMANDS = "subscriptions", "commands"


@dataclass(frozen=True)
class Qos:
    """How one topic is read or written.

    Attributes:
        reliability: 'reliable' or 'best_effort'.
        durability: 'volatile', or 'transient_local': a publisher sends its last messages to those
            who subscribe later.
        depth: how many messages wait; the oldest are dropped.
    """

    reliability: str
    durability: str = VOLATILE
    depth: int = 1


DEFAULTS = {SUBSCRIPTIONS: Qos(BEST_EFFORT, depth=5), COMMANDS: Qos(RELIABLE)}
"""Fast DDS assembles a large message in a place of the queue: with one place images are lost."""


class QosTable:
    """The quality of service of each topic.

    Args:
        stated: for a topic's name, or 'subscriptions' or 'commands' for all of them, a reliability
            or a mapping with `reliability`, `durability` and `depth`.

    Raises:
        DriverError: a key or a value is none that ROS 2 knows.
    """

    def __init__(self, stated: Mapping[str, Any] | None = None) -> None:
        entries = {} if stated is None else stated
        if not isinstance(entries, Mapping):
            raise DriverError(f"qos: expected a mapping, got {entries!r:.60}")
        self._asked: set[str] = {SUBSCRIPTIONS, COMMANDS}
        self._stated = {str(name): _entry(str(name), found) for name, found in entries.items()}

    def of(self, topic: str, group: str) -> Qos:
        """Returns that of a topic of 'subscriptions' or 'commands'."""
        self._asked.add(topic)
        found = DEFAULTS[group]
        for name in (group, topic):
            found = replace(found, **self._stated.get(name, {}))
        return found

    def fault(self) -> str:
        """Returns which topic was stated and is neither read nor written, or ''."""
        for name in self._stated:
            if name not in self._asked:
                topics = ", ".join(sorted(self._asked))
                return f"qos.{name}: expected one of {topics}: nothing is done with this entry"
        return ""


def _entry(name: str, found: Any) -> dict[str, Any]:
    entry = {"reliability": found} if isinstance(found, str) else found
    names = [field.name for field in fields(Qos)]
    if not isinstance(entry, Mapping) or not entry or set(entry) - set(names):
        raise DriverError(f"qos.{name}: expected some of {', '.join(names)}, got {found!r:.60}")
    choices = {
        "reliability": (RELIABLE, BEST_EFFORT),
        "durability": (VOLATILE, TRANSIENT_LOCAL),
    }
    for key, accepted in choices.items():
        if key in entry and entry[key] not in accepted:
            expected = ", ".join(accepted)
            raise DriverError(
                f"qos.{name}.{key}: expected one of {expected}, got {entry[key]!r:.60}"
            )
    depth = entry.get("depth", 1)
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
        raise DriverError(f"qos.{name}.depth: expected a whole number above 0, got {depth!r:.60}")
    return dict(entry)


def mismatch(offered: Qos, asked: Qos) -> str:
    """Returns why nothing that a publisher offers reaches a subscription, or ''."""
    if asked.reliability == RELIABLE and offered.reliability == BEST_EFFORT:
        return "the publisher's reliability is best_effort, the subscription asks for reliable"
    if asked.durability == TRANSIENT_LOCAL and offered.durability == VOLATILE:
        return "the publisher's durability is volatile, the subscription asks for transient_local"
    return ""
