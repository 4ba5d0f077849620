"""Differences between training's transforms and the robot's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from .base import Transform
from .units import UnitStep


@dataclass(frozen=True)
class Difference:
    """One difference.

    Attributes:
        subject: the name of the transform.
        field: the field that differs; None if only one side has the transform.
        expected: training's value, or training's transforms of this kind.
        found: the robot's value or transforms.
    """

    subject: str
    field: str | None
    expected: object
    found: object

    def __str__(self) -> str:
        place = f" in {self.field}" if self.field else ""
        return (
            f"{self.subject} differs from training{place}: expected {self.expected!r}, got "
            f"{self.found!r}"
        )


def differences(
    expected: Sequence[Transform], found: Sequence[Transform]
) -> tuple[Difference, ...]:
    """Compares training's transforms with the robot's, field by field.

    The order matters among unit steps only.
    """
    found_here = [
        difference
        for subject in dict.fromkeys(step.compared_as for step in (*expected, *found))
        for difference in _of_kind(
            subject,
            [step for step in expected if step.compared_as == subject],
            [step for step in found if step.compared_as == subject],
        )
    ]
    if not found_here:
        orders = [
            [type(s).__name__ for s in x if isinstance(s, UnitStep)] for x in (expected, found)
        ]
        if orders[0] != orders[1]:
            return (Difference("the order of unit steps", None, *orders),)
    return tuple(found_here)


def _of_kind(subject: str, expected: Sequence[Any], found: Sequence[Any]) -> Iterator[Difference]:
    if [type(step) for step in expected] != [type(step) for step in found]:
        sides = [list(expected), list(found)]
        if repr(sides[0]) == repr(sides[1]):  # two classes of one name
            sides = [[f"{type(s).__module__}:{type(s).__qualname__}" for s in x] for x in sides]
        yield Difference(subject, None, *sides)
        return
    for wanted, got in zip(expected, found, strict=True):
        for field in fields(wanted):
            values = [getattr(step, field.name) for step in (wanted, got)]
            if values[0] != values[1]:
                yield Difference(subject, field.name, *values)
