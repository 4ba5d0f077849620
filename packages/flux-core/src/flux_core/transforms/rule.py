"""What holds for a field when the training section is compared with the robot's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["equal", "checked", "named", "free"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What holds for one field.

    Attributes:
        kind: 'equal': the same on both sides, or it is refused. 'checked': compared with something
            else (the network, the robot, the data), and refused if it contradicts it. 'named': may
            differ on purpose, in the way that `reason` names. 'free': cannot contradict the other
            section.
        reason: what it decides, against what it is checked, how a difference is said, or why it is
            free.
    """

    kind: Kind
    reason: str


def rules(kind: Kind, reason: str, *fields: str) -> dict[str, Rule]:
    """Returns one rule for several fields."""
    return {name: Rule(kind=kind, reason=reason) for name in fields}
