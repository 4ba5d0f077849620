"""The limits in force: the driver's limits, or tighter ones."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_core.errors import RobotError
from flux_core.robots import ROBOT_SPECS, RobotSpec, limits_in_force

from .test_spec import DIFFERENCES, SPEC

RATES = ("max_velocity", "max_acceleration", "max_jerk")
LIMITS = ("lower", "upper", *RATES)
POSITIONS, BY_DIFFERENCES = SPEC, dataclasses.replace(SPEC, **DIFFERENCES)
KINDS = pytest.mark.parametrize(
    "driver", [POSITIONS, BY_DIFFERENCES], ids=["positions", "differences"]
)


def changed(spec: RobotSpec, field: str, joint: int, by: float) -> RobotSpec:
    values = list(getattr(spec, field))
    values[joint] += by
    return dataclasses.replace(spec, **{field: tuple(values)})


@KINDS
@pytest.mark.parametrize("field", LIMITS)
@pytest.mark.parametrize("joint", [0, 1, 2])
def test_a_tighter_limit_is_in_force(driver: RobotSpec, field: str, joint: int) -> None:
    carried = changed(driver, field, joint, 0.05 if field == "lower" else -0.05)
    assert limits_in_force(driver, carried) == carried


@KINDS
@pytest.mark.parametrize("field", LIMITS)
@pytest.mark.parametrize("joint", [0, 1, 2])
@pytest.mark.parametrize("by", [0.05, 1e-12, 1e20])
def test_a_wider_limit_is_refused_with_both_values_and_the_joint(
    driver: RobotSpec, field: str, joint: int, by: float
) -> None:
    carried = changed(driver, field, joint, -by if field == "lower" else by)
    with pytest.raises(RobotError) as caught:
        limits_in_force(driver, carried)
    message = str(caught.value)
    assert message.startswith(f"{field}: {driver.joint_names[joint]}: the driver allows at ")
    for value in (getattr(driver, field)[joint], getattr(carried, field)[joint]):
        assert repr(value) in message
    assert "\n" not in message


@KINDS
def test_one_wider_limit_is_refused_even_beside_tighter_ones(driver: RobotSpec) -> None:
    tight = changed(changed(driver, "upper", 0, -0.5), "max_velocity", 1, -0.5)
    with pytest.raises(RobotError, match="^lower: slide: the driver allows at least 0.0"):
        limits_in_force(driver, changed(tight, "lower", 2, -0.01))


numbers = st.floats(0.0, 0.19)


@given(lows=st.tuples(*[numbers] * 3), highs=st.tuples(*[numbers] * 3))
def test_what_is_in_force_is_never_outside_either(
    lows: tuple[float, ...], highs: tuple[float, ...]
) -> None:
    carried = dataclasses.replace(
        SPEC,
        lower=tuple(a + b for a, b in zip(SPEC.lower, lows, strict=True)),
        upper=tuple(a - b for a, b in zip(SPEC.upper, highs, strict=True)),
    )
    found = limits_in_force(SPEC, carried)
    for side, pick in (("lower", max), ("upper", min), ("max_velocity", min)):
        both = zip(getattr(SPEC, side), getattr(carried, side), strict=True)
        assert getattr(found, side) == tuple(pick(pair) for pair in both)


def test_limits_missing_on_one_side_come_from_the_other() -> None:
    without = dataclasses.replace(SPEC, max_acceleration=(), max_jerk=())
    assert limits_in_force(SPEC, without) == SPEC
    assert limits_in_force(without, SPEC) == SPEC
    assert limits_in_force(without, without) == without


def test_cameras_and_kinematics_are_the_drivers() -> None:
    carried = dataclasses.replace(SPEC, cameras=("another",), kinematics=None)
    assert limits_in_force(SPEC, carried) == SPEC


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": "your-arm"}, "name: the driver has 'my-arm', the bundle has 'your-arm'"),
        (
            {"joint_names": ("elbow", "shoulder", "slide")},
            r"joint_names\[0\]: the driver has 'shoulder', the bundle has 'elbow'",
        ),
        (
            {"units": ("rad", "normalized", "m")},
            r"units\[1\]: the driver has 'rad', the bundle has 'normalized'",
        ),
        ({"control_hz": 20.1}, "control_hz: the driver runs at 20.0 Hz, the bundle at 20.1"),
        (
            {"rest_command": (0.0, 0.0, 0.2)},
            r"rest_command\[2\]: the driver has 0.1, the bundle has 0.2",
        ),
        (
            {"state_names": ("y", "x")},
            r"state_names\[0\]: the driver has 'x', the bundle has 'y'",
        ),
        (
            {"state_units": ("m", "rad")},
            r"state_units\[1\]: the driver has 'm', the bundle has 'rad",
        ),
        (
            {"state_names": ("x", "y", "z"), "state_units": ("m",) * 3},
            r"state_names: the driver has 2 \(x, y\), the bundle 3 \(x, y, z\)",
        ),
        (
            {"rest_command": (), "state_names": (), "state_units": ()},
            r"state_names: the driver has 2 \(x, y\), the bundle 0 \(none\)",
        ),
    ],
)
def test_another_robot_is_refused_with_both_values(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(RobotError, match=expected):
        limits_in_force(BY_DIFFERENCES, dataclasses.replace(BY_DIFFERENCES, **changes))


def test_a_robot_of_another_number_of_joints_is_refused() -> None:
    with pytest.raises(
        RobotError, match=r"joint_names: the driver has 7 \(.*\), the bundle 14 \(l"
    ):
        limits_in_force(
            dataclasses.replace(ROBOT_SPECS["ur3"], name="arm"),
            dataclasses.replace(ROBOT_SPECS["aloha"], name="arm"),
        )


@pytest.mark.parametrize("field", LIMITS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_bypassed_the_descriptions_check_is_still_refused(
    field: str, bad: float
) -> None:
    """The comparison does not rely on the description's own check."""
    widens = math.isnan(bad) or (bad < 0) == (field == "lower")
    forged = dataclasses.replace(SPEC)
    object.__setattr__(forged, field, (bad, *getattr(SPEC, field)[1:]))
    with pytest.raises(RobotError, match=f"{field}: shoulder" if widens else field):
        limits_in_force(SPEC, forged)
