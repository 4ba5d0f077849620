"""Robot descriptions: joints, limits, cameras, units."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_exports

if TYPE_CHECKING:
    from .built_in import ROBOT_SPECS as ROBOT_SPECS
    from .carried import carried_robot as carried_robot
    from .embodiments import EMBODIMENTS as EMBODIMENTS
    from .embodiments import embodiment_number as embodiment_number
    from .families import FAMILIES as FAMILIES
    from .families import described_as as described_as
    from .families import family_of as family_of
    from .families import gripper_joints as gripper_joints
    from .families import is_called as is_called
    from .families import variants_of as variants_of
    from .gripper_closing import GripperClosing as GripperClosing
    from .kinematics import DHJoint as DHJoint
    from .kinematics import Kinematics as Kinematics
    from .limits import limits_in_force as limits_in_force
    from .lookup import DRIVER_GROUP as DRIVER_GROUP
    from .lookup import SPEC_GROUP as SPEC_GROUP
    from .lookup import robot_spec as robot_spec
    from .lookup import robot_spec_names as robot_spec_names
    from .motion import MotionLimits as MotionLimits
    from .motion import motion_limits as motion_limits
    from .motion import stated_rates as stated_rates
    from .operators import AlohaOperator as AlohaOperator
    from .operators import UROperator as UROperator
    from .providers import call as call
    from .providers import describe as describe
    from .providers import distribution as distribution
    from .providers import load as load
    from .providers import one_line as one_line
    from .providers import provided_names as provided_names
    from .providers import provider as provider
    from .spec import RobotSpec as RobotSpec
    from .switches import check_switches as check_switches
    from .tightening import RateTightening as RateTightening
    from .tightening import Tightening as Tightening

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "built_in": ("ROBOT_SPECS",),
        "carried": ("carried_robot",),
        "embodiments": ("EMBODIMENTS", "embodiment_number"),
        "families": (
            "FAMILIES",
            "described_as",
            "family_of",
            "gripper_joints",
            "is_called",
            "variants_of",
        ),
        "gripper_closing": ("GripperClosing",),
        "kinematics": ("DHJoint", "Kinematics"),
        "limits": ("limits_in_force",),
        "lookup": ("DRIVER_GROUP", "SPEC_GROUP", "robot_spec", "robot_spec_names"),
        "motion": ("MotionLimits", "motion_limits", "stated_rates"),
        "operators": ("AlohaOperator", "UROperator"),
        "providers": (
            *("call", "describe", "distribution", "load", "one_line"),
            *("provided_names", "provider"),
        ),
        "spec": ("RobotSpec",),
        "switches": ("check_switches",),
        "tightening": ("RateTightening", "Tightening"),
    },
)
