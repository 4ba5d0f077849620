"""Robots as policies see them: joints, limits, cameras, units."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_exports

if TYPE_CHECKING:
    from .operators import AlohaOperator as AlohaOperator
    from .operators import UROperator as UROperator
    from .spec import ROBOT_SPECS as ROBOT_SPECS
    from .spec import RobotSpec as RobotSpec
    from .spec import robot_spec as robot_spec

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "operators": ("AlohaOperator", "UROperator"),
        "spec": ("ROBOT_SPECS", "RobotSpec", "robot_spec"),
    },
)
