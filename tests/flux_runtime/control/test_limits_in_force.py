"""A bundle may tighten the driver's limits, but not widen them: from config to commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_core.config import unbind
from flux_core.errors import BundleError
from flux_core.robots import RobotSpec
from flux_runtime.cli import main
from flux_runtime.control.preflight import spec_in_force

DIFFERENCES: dict[str, Any] = dict(
    rest_command=(0.0, 0.0, 0.5), state_names=("x", "y"), state_units=("m", "rad")
)
FIELDS = ("lower", "upper", "max_velocity", "max_acceleration", "max_jerk")


def config_of(spec: RobotSpec) -> dict[str, Any]:
    return json.loads(json.dumps({"inference": {"robot": unbind(spec)}}))


def full_spec(fakes: Any, **changes: Any) -> RobotSpec:
    rates = {"max_acceleration": (9.0,) * 3, "max_jerk": (90.0,) * 3}
    return replace(fakes.toy_spec(), **(rates | changes))


def run_toy(bundle: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    command = ("run", "--robot", "toy", "--bundle", str(bundle), "--json", "--max-steps", "40")
    assert main([*command, "--episodes", "1"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_tightened_limits_bound_every_command_of_a_run(
    core: Any, toy: Any, fakes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = np.array([0.1, -0.1, 0.5])
    tight = replace(
        fakes.toy_spec(),
        lower=tuple(start - 0.02),
        upper=tuple(start + 0.02),
        max_velocity=(0.5, 0.4, 0.3),
    )
    run_toy(fakes.write_toy_bundle(tmp_path / "wide", config=config_of(toy.spec)), capsys)
    free = np.array([start, *toy.commands])
    assert (np.abs(free - start).max(axis=0) > 0.03).any(), "the policy must exceed the limits"

    report = run_toy(fakes.write_toy_bundle(tmp_path / "tight", config=config_of(tight)), capsys)
    kept = np.array([start, *toy.commands])
    assert (kept >= np.asarray(tight.lower) - 1e-6).all()
    assert (kept <= np.asarray(tight.upper) + 1e-6).all()
    speeds = np.abs(np.diff(kept, axis=0)) * toy.spec.control_hz
    assert (speeds <= np.asarray(tight.max_velocity) + 1e-4).all()
    assert report["commands_out_of_limit"] == 0
    assert report["violations"]["position"] + report["violations"]["velocity"] > 0


def test_commands_are_counted_by_the_tightened_limits(fakes: Any) -> None:
    from flux_runtime.control.episode import run_episode
    from flux_runtime.control.policy_source import HoldSource

    robot = fakes.ToyRobot()
    tight = replace(robot.spec, upper=(2.0, -0.2, 1.0))
    result = run_episode(
        robot=robot,
        spec=tight,
        source=HoldSource(robot.spec),
        loop=fakes.FakeLoop(),
        prompt="wave",
        seed=1,
        max_steps=5,
    )
    assert result.commands_out_of_limit == result.steps == 5


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("joint", [0, 1, 2])
@pytest.mark.parametrize("kind", ["positions", "differences"])
def test_each_limit_of_each_joint_tightens_and_never_widens(
    fakes: Any, field: str, joint: int, kind: str
) -> None:
    driver = full_spec(fakes, **(DIFFERENCES if kind == "differences" else {}))
    inwards = 0.25 if field == "lower" else -0.25
    values = np.array(getattr(driver, field))
    values[joint] += inwards
    tight = replace(driver, **{field: tuple(values)})
    assert spec_in_force(config_of(tight), driver) == tight
    values[joint] -= 2 * inwards
    wide = replace(driver, **{field: tuple(values)})
    with pytest.raises(BundleError) as caught:
        spec_in_force(config_of(wide), driver)
    message = str(caught.value)
    assert message.startswith(
        f"config.json: inference.robot.{field}: {driver.joint_names[joint]}: the driver allows at "
    )
    assert repr(getattr(driver, field)[joint]) in message and repr(float(values[joint])) in message
    assert "\n" not in message


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("bad", ["NaN", "Infinity", "-Infinity", '"1"', "null", "true"])
def test_a_limit_that_is_not_a_number_is_refused(fakes: Any, field: str, bad: str) -> None:
    driver = full_spec(fakes)
    config = config_of(driver)
    config["inference"]["robot"][field][1] = json.loads(bad)
    with pytest.raises(BundleError, match=rf"config.json: inference.robot.*{field}") as caught:
        spec_in_force(config, driver)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"joint_names": ("left_b", "left_a", "left_gripper")},
            r"joint_names\[0\]: the driver has 'l",
        ),
        (
            {"units": ("rad", "m", "normalized")},
            r"units\[1\]: the driver has 'rad', the bundle has 'm",
        ),
        ({"control_hz": 30.0}, "control_hz: the driver runs at 50.0 Hz, the bundle at 30.0"),
        ({"name": "other"}, "name: the driver has 'toy', the bundle has 'other'"),
        (DIFFERENCES, r"state_names: the driver has 0 \(none\), the bundle 2 \(x, y\)"),
    ],
)
def test_a_bundle_that_describes_another_robot_is_refused_before_anything_is_connected(
    toy: Any,
    fakes: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    expected: str,
) -> None:
    config = config_of(replace(toy.spec, **changes))
    bundle = fakes.write_toy_bundle(tmp_path / "bundle", config=config)
    assert main(["run", "--robot", "toy", "--bundle", str(bundle)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and toy.calls == []
    with pytest.raises(BundleError, match=expected):
        spec_in_force(config, toy.spec)


def test_a_bundle_that_only_names_its_robot_has_the_drivers_limits(fakes: Any) -> None:
    driver = fakes.toy_spec()
    for config in ({}, {"inference": {}}, {"inference": {"robot": "toy"}}):
        assert spec_in_force(config, driver) is driver


def test_acceleration_and_jerk_that_a_simulated_robot_states_bound_every_command(
    core: Any, toy: Any, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.spec = replace(toy.spec, max_acceleration=(4.0,) * 3, max_jerk=(80.0,) * 3)
    start = np.array([0.1, -0.1, 0.5])
    report = run_toy(toy_bundle, capsys)
    hz = toy.spec.control_hz
    velocity = np.diff([start, *toy.commands], axis=0, prepend=start[None]) * hz
    acceleration = np.diff(velocity, axis=0) * hz
    jerk = np.diff(acceleration, axis=0, prepend=0) * hz
    rounding = 8 * float(np.finfo(np.float32).eps)
    assert np.abs(acceleration).max() <= 4.0 + rounding * hz**2
    assert np.abs(jerk).max() <= 80.0 + rounding * hz**3
    assert {"max_acceleration", "max_jerk"} <= report["limits"].keys()
    assert report["limits"]["max_jerk"]["left_a"] == {"value": 80.0, "source": "the driver"}
