"""A robot's geometry as plain data: a reference to a URDF, or a Denavit-Hartenberg table."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import RobotError

_LENGTHS = ("a", "d")
_ANGLES = ("alpha", "theta")


@dataclass(frozen=True, kw_only=True)
class DHJoint:
    """One row of a Denavit-Hartenberg table (the classic convention).

    Attributes:
        joint: the name of the robot's joint.
        a: length of the link, metres.
        alpha: twist of the link, radians.
        d: offset along the joint's axis, metres.
        theta: offset of the joint's angle, radians.
    """

    joint: str
    a: float = 0.0
    alpha: float = 0.0
    d: float = 0.0
    theta: float = 0.0

    def __post_init__(self) -> None:
        for field in (*_LENGTHS, *_ANGLES):
            value = getattr(self, field)
            if not math.isfinite(value):
                unit = "metres" if field in _LENGTHS else "radians"
                raise RobotError(
                    f"joint {self.joint!r}, {field}: expected a finite number of {unit}, "
                    f"got {value!r}"
                )


@dataclass(frozen=True, kw_only=True)
class Kinematics:
    """A robot's geometry, from which the pose of its tip can be computed.

    Attributes:
        urdf: the name of a URDF file, as its author publishes it; flux does not open it.
        base_link: the URDF's fixed link.
        tip_link: the URDF's link whose pose is the robot's.
        dh: a Denavit-Hartenberg table, from the base to the tip.
    """

    urdf: str = ""
    base_link: str = ""
    tip_link: str = ""
    dh: tuple[DHJoint, ...] = ()

    def __post_init__(self) -> None:
        if not self.urdf and not self.dh:
            raise RobotError("kinematics: expected a urdf or a dh table, got neither")
        if not self.urdf and (self.base_link or self.tip_link):
            raise RobotError(
                "kinematics.urdf: expected a urdf with base_link and tip_link, got none"
            )

    def check_joints(self, joint_names: tuple[str, ...]) -> None:
        """Refuses a table whose joints are not the robot's.

        Raises:
            RobotError: a row's joint is unknown or has two rows.
        """
        rows = [row.joint for row in self.dh]
        for index, joint in enumerate(rows):
            if joint not in joint_names:
                raise RobotError(
                    f"kinematics.dh: expected rows of {', '.join(joint_names)}, got {joint!r}"
                )
            if joint in rows[:index]:
                raise RobotError(f"kinematics.dh: expected one row per joint, got two of {joint!r}")
