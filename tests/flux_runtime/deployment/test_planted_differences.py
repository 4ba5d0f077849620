"""A robot that differs from the one of the training in one way: the check names it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flux_core.errors import RobotError
from flux_core.robots import ROBOT_SPECS, RobotSpec
from flux_runtime.deployment import (
    CameraLook,
    DeploymentFacts,
    DeploymentReport,
    Observed,
    judge,
)

from . import scenes
from .scenes import CAMERAS, SPEC, START

FACTS = scenes.facts()
GOOD = scenes.observed()
RAD = [unit == "rad" for unit in SPEC.units]


def suspicions(
    observed: Observed = GOOD, facts: DeploymentFacts = FACTS, spec: RobotSpec = SPEC
) -> dict[str, bool]:
    """The names of what is suspected -> whether it refuses the robot."""
    return {found.name: found.is_hard for found in judge(facts, spec, observed).suspicions}


def line(observed: Observed, name: str, facts: DeploymentFacts = FACTS) -> str:
    """What is printed of a suspicion."""
    found = judge(facts, SPEC, observed).suspicions
    return next(each.line for each in found if each.name == name)


def with_state(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Observed:
    return replace(GOOD, state=change(np.array(GOOD.state)))


def with_images(change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> Observed:
    images = {name: look.image for name, look in GOOD.cameras.items()}
    return scenes.observed(images=dict(change(images)))


def with_look(name: str, **changes: Any) -> Observed:
    return replace(GOOD, cameras={**GOOD.cameras, name: replace(GOOD.cameras[name], **changes)})


def test_a_robot_as_in_training_is_not_suspected() -> None:
    findings = judge(FACTS, SPEC, GOOD).findings
    assert [found.line for found in findings if not found.is_ok] == []
    assert all(found.is_judged for found in findings)


def exchanged_arms(state: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([state[7:], state[:7]])


def negated(*joints: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def change(state: NDArray[Any]) -> NDArray[Any]:
        state[list(joints)] *= -1
        return state

    return change


def scaled(factor: float) -> Callable[[NDArray[Any]], NDArray[Any]]:
    return lambda state: np.where(RAD, state * factor, state).astype(np.float32)


def gripper_first(state: NDArray[Any]) -> NDArray[Any]:
    return state[[6, 0, 1, 2, 3, 4, 5, 13, 7, 8, 9, 10, 11, 12]]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (exchanged_arms, "arms_swapped"),
        (negated(2), "joint_sign"),
        (negated(9), "joint_sign"),
        (scaled(180 / math.pi), "joint_unit"),
        (scaled(1000), "joint_unit"),
        (gripper_first, "joint_order"),
        (lambda state: state[[1, 0, *range(2, 14)]], "joint_order"),
        (lambda state: state + np.where(np.arange(14) == 1, 2.5, 0), "start_pose"),
    ],
)
def test_what_is_wrong_with_the_joints_is_named(
    change: Callable[[NDArray[Any]], NDArray[Any]], name: str
) -> None:
    assert suspicions(with_state(change)) == {name: True}


def test_the_line_has_both_numbers_and_says_what_to_do() -> None:
    text = line(with_state(negated(2)), "joint_sign")
    assert text.startswith("joint_sign: left_elbow at -1.1")
    assert "recorded starts 1.1" in text and "Invert the joint in the driver" in text
    assert "\n" not in text


def test_a_robot_that_stands_elsewhere_is_a_warning() -> None:
    moved = with_state(lambda state: state + np.where(np.arange(14) == 7, 0.6, 0))
    assert suspicions(moved) == {"start_pose": False}
    assert "Move the robot to where episodes were started" in line(moved, "start_pose")


def test_a_gripper_that_is_closed_instead_of_open_is_a_warning() -> None:
    closed = with_state(lambda state: np.where(np.arange(14) == 6, 0.02, state))
    assert suspicions(closed) == {"start_pose": False}
    assert "which of its values is open" in line(closed, "start_pose")


def grippers_in(spec: RobotSpec, low: float, high: float) -> RobotSpec:
    """The same robot, whose grippers take `low` to `high`."""
    grippers = [name.endswith("gripper") for name in spec.joint_names]
    lower = [low if is_gripper else x for x, is_gripper in zip(spec.lower, grippers, strict=True)]
    upper = [high if is_gripper else x for x, is_gripper in zip(spec.upper, grippers, strict=True)]
    return replace(spec, lower=tuple(lower), upper=tuple(upper))


@pytest.mark.parametrize(("low", "high"), [(-0.01, 0.1), (0.0, 100.0)])
def test_grippers_of_another_unit_are_named(low: float, high: float) -> None:
    spec = grippers_in(SPEC, low, high)
    assert suspicions(spec=spec).get("gripper_unit") is True


def test_recorded_grippers_in_metres_are_named_on_a_robot_from_0_to_1() -> None:
    data = scenes.summary()
    for quantity in (data["state"], data["action"], data["start"]["state"]):
        for column in quantity.values():
            column[6], column[13] = 0.07 * column[6], 0.07 * column[13]
    in_metres = DeploymentFacts.from_summary(data)
    assert suspicions(facts=in_metres)["gripper_unit"] is True


def test_a_bundle_of_viperx_arms_is_refused_on_agilex_arms() -> None:
    agilex = ROBOT_SPECS["aloha-agilex"]
    assert suspicions(spec=agilex)["robot_ranges"] is True
    found = judge(FACTS, agilex, GOOD).suspicions
    text = next(each.line for each in found if each.name == "robot_ranges")
    assert "this robot's limits" in text and "aloha-agilex" in text


@pytest.mark.parametrize("pair", [(0, 1), (0, 2), (1, 2)])
def test_swapped_cameras_are_named(pair: tuple[int, int]) -> None:
    first, second = (CAMERAS[place] for place in pair)
    swapped = with_images(lambda images: {**images, first: images[second], second: images[first]})
    assert suspicions(swapped) == {"cameras_swapped": True}
    assert first in line(swapped, "cameras_swapped") and second in line(swapped, "cameras_swapped")


def test_three_exchanged_cameras_are_named() -> None:
    turned = with_images(lambda images: {CAMERAS[i - 1]: images[CAMERAS[i]] for i in range(3)})
    assert suspicions(turned) == {"cameras_swapped": True}


TURNED = {
    "upside down": lambda image: image[::-1, ::-1],
    "mirrored": lambda image: image[:, ::-1],
}


@pytest.mark.parametrize("words", TURNED)
def test_a_turned_image_is_named(words: str) -> None:
    turned = with_images(lambda images: {**images, "cam_high": TURNED[words](images["cam_high"])})
    assert suspicions(turned) == {"camera_view": True}
    assert words in line(turned, "camera_view")


def test_bgr_is_named() -> None:
    bgr = with_images(lambda images: {name: image[..., ::-1] for name, image in images.items()})
    assert suspicions(bgr) == {"camera_colour": True}
    assert "red and blue seem to be exchanged" in line(bgr, "camera_colour")


def test_a_grey_camera_is_named() -> None:
    def grey(images: dict[str, Any]) -> dict[str, Any]:
        mono = images["cam_high"].mean(axis=2, keepdims=True).astype(np.uint8)
        return {**images, "cam_high": mono.repeat(3, axis=2)}

    assert suspicions(with_images(grey)) == {"camera_colour": True}
    assert "grey" in line(with_images(grey), "camera_colour")


def test_a_grey_scene_cannot_tell_red_from_blue_and_says_so() -> None:
    data = scenes.summary(is_grey=True)
    images = {name: scenes.scene(name, 100, is_grey=True) for name in CAMERAS}
    judged = judge(DeploymentFacts.from_summary(data), SPEC, scenes.observed(images=images))
    colours = [found for found in judged.findings if found.name == "camera_colour"]
    assert judged.suspicions == () and len(colours) == len(CAMERAS)
    assert all("watched during the first episode" in found.found for found in colours)


def test_a_black_camera_is_named() -> None:
    black = with_images(lambda images: {**images, "cam_high": images["cam_high"] // 64})
    assert suspicions(black) == {"camera_black": True}


@pytest.mark.parametrize("changes", [{"num_different": 0}, {"num_images": 1, "num_different": 0}])
def test_a_frozen_camera_is_named(changes: dict[str, int]) -> None:
    assert suspicions(with_look("cam_left_wrist", **changes)) == {"camera_frozen": True}


def test_recordings_that_stand_still_do_not_make_a_camera_frozen() -> None:
    data = scenes.summary()
    for camera in data["cameras"].values():
        camera["changing"] = 0.0
    still = {name: replace(look, num_different=0) for name, look in GOOD.cameras.items()}
    assert not suspicions(replace(GOOD, cameras=still), DeploymentFacts.from_summary(data))


def test_a_missing_camera_is_named() -> None:
    left = with_images(lambda images: {name: images[name] for name in CAMERAS[:2]})
    assert suspicions(left) == {"camera_missing": True}
    assert "cam_right_wrist" in line(left, "camera_missing")


def test_images_of_another_shape_are_named() -> None:
    tall = with_images(lambda images: {**images, "cam_high": np.rot90(images["cam_high"])})
    assert suspicions(tall)["camera_size"] is True
    assert "96 x 128 pixels, recorded 128 x 96" in line(tall, "camera_size")


def test_half_the_rate_is_named() -> None:
    half = replace(SPEC, control_hz=25.0)
    assert suspicions(spec=half) == {"control_rate": True}
    allowed = replace(FACTS, may_change_rate=True)
    assert not suspicions(facts=allowed, spec=half)
    assert suspicions(replace(GOOD, state_hz=25.0)) == {"state_rate": False}
    assert suspicions(with_look("cam_high", hz=25.0)) == {"camera_rate": False}


def test_cameras_and_arms_at_30_hz_are_usual_at_50() -> None:
    looks = {name: replace(look, hz=30.0) for name, look in GOOD.cameras.items()}
    assert not suspicions(replace(GOOD, state_hz=30.0, cameras=looks))


def test_latency_above_the_trained_delay_is_named() -> None:
    assert suspicions(replace(GOOD, latency_s=0.5)) == {"latency": False}
    text = line(replace(GOOD, latency_s=0.5), "latency")
    assert "500 ms, 25.0 control steps, trained for at most 8" in text
    assert suspicions(with_look("cam_high", newest_age_s=0.4)) == {"latency": False}


def test_an_accepted_suspicion_no_longer_refuses_and_is_kept() -> None:
    observed = with_state(negated(2))
    judged = judge(FACTS, SPEC, observed)
    with pytest.raises(RobotError, match="joint_sign: left_elbow.*--accept joint_sign"):
        DeploymentReport.of(judged, ()).refuse_suspicious("arm")
    with pytest.raises(RobotError):
        DeploymentReport.of(judged, ["start_pose"]).refuse_suspicious("arm")
    report = DeploymentReport.of(judged, ["joint_sign"])
    report.refuse_suspicious("arm")
    data: Any = report.as_data()
    assert [each["name"] for each in data["accepted"]] == ["joint_sign"]


def test_an_older_bundle_says_nothing_and_refuses_nothing() -> None:
    judged = judge(DeploymentFacts(), SPEC, GOOD)
    assert not judged.suspicions
    unjudged = {found.name: found.found for found in judged.findings if not found.is_judged}
    assert {"robot_ranges", "start_pose", "control_rate"} <= set(unjudged)
    assert unjudged["start_pose"] == "not in this bundle"
    assert "does not say what it was trained on" in DeploymentReport.of(judged, ()).line()


def test_a_bundle_without_pictures_still_finds_what_needs_none() -> None:
    data = scenes.summary()
    for camera in data["cameras"].values():
        del camera["thumbnail"], camera["start"]
    known = DeploymentFacts.from_summary(data)
    assert not suspicions(facts=known)
    names = {found.name for found in judge(known, SPEC, GOOD).findings if not found.is_judged}
    assert {"cameras_swapped", "camera_view"} <= names
    black = with_images(lambda images: {**images, "cam_high": images["cam_high"] // 64})
    assert suspicions(black, known) == {"camera_black": True}


@pytest.mark.parametrize(
    "broken",
    [
        {"cameras": 3},
        {"cameras": {"cam_high": {"thumbnail": [[1, 2], [3, 4]], "mean": "red", "start": []}}},
        {"start": {"state": {"min": [1, 2], "max": [3]}}},
        {"state": {"min": [], "max": [], "q01": [], "q99": []}, "fps": None},
        {"grippers": {"left_gripper": {"state": {"closed": "0"}}}},
    ],
)
def test_a_summary_of_another_form_counts_as_not_said(broken: dict[str, Any]) -> None:
    judge(DeploymentFacts.from_summary({**scenes.summary(), **broken}), SPEC, GOOD)


def test_what_stands_still_is_seen_by_its_stamps() -> None:
    from flux_runtime.deployment import Look

    look, image = Look(("top",)), np.zeros((4, 4, 3), np.uint8)
    for tick in range(20):
        state = START.astype(np.float32)
        look.add(state, tick // 2 * 20_000_000, {"top": (image + tick // 10, 7)})
    seen = look.observed(0.2, 500_000_000)
    assert seen.state_hz == pytest.approx(50.0)
    camera: CameraLook = seen.cameras["top"]
    assert (camera.num_images, camera.hz) == (1, None)
