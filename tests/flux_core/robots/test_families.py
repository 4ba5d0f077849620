"""`aloha` is a family: what its variants share, and what a bundle that says only `aloha` means."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from flux_core.errors import ConfigError, RobotError
from flux_core.robots import (
    FAMILIES,
    ROBOT_SPECS,
    GripperClosing,
    RobotSpec,
    Tightening,
    family_of,
    gripper_joints,
    is_called,
    limits_in_force,
    motion_limits,
    variants_of,
)

FAMILY, AGILEX, VIPERX = (ROBOT_SPECS[name] for name in ("aloha", "aloha-agilex", "aloha-viperx"))
each_variant = pytest.mark.parametrize("variant", [AGILEX, VIPERX], ids=lambda spec: spec.name)


def test_names_of_the_family() -> None:
    assert variants_of("aloha") == ("aloha-agilex", "aloha-viperx") == FAMILIES["aloha"]
    assert (variants_of("ur3"), family_of("ur3"), family_of("aloha")) == ((), None, None)
    assert family_of("aloha-agilex") == "aloha" and is_called("aloha-agilex", "aloha")
    assert is_called("ur3", "ur3") and not is_called("aloha-agilex", "aloha-viperx")
    assert not is_called("aloha", "aloha-agilex"), "the family is no robot that can be driven"


@each_variant
def test_variants_share_names_cameras_and_rate(variant: RobotSpec) -> None:
    for field in ("joint_names", "cameras", "control_hz"):
        assert getattr(variant, field) == getattr(FAMILY, field)
    assert gripper_joints(variant) == ((False,) * 6 + (True,)) * 2


def test_agilexs_arms_have_other_ranges_and_a_gripper_in_metres() -> None:
    shoulder, elbow, gripper = (AGILEX.joint_names.index(f"left_{n}") for n in NAMES)
    assert (AGILEX.lower[shoulder], AGILEX.upper[shoulder]) == (0.0, 3.14)
    assert (AGILEX.lower[elbow], AGILEX.upper[elbow]) == (-2.967, 0.0)
    assert AGILEX.units[gripper] == "m" and AGILEX.lower[gripper] == -0.01
    assert 0.07 <= AGILEX.upper[gripper] <= 0.1
    limits = motion_limits(AGILEX)
    assert limits.max_following_error[gripper] == pytest.approx(0.11), "it may hold something"
    assert limits.start_tolerance[gripper] == 0.01


NAMES = ("shoulder", "elbow", "gripper")


@pytest.mark.parametrize("name", ["aloha-agilex", "aloha-viperx", "ur3", "ur5e", "ur10e"])
def test_limits_of_acceleration_and_jerk_are_above_what_demonstrations_need(name: str) -> None:
    """The 99.9 % of the fastest joint and of the fastest finger of a Unitree G1."""
    spec = ROBOT_SPECS[name]
    for place, is_gripper in enumerate(gripper_joints(spec)):
        unit = 0.08 if spec.units[place] == "m" else 1.0
        acceleration, jerk = (125 * unit, 5800 * unit) if is_gripper else (17.0, 960.0)
        assert spec.max_acceleration[place] >= 1.45 * acceleration
        assert spec.max_jerk[place] >= 1.45 * jerk


def test_the_limits_that_bundles_of_a_ur3_carry_are_not_wider_than_its_driver() -> None:
    """Bundles of before state accelerations and jerks that were derived from the velocity."""
    spec = ROBOT_SPECS["ur3"]
    acceleration = tuple(value / 0.2 for value in spec.max_velocity)
    carried = replace(
        spec, max_acceleration=acceleration, max_jerk=tuple(x / 0.05 for x in acceleration)
    )
    assert limits_in_force(spec, carried).max_acceleration == acceleration


@each_variant
def test_a_bundle_of_the_family_has_the_drivers_limits(variant: RobotSpec) -> None:
    assert limits_in_force(variant, FAMILY) == variant
    limits = motion_limits(variant, FAMILY)
    assert limits.spec.units == variant.units
    assert {source for row in limits.sources.values() for source in row} <= {
        "the driver",
        *(s for row in motion_limits(variant).sources.values() for s in row),
    }


@each_variant
def test_what_somebody_tightened_in_the_familys_description_is_kept(variant: RobotSpec) -> None:
    slow = replace(FAMILY, max_velocity=(0.5, *FAMILY.max_velocity[1:]))
    found = limits_in_force(variant, slow)
    assert found.max_velocity == (0.5, *variant.max_velocity[1:])
    assert motion_limits(variant, slow).sources["max_velocity"][0] == "the bundle"
    wide = replace(FAMILY, lower=(-6.0, *FAMILY.lower[1:]))
    with pytest.raises(RobotError, match="lower: left_waist: the driver allows at least"):
        limits_in_force(variant, wide)


def test_a_bundle_of_one_variant_does_not_fit_the_other() -> None:
    message = "name: the driver has 'aloha-agilex', the bundle has 'aloha-viperx'"
    with pytest.raises(RobotError, match=message):
        limits_in_force(AGILEX, VIPERX)
    with pytest.raises(RobotError, match="the driver has 'aloha-sim', the bundle has 'aloha'"):
        limits_in_force(ROBOT_SPECS["aloha-sim"], FAMILY)


def test_agilexs_gripper_closes_firmly_below_the_originals_threshold() -> None:
    closing = GripperClosing.of({}, AGILEX)
    assert closing and closing.closes_below[6::7] == (0.05, 0.05)
    assert closing.closed_command[6::7] == (-0.01, -0.01)
    assert all(map(math.isnan, closing.closes_below[:6]))
    assert not GripperClosing.of({}, VIPERX) and not GripperClosing.of({}, ROBOT_SPECS["ur3"])


def test_a_bundle_may_say_how_grippers_close() -> None:
    section = {"inference": {"gripper_threshold": 0.3, "gripper_closed": 0}}
    closing = GripperClosing.of(section, VIPERX)
    assert closing.closes_below[6::7] == (0.3, 0.3) and closing.closed_command[6::7] == (0, 0)
    assert GripperClosing.of({"inference": {"gripper_threshold": -1.0}}, AGILEX).closes_below[6] < 0
    narrow = replace(AGILEX, lower=(*AGILEX.lower[:6], 0.0, *AGILEX.lower[7:]))
    assert GripperClosing.of({}, narrow).closed_command[6] == 0.0, "within the limits in force"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"gripper_threshold": "a"}, "inference.gripper_threshold: expected a finite number"),
        ({"gripper_closed": math.nan}, "inference.gripper_closed: expected a finite number"),
        ({"gripper_threshold": 0.5}, "inference.gripper_closed: expected a number beside"),
        ({"gripper_closed": 0.5}, "inference.gripper_threshold: expected a number beside"),
    ],
)
def test_a_closing_that_is_not_complete_is_refused(
    section: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        GripperClosing.of({"inference": section}, VIPERX)


def test_units_of_lerobot_have_tolerances_and_grippers() -> None:
    spec = RobotSpec(
        name="so101_follower",
        joint_names=("shoulder_pan.pos", "gripper.pos"),
        lower=(-100.0, 0.0),
        upper=(100.0, 100.0),
        max_velocity=(200.0, 400.0),
        units=("percent", "percent"),
        cameras=(),
        control_hz=30.0,
    )
    assert gripper_joints(spec) == (False, True)
    assert motion_limits(spec).start_tolerance == (5.0, 5.0)
    degrees = replace(spec, units=("degrees", "percent"))
    assert motion_limits(degrees).start_tolerance == (3.0, 5.0)
    assert [line.split()[1] for line in motion_limits(degrees).lines()[1:3]] == ["deg", "%"]


def test_a_prepare_pose_is_within_the_limits() -> None:
    assert len(AGILEX.prepare_pose) == 14
    with pytest.raises(RobotError, match="prepare_pose: left_waist: expected -2.6179 to 2.6179"):
        replace(AGILEX, prepare_pose=(3.0, *AGILEX.prepare_pose[1:]))
    with pytest.raises(RobotError, match="prepare_pose: expected 14 values, got 1"):
        replace(AGILEX, prepare_pose=(0.0,))


def test_a_prepare_pose_of_the_bundle_is_taken_and_stays_inside_tighter_limits() -> None:
    pose = (0.5, *AGILEX.prepare_pose[1:])
    carried = replace(AGILEX, prepare_pose=pose)
    assert limits_in_force(AGILEX, carried).prepare_pose == pose
    assert motion_limits(AGILEX, carried).spec.prepare_pose == pose
    assert motion_limits(AGILEX, FAMILY).spec.prepare_pose == AGILEX.prepare_pose
    narrow = Tightening(position={"left_waist": (-0.1, 0.1)})
    assert motion_limits(AGILEX, carried, narrow).spec.prepare_pose == (0.1, *pose[1:])
    assert narrow.apply(AGILEX).prepare_pose == AGILEX.prepare_pose


def test_the_published_recordings_of_agilexs_aloha_are_within_its_limits() -> None:
    """FluxVLA's statistics: the smallest and largest states of 315,371 frames, in radians."""
    lowest = (-0.973, 0.949, -2.157, -1.741, -1.151, -1.454)
    highest = (0.934, 2.569, -0.167, 1.757, 1.207, 2.134)
    for side in (0, 7):
        for joint in range(6):
            assert AGILEX.lower[side + joint] <= lowest[joint]
            assert highest[joint] <= AGILEX.upper[side + joint]
