"""The limits in force: the driver's, which a bundle or config may tighten but never widen."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RobotError
from .families import described_as
from .spec import RobotSpec, with_limits

OPTIONAL_LIMITS = ("max_acceleration", "max_jerk", "start_tolerance", "max_following_error")
_HZ_TOLERANCE = 1e-6


def limits_in_force(driver: RobotSpec, carried: RobotSpec) -> RobotSpec:
    """Returns the driver's description with the tighter of the two values for each limit.

    Args:
        driver: the description from the robot's driver.
        carried: the one in a bundle or config. Its cameras, kinematics and
            `holds_without_power` are ignored; where it states none of the optional limits, or no
            prepare pose, the driver's apply. It may be the one of the driver's family; see
            `described_as`.

    Raises:
        RobotError: names, their order, units, dimensions or rate differ, or a carried limit is
            wider than the driver's. The message begins with the field and states both values.
    """
    carried = described_as(driver, carried)
    _check_equal(driver, carried)
    joints = driver.joint_names
    _check_within("lower", joints, driver.lower, carried.lower, is_least=True)
    for field in ("upper", "max_velocity", *OPTIONAL_LIMITS):
        wanted = getattr(carried, field)
        allowed = getattr(driver, field)
        if wanted and allowed:
            _check_within(field, joints, allowed, wanted, is_least=False)
    return with_limits(
        driver,
        lower=carried.lower,
        upper=carried.upper,
        max_velocity=carried.max_velocity,
        prepare_pose=carried.prepare_pose or driver.prepare_pose,
        **{name: getattr(carried, name) or getattr(driver, name) for name in OPTIONAL_LIMITS},
    )


def _check_equal(driver: RobotSpec, carried: RobotSpec) -> None:
    if carried.name != driver.name:
        raise RobotError(f"name: the driver has {driver.name!r}, the bundle has {carried.name!r}")
    for field in ("joint_names", "units", "state_names", "state_units", "rest_command"):
        ours, theirs = getattr(driver, field), getattr(carried, field)
        if len(ours) != len(theirs):
            raise RobotError(
                f"{field}: the driver has {len(ours)} ({_listed(ours)}), the bundle "
                f"{len(theirs)} ({_listed(theirs)})"
            )
        for index, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            if our != their:
                raise RobotError(
                    f"{field}[{index}]: the driver has {our!r}, the bundle has {their!r}"
                )
    if not abs(driver.control_hz - carried.control_hz) <= _HZ_TOLERANCE:
        raise RobotError(
            f"control_hz: the driver runs at {driver.control_hz!r} Hz, the bundle at "
            f"{carried.control_hz!r}"
        )


def _check_within(
    field: str,
    joints: Sequence[str],
    allowed: Sequence[float],
    wanted: Sequence[float],
    *,
    is_least: bool,
) -> None:
    for joint, ours, theirs in zip(joints, allowed, wanted, strict=True):
        # Written so that a NaN fails.
        if not (theirs >= ours if is_least else theirs <= ours):
            raise RobotError(
                f"{field}: {joint}: the driver allows {'at least' if is_least else 'at most'} "
                f"{ours!r}, the bundle asks for {theirs!r}. A bundle may tighten the driver's "
                f"limits, never widen them"
            )


def _listed(values: Sequence[object]) -> str:
    text = ", ".join(map(str, values)) or "none"
    return text if len(text) <= 80 else f"{text[:77]}..."
