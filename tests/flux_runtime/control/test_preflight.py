"""What is refused before the first tick: bundles for other robots, and faulty robots."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flux_core.bundle.bundle import Bundle
from flux_core.errors import BundleError, RobotError
from flux_core.robots import motion_limits
from flux_core.types import Observation
from flux_runtime.control.preflight import (
    check_bundle_fits,
    check_decoder,
    check_encoding,
    check_golden,
    check_observation,
    excursions,
)
from flux_runtime.engines.golden_replay import compare_actions, replay_golden


class NumpyPolicy:
    """Repeats the computation of the tiny graphs and adds an error."""

    def __init__(self, fakes: Any, error: float = 0.0):
        self.fakes, self.error = fakes, error

    def infer(self, inputs: dict[str, np.ndarray], noise: np.ndarray) -> np.ndarray:
        actions = self.fakes.reference_actions(inputs, noise, 4)
        return actions[0] + np.float32(self.error)


def test_a_bundle_of_the_robot_fits(fakes: Any) -> None:
    check_bundle_fits(fakes.toy_manifest(), fakes.toy_spec())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": "ur3"}, "robots: expected ur3, got toy"),
        ({"cameras": ("cam_a",)}, "cameras: expected cameras of robot toy (cam_a), got cam_b"),
        ({"control_hz": 30.0}, "control_hz: expected 30, the rate of robot toy, got 50"),
    ],
)
def test_a_bundle_for_something_else_is_refused(
    fakes: Any, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(BundleError) as caught:
        check_bundle_fits(fakes.toy_manifest(), replace(fakes.toy_spec(), **changes))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_network_may_be_wider_than_the_robot_but_not_narrower(fakes: Any) -> None:
    check_bundle_fits(fakes.toy_manifest(action_dim=32), fakes.toy_spec())
    with pytest.raises(
        BundleError, match=r"state_dim: expected 3 \(robot toy has 3 joints\), got 4"
    ):
        check_bundle_fits(fakes.toy_manifest(state_dim=4), fakes.toy_spec())
    with pytest.raises(
        BundleError, match=r"action_dim: expected at least 3 \(robot toy has 3 joints\), got 2"
    ):
        check_bundle_fits(fakes.toy_manifest(action_dim=2), fakes.toy_spec())


def test_a_robot_commanded_by_differences_may_have_more_states_than_joints(fakes: Any) -> None:
    spec = replace(
        fakes.toy_spec(), rest_command=(0, 0, 1), state_names=tuple("wxyz"), state_units=("m",) * 4
    )
    check_bundle_fits(fakes.toy_manifest(state_dim=4), spec)
    with pytest.raises(
        BundleError, match=r"expected 4 \(robot toy has 3 joints and 4 states\), got 3"
    ):
        check_bundle_fits(fakes.toy_manifest(), spec)
    check_observation(observation(state=np.zeros(4, np.float32)), spec, ())
    with pytest.raises(RobotError, match="joint y: expected a finite number, got nan"):
        check_observation(observation(state=np.array([0, 0, np.nan, 0], np.float32)), spec, ())


def test_statistics_of_another_robot_are_refused(fakes: Any) -> None:
    check_decoder(np.ones(3, np.float32), fakes.toy_spec())
    with pytest.raises(
        BundleError, match="expected statistics of 3 joints, as robot toy has, got 14"
    ):
        check_decoder(np.ones(14, np.float32), fakes.toy_spec())


def observation(**changes: Any) -> Observation:
    image = np.zeros((4, 4, 3), np.uint8)
    fields = {
        "images": {"cam_a": image, "cam_b": image},
        "state": np.zeros(3, np.float32),
        "prompt": "wave",
        "timestamp_s": 0.0,
    }
    return Observation(**(fields | changes))


def test_a_complete_observation_passes(fakes: Any) -> None:
    check_observation(observation(), fakes.toy_spec(), ("cam_a", "cam_b"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"state": np.zeros(2, np.float32)}, "expected float32 (3,), got float32 (2,)"),
        ({"state": np.zeros(3)}, "expected float32 (3,), got float64 (3,)"),
        (
            {"state": np.array([0, np.nan, 0], np.float32)},
            "joint left_b: expected a finite number, got nan",
        ),
        (
            {"images": {"cam_a": np.zeros((4, 4, 3), np.uint8)}},
            "expected an image from cam_b, got cam_a",
        ),
        ({"images": {}}, "expected an image from cam_a, got none"),
        (
            {"images": dict.fromkeys(("cam_a", "cam_b"), np.zeros((4, 4), np.uint8))},
            "images.cam_a: expected uint8 (height, width, 3), got uint8 (4, 4)",
        ),
        ({"state": None}, "observation.state: expected float32 (3,), got None"),
        ({"state": [0.0, 0.0, 0.0]}, "observation.state: expected float32 (3,), got [0.0, 0.0"),
        ({"images": {"cam_a": None}}, "images.cam_a: expected uint8 (height, width, 3), got None"),
        (
            {"images": {"cam_a": Image.fromarray(np.zeros((4, 4, 3), np.uint8))}},
            "images.cam_a: expected uint8 (height, width, 3), got Image. Convert it",
        ),
    ],
)
def test_an_observation_that_no_policy_could_use_is_refused(
    fakes: Any, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(RobotError) as caught:
        check_observation(observation(**changes), fakes.toy_spec(), ("cam_a", "cam_b"))
    assert expected in str(caught.value)


def test_the_reference_itself_passes_the_golden(fakes: Any, toy_bundle: Path) -> None:
    result = check_golden(Bundle.open(toy_bundle), NumpyPolicy(fakes), "numpy")
    assert result.ok
    assert result.max_abs_error < 1e-6
    assert result.cosine == pytest.approx(1.0)


@pytest.mark.parametrize("error", [2e-4, -1.0, np.nan, np.inf])
def test_an_engine_that_computes_something_else_is_refused(
    fakes: Any, toy_bundle: Path, error: float
) -> None:
    with pytest.raises(
        BundleError, match="expected actions within 0.0001 of the reference, got an error of"
    ):
        check_golden(Bundle.open(toy_bundle), NumpyPolicy(fakes, error), "numpy")


def test_an_engine_that_rejects_the_inputs_is_a_one_line_error(
    fakes: Any, toy_bundle: Path
) -> None:
    class Refusing:
        def infer(self, inputs: object, noise: object) -> np.ndarray:
            raise ValueError("images: expected uint8,\ngot float32")

    with pytest.raises(BundleError, match="images: expected uint8, got float32"):
        replay_golden(Bundle.open(toy_bundle), Refusing())


def test_actions_of_another_shape_are_infinitely_wrong() -> None:
    golden = {"output.actions": np.ones((1, 2, 3), np.float32)}
    assert not compare_actions(np.ones((2, 2), np.float32), golden, 1e-4).ok
    assert compare_actions(np.ones((2, 3), np.float32), golden, 1e-4).ok
    assert compare_actions(np.zeros((2, 3), np.float32), golden, 1e-4).cosine == 0.0


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (
            "images",
            np.zeros((1, 2, 3, 8, 3), np.uint8),
            "expected uint8 [1, 2, 6, 8, 3], as the graphs take it",
        ),
        (
            "images",
            np.zeros((1, 2, 6, 8, 3), np.float32),
            "got float32 [1, 2, 6, 8, 3] from the transforms",
        ),
        ("lang_masks", None, "provide the graphs' input 'lang_masks'"),
    ],
)
def test_inputs_that_the_graphs_do_not_take_are_refused(
    fakes: Any, name: str, value: np.ndarray | None, expected: str
) -> None:
    inputs = fakes.golden_inputs()
    check_encoding(inputs | {"state": np.zeros((1, 3))}, fakes.toy_manifest())
    inputs.pop(name)
    with pytest.raises(BundleError) as caught:
        check_encoding(inputs | ({} if value is None else {name: value}), fakes.toy_manifest())
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("pose", "expected"),
    [
        ((-54.96, 0.0, 0.5), r"joint left_a: expected -2 to 2 rad, got -54.96. Does the driver "),
        ((0.0, 2.06, 0.5), r"joint left_b: expected -2 to 2 rad, got 2.06. Move the robot"),
        ((0.0, 0.0, 1.2), r"joint left_gripper: expected 0 to 1, got 1.2. Move"),
        ((0.0, np.nan, 0.5), r"joint left_b: expected -2 to 2 rad, got nan"),
    ],
)
def test_a_robot_far_outside_its_limits_is_refused(
    fakes: Any, pose: tuple[float, ...], expected: str
) -> None:
    with pytest.raises(RobotError, match=f"^toy: start pose: {expected}"):
        excursions(motion_limits(fakes.toy_spec()), np.array(pose, np.float32))


def test_a_robot_slightly_outside_its_limits_may_be_led_back(fakes: Any) -> None:
    limits = motion_limits(fakes.toy_spec())
    (low, high) = excursions(limits, np.array([-2.04, 2.0, 1.03], np.float32))
    assert (low.joint, low.limit, high.joint, high.limit) == (0, -2.0, 2, 1.0)
    assert low.motion_text(limits.spec) == "left_a from -2.04 to -2 rad at 0.5 rad per second"
    assert high.motion_text(limits.spec) == "left_gripper from 1.03 to 1 at 1 per second"
    assert excursions(limits, np.array([2.0, 0.0, 0.5], np.float32)) == []


def test_the_states_of_a_robot_commanded_by_differences_are_no_start_pose(fakes: Any) -> None:
    spec = replace(
        fakes.toy_spec(), rest_command=(0, 0, 1), state_names=tuple("wxyz"), state_units=("m",) * 4
    )
    assert excursions(motion_limits(spec), np.full(4, 9.0, np.float32)) == []
