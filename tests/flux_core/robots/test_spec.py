"""The values that a robot's description may have, and the fields that its errors name."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_core.config import bind, unbind
from flux_core.errors import ConfigError, RobotError
from flux_core.robots import ROBOT_SPECS, DHJoint, Kinematics, RobotSpec

SPEC = RobotSpec(
    name="my-arm",
    joint_names=("shoulder", "elbow", "slide"),
    lower=(-3.0, -2.0, 0.0),
    upper=(3.0, 2.0, 0.4),
    max_velocity=(2.0, 2.0, 0.1),
    units=("rad", "rad", "m"),
    cameras=("top",),
    control_hz=20.0,
    max_acceleration=(8.0, 8.0, 1.0),
    max_jerk=(40.0, 40.0, 5.0),
    kinematics=Kinematics(
        urdf="my_arm.urdf", tip_link="tool", dh=(DHJoint(joint="shoulder", a=0.3),)
    ),
)
DIFFERENCES: dict[str, Any] = dict(
    rest_command=(0.0, 0.0, 0.1), state_names=("x", "y"), state_units=("m", "m")
)


@pytest.mark.parametrize("spec", [SPEC, *ROBOT_SPECS.values()], ids=lambda spec: spec.name)
def test_a_description_round_trips_through_json(spec: RobotSpec) -> None:
    tree = json.loads(json.dumps(unbind(spec), allow_nan=False))
    assert tree["type"] == "RobotSpec" and tree["schema_version"] == 3
    assert bind(RobotSpec, tree, "inference.robot") == spec


@given(
    limits=st.lists(
        st.tuples(
            st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.floats(1e-9, 1e9), st.sampled_from("rm")
        ),
        min_size=1,
        max_size=8,
    ),
    control_hz=st.floats(0.1, 2000.0),
)
def test_any_finite_description_round_trips_through_json_bit_for_bit(
    limits: list[tuple[float, float, float, str]], control_hz: float
) -> None:
    spec = RobotSpec(
        name="any",
        joint_names=tuple(f"joint_{index}" for index in range(len(limits))),
        lower=tuple(low for low, *_ in limits),
        upper=tuple(low + width for low, width, *_ in limits),
        max_velocity=tuple(speed for _, _, speed, _ in limits),
        units=tuple({"r": "rad", "m": "m"}[unit] for *_, unit in limits),
        cameras=(),
        control_hz=control_hz,
    )
    assert bind(RobotSpec, json.loads(json.dumps(unbind(spec))), "robot") == spec


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e39])
@pytest.mark.parametrize(
    "field", ["lower", "upper", "max_velocity", "max_acceleration", "max_jerk", "rest_command"]
)
@pytest.mark.parametrize("joint", [0, 1, 2])
def test_a_number_that_is_not_finite_is_refused_for_every_joint(
    field: str, joint: int, bad: float
) -> None:
    spec = dataclasses.replace(SPEC, **DIFFERENCES)
    values = list(getattr(spec, field))
    values[joint] = bad
    name = SPEC.joint_names[joint]
    with pytest.raises(
        RobotError, match=f"robot 'my-arm', {field}: {name}: expected a finite"
    ) as e:
        dataclasses.replace(spec, **{field: tuple(values)})
    assert repr(bad) in str(e.value)


@pytest.mark.parametrize("field", ["max_velocity", "max_acceleration", "max_jerk"])
@pytest.mark.parametrize("bad", [0.0, -0.0, -1.0])
def test_a_rate_must_be_above_zero(field: str, bad: float) -> None:
    with pytest.raises(RobotError, match=f"{field}: elbow: expected a finite number above 0, got"):
        dataclasses.replace(SPEC, **{field: (1.0, bad, 1.0)})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"upper": (3.0, -2.0, 0.4)}, r"lower: elbow: expected less than upper \(-2.0\), got -2.0"),
        ({"max_jerk": (1.0,)}, "max_jerk: expected 3 values, got 1. Give one per joint"),
        ({"max_acceleration": (1.0,) * 4}, "max_acceleration: expected 3 values, got 4"),
        ({"joint_names": ("a", "a", "b")}, "joint_names: expected different printable names of 1"),
        ({"joint_names": ("a", "", "b")}, "joint_names: expected different printable names of 1"),
        ({"joint_names": ("a", "\x1b[2J", "b")}, r"printable names.* got '\\x1b\[2J'"),
        ({"joint_names": ()}, "joint_names: expected 1 to 1024 joints, got 0"),
        ({"joint_names": "abc"}, "joint_names: expected a tuple of str, got a single text"),
        ({"lower": ("low", 0.0, 0.0)}, "lower: expected a tuple of float, got could not convert"),
        ({"cameras": ("top", "top")}, "cameras: expected different printable names"),
        (
            {"units": ("deg", "rad", "m")},
            "units: shoulder: expected one of rad, m, normalized, degrees, percent, got ",
        ),
        ({"units": ("rad", "deg", "m")}, r"elbow: expected one of .*, got 'deg'. Write 'degrees'"),
        ({"units": ("rad", "rad", "mm")}, "units: slide: expected one of rad, m, normalized"),
        ({"control_hz": math.nan}, "control_hz: expected 0.1 to 2000, got nan"),
        ({"control_hz": 0.0}, "control_hz: expected 0.1 to 2000, got 0.0"),
        ({"name": ""}, "robot '', name: expected letters, digits"),
        ({"name": "../etc"}, "robot '../etc', name: expected letters, digits"),
        ({"name": "my arm"}, "robot 'my arm', name: expected letters, digits"),
        ({"schema_version": 4}, "schema_version: expected 1 to 3, got 4. Install the version"),
        ({"state_units": ("m",)}, "state_units: expected 0 values, got 1"),
        ({"rest_command": (0.0, 0.0, 0.1)}, "state_names: expected 1 to 1024 names beside rest"),
        ({"state_names": ("x",), "state_units": ("m",)}, "rest_command: expected 3 values, got 0"),
        (
            {**DIFFERENCES, "rest_command": (0.0, 2.5, 0.1)},
            "rest_command: elbow: expected -2.0 to 2.0, got 2.5",
        ),
        (
            {"kinematics": Kinematics(dh=(DHJoint(joint="wrist"),))},
            "robot 'my-arm', kinematics.dh: expected rows of shoulder, elbow, slide, got 'wrist'",
        ),
        (
            {"kinematics": Kinematics(dh=(DHJoint(joint="elbow"),) * 2)},
            "kinematics.dh: expected one row per joint, got two of 'elbow'",
        ),
    ],
)
def test_an_invalid_description_is_refused_with_its_field(
    changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(RobotError, match=expected) as caught:
        dataclasses.replace(SPEC, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["a", "alpha", "d", "theta"])
def test_a_denavit_hartenberg_row_is_finite(field: str) -> None:
    with pytest.raises(RobotError, match=f"joint 'elbow', {field}: expected a finite number of "):
        DHJoint(joint="elbow", **{field: math.inf})


def test_empty_kinematics_are_refused() -> None:
    with pytest.raises(RobotError, match="kinematics: expected a urdf or a dh table, got neither"):
        Kinematics()
    with pytest.raises(RobotError, match="expected a urdf with base_link and tip_link, got none"):
        Kinematics(tip_link="tool", dh=(DHJoint(joint="elbow"),))


def test_arrays_and_lists_become_plain_tuples() -> None:
    limits = np.array([-3, -2, 0], np.float32)
    spec = dataclasses.replace(SPEC, lower=limits, joint_names=list(SPEC.joint_names))
    assert spec == SPEC
    assert all(type(value) is float for value in spec.lower)
    json.dumps(unbind(spec))


def test_in_a_config_the_error_begins_with_the_path() -> None:
    tree = unbind(SPEC) | {"units": ["deg", "rad", "m"]}
    with pytest.raises(ConfigError, match=r"^inference.robot: robot 'my-arm', units: shoulder: "):
        bind(RobotSpec, tree, "inference.robot")
    with pytest.raises(ConfigError, match=r"inference.robot.speed: RobotSpec has no field 'speed'"):
        bind(RobotSpec, unbind(SPEC) | {"speed": 3}, "inference.robot")
