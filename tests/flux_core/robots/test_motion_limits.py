"""The complete limits of a real robot: every value, where it comes from, and who may tighten it."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_core.config import bind, unbind
from flux_core.errors import ConfigError, RobotError, UsageError
from flux_core.robots import (
    ROBOT_SPECS,
    RateTightening,
    RobotSpec,
    Tightening,
    carried_robot,
    limits_in_force,
    motion_limits,
    stated_rates,
)

from .test_spec import DIFFERENCES, SPEC

BARE = dataclasses.replace(SPEC, max_acceleration=(), max_jerk=())
FULL = dataclasses.replace(
    SPEC,
    start_tolerance=(0.02, 0.0, 0.001),
    max_following_error=(0.3, 0.2, 0.01),
    holds_without_power=True,
)
TUPLES = (
    *("lower", "upper", "max_velocity", "max_acceleration", "max_jerk"),
    *("start_tolerance", "max_following_error", "max_border_jump"),
)


def test_the_new_fields_round_trip_through_json() -> None:
    tree = json.loads(json.dumps(unbind(FULL), allow_nan=False))
    assert bind(RobotSpec, tree, "inference.robot") == FULL
    assert tree["start_tolerance"] == [0.02, 0.0, 0.001] and tree["holds_without_power"] is True


def test_a_description_of_version_1_is_read_and_holds_nothing_without_power() -> None:
    tree = unbind(SPEC) | {"schema_version": 1}
    for name in ("start_tolerance", "max_following_error", "holds_without_power"):
        del tree[name]
    spec = carried_robot({"inference": {"robot": tree}})
    assert spec is not None and spec == SPEC and not spec.holds_without_power


def test_a_newer_version_is_refused_before_its_unknown_fields() -> None:
    tree = unbind(SPEC) | {"schema_version": 4, "max_torque": [1.0] * 3}
    with pytest.raises(ConfigError, match=r"schema_version: expected 1 to 3, got 4. Install the"):
        carried_robot({"inference": {"robot": tree}})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"start_tolerance": (0.1, -0.1, 0.1)}, "elbow: expected a finite number of at least 0"),
        ({"start_tolerance": (0.1, math.nan, 0.1)}, "elbow: expected a finite number of at le"),
        ({"start_tolerance": (0.1,)}, "start_tolerance: expected 3 values, got 1"),
        ({"max_following_error": (0.1, 0.0, 0.1)}, "elbow: expected a finite number above 0"),
        ({"max_following_error": (math.inf,) * 3}, "shoulder: expected a finite number above 0"),
        ({"holds_without_power": 1}, "holds_without_power: expected True or False, got 1"),
        ({**DIFFERENCES, "start_tolerance": (0.1,) * 3}, "start_tolerance: expected none: "),
        (
            {**DIFFERENCES, "max_following_error": (0.1,) * 3},
            "max_following_error: expected none: commands are differences",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_its_field(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(RobotError, match=expected):
        dataclasses.replace(SPEC, **changes)


def test_the_tighter_value_is_in_force_and_the_brakes_are_the_drivers() -> None:
    tight = dataclasses.replace(FULL, start_tolerance=(0.01, 0.0, 0.0), holds_without_power=False)
    found = limits_in_force(FULL, tight)
    assert found.start_tolerance == (0.01, 0.0, 0.0) and found.holds_without_power
    assert limits_in_force(FULL, SPEC).max_following_error == FULL.max_following_error
    assert not limits_in_force(SPEC, FULL).holds_without_power
    for field in ("start_tolerance", "max_following_error"):
        wide = dataclasses.replace(FULL, **{field: (0.5,) * 3})
        with pytest.raises(RobotError, match=f"{field}: shoulder: the driver allows at most"):
            limits_in_force(FULL, wide)


@pytest.mark.parametrize("spec", [SPEC, BARE, FULL, ROBOT_SPECS["aloha"], ROBOT_SPECS["ur3"]])
def test_every_limit_of_a_real_robot_is_complete_and_has_a_source(spec: RobotSpec) -> None:
    limits = motion_limits(spec)
    for name in TUPLES:
        values: tuple[float, ...] = getattr(limits, name)
        assert len(values) == len(limits.sources[name]) == spec.action_dim
        assert all(math.isfinite(value) for value in values)
        stated: tuple[float, ...] = getattr(spec, name, ())
        assert values == stated or not stated, name
        wanted = "the driver" if stated else "default"
        assert all(source.startswith(wanted) for source in limits.sources[name]), name
    assert json.loads(json.dumps(limits.as_data(), allow_nan=False)) == limits.as_data()
    assert set(limits.sources) == set(TUPLES)


def test_the_defaults_follow_from_the_velocity_and_the_unit() -> None:
    limits = motion_limits(BARE)
    assert limits.max_acceleration == pytest.approx((10.0, 10.0, 0.5))
    assert limits.max_jerk == pytest.approx((200.0, 200.0, 10.0))
    assert limits.start_tolerance == (0.05, 0.05, 0.01)
    assert limits.max_following_error == pytest.approx((0.2, 0.2, 0.01))
    assert limits.max_border_jump == pytest.approx((0.4, 0.4, 0.02))
    gripper = motion_limits(ROBOT_SPECS["aloha"])
    assert gripper.max_following_error[-1] == 1.0  # one that holds something is never closed


def test_tightening_the_velocity_leaves_the_defaults_of_the_other_limits() -> None:
    slow = Tightening(max_velocity=RateTightening(share=0.1))
    limits, before = motion_limits(BARE, None, slow), motion_limits(BARE)
    assert limits.max_velocity == pytest.approx((0.2, 0.2, 0.01))
    assert set(limits.sources["max_velocity"]) == {"--max-velocity"}
    for name in TUPLES[3:]:
        assert getattr(limits, name) == getattr(before, name)


def test_a_bundle_never_widens_a_default() -> None:
    carried = dataclasses.replace(BARE, max_acceleration=(4.0, 99.0, 0.5))
    limits = motion_limits(BARE, carried)
    assert limits.max_acceleration == pytest.approx((4.0, 10.0, 0.5))
    assert limits.sources["max_acceleration"][0] == "the bundle"
    assert limits.sources["max_acceleration"][1].startswith("default")
    with pytest.raises(RobotError, match="max_velocity: elbow: the driver allows at most"):
        motion_limits(BARE, dataclasses.replace(BARE, max_velocity=(2.0, 3.0, 0.1)))


def test_a_robot_of_differences_has_only_the_limits_of_its_commands() -> None:
    limits = motion_limits(ROBOT_SPECS["libero"])
    assert set(limits.sources) == {"lower", "upper", "max_velocity"}
    assert limits.max_border_jump == limits.max_acceleration == limits.start_tolerance == ()


def test_the_text_has_a_row_per_joint_and_a_source_per_column() -> None:
    tighter = Tightening(
        position={"elbow": (-1.0, 1.0)}, max_jerk=RateTightening(joints={"slide": 2.5})
    )
    lines = motion_limits(FULL, None, tighter).lines()
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:4]}
    assert rows["elbow"][:3] == ["rad", "-1", "1"]
    assert "lower: --limit for elbow; otherwise the driver" in lines
    assert "max_jerk: --max-jerk for slide; otherwise the driver" in lines
    assert lines[-1].startswith("holds_without_power: True, so stop categories 0, 1 and 2")


@pytest.mark.parametrize(
    ("tightening", "expected"),
    [
        (
            Tightening(max_velocity=RateTightening(joints={"elbow": 2.1})),
            "--max-velocity: elbow: expected above 0 and at most 2.0, the limit in force, got 2.1.",
        ),
        (
            Tightening(max_velocity=RateTightening(joints={"elbow": math.nan})),
            "--max-velocity: elbow: expected above 0 and at most 2.0, the limit in force, got nan",
        ),
        (
            Tightening(max_jerk=RateTightening(joints={"elbow": 0.0})),
            "--max-jerk: elbow: expected above 0 and at most 40.0, the limit in force, got 0.0",
        ),
        (
            Tightening(position={"slide": (-0.1, 0.4)}),
            "--limit: slide: expected a range within 0.0:0.4, the limits in force, got -0.1:0.4.",
        ),
        (Tightening(position={"slide": (0.3, 0.2)}), "--limit: slide: expected a range within"),
        (
            Tightening(max_acceleration=RateTightening(joints={"elbw": 1.0})),
            "--max-acceleration: robot my-arm has no joint 'elbw'. Did you mean 'elbow'? Its "
            "joints are shoulder, elbow, slide",
        ),
    ],
)
def test_an_option_that_widens_or_names_no_joint_is_refused(
    tightening: Tightening, expected: str
) -> None:
    for apply in (lambda: motion_limits(SPEC, None, tightening), lambda: tightening.apply(SPEC)):
        with pytest.raises(UsageError) as caught:
            apply()
        assert str(caught.value).startswith(expected) and "\n" not in str(caught.value)


def test_a_limit_that_a_simulated_robot_does_not_state_cannot_be_tightened() -> None:
    with pytest.raises(UsageError, match="--max-jerk: robot my-arm states no max_jerk"):
        Tightening(max_jerk=RateTightening(share=0.5)).apply(BARE)


def test_without_options_nothing_changes() -> None:
    assert not Tightening()
    for spec in (*ROBOT_SPECS.values(), SPEC, FULL):
        assert Tightening().apply(spec) == spec


@given(
    share=st.floats(1e-6, 1.0),
    values=st.tuples(st.floats(1e-6, 2.0), st.floats(1e-6, 2.0), st.floats(1e-6, 0.1)),
)
def test_what_is_in_force_is_never_wider_than_any_of_its_sources(
    share: float, values: tuple[float, ...]
) -> None:
    joints = dict(zip(SPEC.joint_names, values, strict=True))
    carried = dataclasses.replace(SPEC, max_velocity=values)
    asked = Tightening(max_velocity=RateTightening(share=share, joints=joints))
    found = motion_limits(SPEC, carried, asked).max_velocity
    for value, most, driver in zip(found, values, SPEC.max_velocity, strict=True):
        assert value <= most and value <= driver and value <= share * most


def test_the_filter_of_a_simulated_robot_gets_both_rates_or_neither() -> None:
    assert stated_rates(BARE) == ((), ())
    assert stated_rates(SPEC) == (SPEC.max_acceleration, SPEC.max_jerk)
    only = dataclasses.replace(SPEC, max_jerk=())
    assert stated_rates(only) == (SPEC.max_acceleration, pytest.approx((160.0, 160.0, 20.0)))


@pytest.mark.parametrize("name", ["aloha-sim", "libero"])
def test_simulated_robots_state_no_acceleration_and_no_jerk(name: str) -> None:
    assert stated_rates(ROBOT_SPECS[name]) == ((), ())
