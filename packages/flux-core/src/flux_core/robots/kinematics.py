"""A robot's geometry as plain data: where it is described, or its Denavit-Hartenberg table."""

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
        joint: which of the robot's joints it is of.
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
    """Where a robot's links are, for those who want to know the pose of its hand.

    Attributes:
        urdf: name of a URDF file or package, as its author publishes it; nothing opens it.
        base_link: the URDF's link that stands still.
        tip_link: the URDF's link that poses are given of.
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
            raise RobotError("kinematics.urdf: base_link and tip_link are its links; got no urdf")

    def check_joints(self, joint_names: tuple[str, ...]) -> None:
        """Refuses a table of other joints than the robot's.

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
