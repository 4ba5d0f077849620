"""Gripper commands that become another one, so that a gripper that should close does so firmly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ..errors import ConfigError
from .families import gripper_joints
from .spec import RobotSpec

GRIPPER_CLOSINGS = {"aloha-agilex": (0.05, -0.01)}
"""Robot -> its gripper_threshold and gripper_closed, in metres: those of FluxVLA's runner."""


@dataclass(frozen=True, kw_only=True)
class GripperClosing:
    """Which commands of which joints are replaced; true if there is any.

    Attributes:
        closes_below: for each joint, the threshold below which a command is replaced; NaN: never.
        closed_command: for each joint, the command that replaces it; NaN if none does.
    """

    closes_below: tuple[float, ...]
    closed_command: tuple[float, ...]

    def __bool__(self) -> bool:
        return not all(map(math.isnan, self.closes_below))

    @classmethod
    def of(cls, config: Mapping[str, Any], spec: RobotSpec) -> Self:
        """Returns what a bundle asks for, or else what its robot does.

        Args:
            config: a bundle's config.json as plain data; empty without a bundle.
            spec: the robot that is driven, with the limits in force; a closed gripper is commanded
                within them.

        Raises:
            ConfigError: a value is not a number, or only one of the two is known.
        """
        section = config.get("inference")
        section = section if isinstance(section, Mapping) else {}
        below, closed = GRIPPER_CLOSINGS.get(spec.name, (None, None))
        below = _number(section, "gripper_threshold", below)
        closed = _number(section, "gripper_closed", closed)
        if (below is None) != (closed is None):
            missing = "gripper_threshold" if below is None else "gripper_closed"
            raise ConfigError(f"inference.{missing}: expected a number beside the other, got none")
        grippers = zip(gripper_joints(spec), spec.lower, spec.upper, strict=True)
        commands = [
            min(max(closed, lower), upper) if is_gripper and closed is not None else math.nan
            for is_gripper, lower, upper in grippers
        ]
        return cls(
            closes_below=tuple(
                math.nan if below is None or math.isnan(command) else below for command in commands
            ),
            closed_command=tuple(commands),
        )


def _number(section: Mapping[str, Any], name: str, default: float | None) -> float | None:
    value = section.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"inference.{name}: expected a finite number, got {value!r:.80}")
    return float(value)
