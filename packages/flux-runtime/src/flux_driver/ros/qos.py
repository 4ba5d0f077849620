"""Quality of service of ROS 2 topics, as plain data: what a user may state, and the defaults.

A subscription that asks for reliable messages gets none from a publisher that sends best effort.
The other way round everything arrives, but large messages that are lost on their way, as images are
over UDP, are not sent again. So by default a subscription is reliable if all publishers of its
topic are, and best effort if one is not.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Mapping, Sequence

from ..robot import DriverError

AUTO, RELIABLE, BEST_EFFORT = "auto", "reliable", "best_effort"
VOLATILE, TRANSIENT_LOCAL = "volatile", "transient_local"
SUBSCRIPTIONS, COMMANDS = "subscriptions", "commands"


@dataclass(frozen=True)
class Qos:
    """How one topic is read or written.

    Attributes:
        reliability: 'reliable', 'best_effort', or 'auto': as the topic's publishers do.
        durability: 'volatile', or 'transient_local': a publisher sends its last messages to those
            who subscribe later.
        depth: how many messages wait; the oldest are dropped.
    """

    reliability: str
    durability: str = VOLATILE
    depth: int = 1


DEFAULTS = {SUBSCRIPTIONS: Qos(AUTO, depth=5), COMMANDS: Qos(RELIABLE)}
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
        self._stated = {str(name): _entry(str(name), found) for name, found in entries.items()}

    def of(self, topic: str, group: str) -> Qos:
        """Returns that of a topic of 'subscriptions' or 'commands'.

        Raises:
            DriverError: a command cannot wait to see what others do.
        """
        found = DEFAULTS[group]
        for name in (group, topic):
            found = replace(found, **self._stated.get(name, {}))
        if group == COMMANDS and found.reliability == AUTO:
            raise DriverError(
                f"qos.{topic}.reliability: expected reliable or best_effort, got auto"
            )
        return found


def _entry(name: str, found: Any) -> dict[str, Any]:
    entry = {"reliability": found} if isinstance(found, str) else found
    names = [field.name for field in fields(Qos)]
    if not isinstance(entry, Mapping) or not entry or set(entry) - set(names):
        raise DriverError(f"qos.{name}: expected some of {', '.join(names)}, got {found!r:.60}")
    choices = {
        "reliability": (AUTO, RELIABLE, BEST_EFFORT),
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


def resolved(wanted: Qos, offered: Sequence[Qos]) -> Qos:
    """Returns what to subscribe with, given what the topic's publishers offer."""
    if wanted.reliability != AUTO:
        return wanted
    are_reliable = bool(offered) and all(qos.reliability == RELIABLE for qos in offered)
    return replace(wanted, reliability=RELIABLE if are_reliable else BEST_EFFORT)


def mismatch(offered: Qos, asked: Qos) -> str:
    """Returns why nothing that a publisher offers reaches a subscription, or ''."""
    if asked.reliability == RELIABLE and offered.reliability == BEST_EFFORT:
        return "the publisher's reliability is best_effort, the subscription asks for reliable"
    if asked.durability == TRANSIENT_LOCAL and offered.durability == VOLATILE:
        return "the publisher's durability is volatile, the subscription asks for transient_local"
    return ""
