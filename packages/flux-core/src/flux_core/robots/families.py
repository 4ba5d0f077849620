"""Robots that share a name, joints and cameras, but not their arms: a family and its variants.

ALOHA is built with ViperX arms (Trossen's) and with Piper arms (AgileX's). Their joints have the
same names and order, and other ranges, signs and units. Data, checkpoints and bundles may say only
`aloha`; which arms they mean must then be said, because nothing in them tells.
"""

from __future__ import annotations

from dataclasses import replace

from .built_in import ROBOT_SPECS
from .spec import RobotSpec

FAMILIES = {"aloha": ("aloha-agilex", "aloha-viperx")}
"""Family -> its variants."""
_LIMITS = ("lower", "upper", "max_velocity", "max_acceleration", "max_jerk")
_TOLERANCES = ("start_tolerance", "max_following_error", "prepare_pose")


def variants_of(name: str) -> tuple[str, ...]:
    """Returns the variants of a family; empty for the name of a robot."""
    return FAMILIES.get(name, ())


def family_of(name: str) -> str | None:
    """Returns the family of a variant; None for any other name."""
    return next((family for family, variants in FAMILIES.items() if name in variants), None)


def is_called(robot: str, name: str) -> bool:
    """Whether data that names its robot `name` may be of `robot`: that name, or its family's."""
    return name in (robot, family_of(robot))


def gripper_joints(spec: RobotSpec) -> tuple[bool, ...]:
    """Returns for each joint whether it is a gripper, whose commands are never relative to a state.

    A joint is one if its unit is `normalized`; if its unit is `percent` and its name has the word
    gripper; or if the joint of that name in the robot's family is one.
    """
    family = family_of(spec.name)
    of_family = ROBOT_SPECS[family] if family else spec
    normalized = {
        joint
        for each in (spec, of_family)
        for joint, unit in zip(each.joint_names, each.units, strict=True)
        if unit == "normalized"
    }
    return tuple(
        joint in normalized or (unit == "percent" and "gripper" in joint)
        for joint, unit in zip(spec.joint_names, spec.units, strict=True)
    )


def described_as(driver: RobotSpec, carried: RobotSpec) -> RobotSpec:
    """Returns a family's description in a bundle as one of the driver's variant.

    The family's own limits and units say nothing about the variant, so the driver's stand in for
    them. A limit that the bundle states otherwise than the family was tightened by somebody, and
    is kept.

    Args:
        driver: the description from the robot's driver.
        carried: the one in a bundle or config; returned as it is unless it is of the driver's
            family.
    """
    if carried.name != family_of(driver.name) or carried.joint_names != driver.joint_names:
        return carried
    family = ROBOT_SPECS[carried.name]
    fields: dict[str, tuple[float, ...]] = {}
    for field in _LIMITS:
        ours, theirs, known = (getattr(spec, field) for spec in (driver, carried, family))
        if theirs and ours:
            rows = zip(ours, theirs, known, strict=True)
            fields[field] = tuple(our if their == own else their for our, their, own in rows)
        else:
            fields[field] = ours or theirs
    for field in _TOLERANCES:
        fields[field] = getattr(carried, field) or getattr(driver, field)
    return replace(carried, name=driver.name, units=driver.units, **fields)
