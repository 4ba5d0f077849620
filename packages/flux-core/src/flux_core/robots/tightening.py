"""Limits that a user makes tighter for one run: tighter than those in force, never wider."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..config import did_you_mean
from ..errors import UsageError
from .spec import RobotSpec, with_limits

RATE_OPTIONS = {
    "max_velocity": "--max-velocity",
    "max_acceleration": "--max-acceleration",
    "max_jerk": "--max-jerk",
}
"""The option that tightens each rate."""
POSITION_OPTION = "--limit"


@dataclass(frozen=True, kw_only=True)
class RateTightening:
    """Tighter limits of one kind, such as velocities.

    Attributes:
        share: of every joint's limit, above 0 and at most 1.
        joints: the limits of single joints, in the joint's unit; the tighter of both applies.
    """

    share: float = 1.0
    joints: Mapping[str, float] = field(default_factory=dict[str, float])

    def __bool__(self) -> bool:
        return self.share != 1.0 or bool(self.joints)

    def apply(
        self, option: str, names: Sequence[str], limits: Sequence[float]
    ) -> tuple[float, ...]:
        """Returns the tighter limits, one for each of `names`.

        Raises:
            UsageError: a value is wider than the limit, or no share or limit at all.
        """
        if not 0 < self.share <= 1:
            raise UsageError(f"{option}: expected above 0% and at most 100%, got {self.share:%}")
        for joint, value in self.joints.items():
            limit = limits[names.index(joint)]
            # Written so that a NaN fails.
            if not 0 < value <= limit:
                raise UsageError(
                    f"{option}: {joint}: expected above 0 and at most {limit!r}, the limit in "
                    f"force, got {value!r}. Options may tighten limits, never widen them"
                )
        return tuple(
            min(limit * self.share, self.joints.get(joint, math.inf))
            for joint, limit in zip(names, limits, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class Tightening:
    """The limits that a user makes tighter for one run.

    Attributes:
        position: joint -> smallest and largest command, in the joint's unit.
        max_velocity: in the joint's unit per second.
        max_acceleration: in the joint's unit per second squared.
        max_jerk: in the joint's unit per second cubed.
    """

    position: Mapping[str, tuple[float, float]] = field(
        default_factory=dict[str, tuple[float, float]]
    )
    max_velocity: RateTightening = field(default_factory=RateTightening)
    max_acceleration: RateTightening = field(default_factory=RateTightening)
    max_jerk: RateTightening = field(default_factory=RateTightening)

    def __bool__(self) -> bool:
        return bool(self.position) or any(getattr(self, name) for name in RATE_OPTIONS)

    def apply(self, spec: RobotSpec) -> RobotSpec:
        """Returns the description with tighter limits.

        Args:
            spec: the limits in force. For a real robot, see `motion_limits`, which completes them.

        Raises:
            UsageError: a limit is wider than in `spec`, is not in `spec`, or is of an unknown
                joint. The message begins with the option.
        """
        self.check_joints(spec.name, spec.joint_names)
        lower, upper = self.positions(spec.joint_names, spec.lower, spec.upper)
        rates: dict[str, tuple[float, ...]] = {}
        for name, option in RATE_OPTIONS.items():
            rate: RateTightening = getattr(self, name)
            if rate and not getattr(spec, name):
                raise UsageError(
                    f"{option}: robot {spec.name} states no {name}, and a simulated robot has no "
                    f"default. Leave the option out"
                )
            if rate:
                rates[name] = rate.apply(option, spec.joint_names, getattr(spec, name))
        return with_limits(spec, lower=lower, upper=upper, **rates)

    def positions(
        self, names: Sequence[str], lower: Sequence[float], upper: Sequence[float]
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Returns the tighter `lower` and `upper`.

        Raises:
            UsageError: a position limit is wider, or leaves no range.
        """
        lows, highs = list(lower), list(upper)
        for joint, (low, high) in self.position.items():
            place = names.index(joint)
            # Written so that a NaN fails.
            if not lower[place] <= low < high <= upper[place]:
                raise UsageError(
                    f"{POSITION_OPTION}: {joint}: expected a range within {lower[place]!r}:"
                    f"{upper[place]!r}, the limits in force, got {low!r}:{high!r}. Options may "
                    f"tighten limits, never widen them"
                )
            lows[place], highs[place] = low, high
        return tuple(lows), tuple(highs)

    def check_joints(self, robot: str, names: Sequence[str]) -> None:
        """Refuses joints that the robot does not have.

        Raises:
            UsageError: the message names the joints that it has.
        """
        named = {POSITION_OPTION: self.position}
        named |= {option: getattr(self, name).joints for name, option in RATE_OPTIONS.items()}
        for option, joints in named.items():
            for joint in joints:
                if joint not in names:
                    raise UsageError(
                        f"{option}: robot {robot} has no joint {joint!r}."
                        f"{did_you_mean(joint, names)} Its joints are {', '.join(names)}"
                    )
