"""Robots that other packages describe: found by entry point, written out in every config."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flux_core.config import bind, unbind
from flux_core.deployment import InferenceRunner, inference_sections
from flux_core.errors import ConfigError, RobotError
from flux_core.robots import (
    DRIVER_GROUP,
    ROBOT_SPECS,
    SPEC_GROUP,
    carried_robot,
    robot_spec,
    robot_spec_names,
)

from ...distributions import Installer, installer
from .test_spec import SPEC

SOURCE = f"""
from flux_core.robots import DHJoint, Kinematics, RobotSpec
SPEC = {SPEC!r}
def make():
    return SPEC
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    """Installs a distribution for one test: `(name, {robot: 'module:object'}, modules)`."""
    return installer(tmp_path, monkeypatch, SPEC_GROUP)


def section(robot: object, **changes: Any) -> dict[str, Any]:
    return {
        "type": "InferenceRunner",
        "robot": robot,
        "task_descriptions": {"1": "reach"},
        "dataset": {
            "type": "ObservationTransforms",
            "img_keys": ["top"],
            "transforms": [
                {"type": "NormalizeStatesAndActions", "norm_type": "quantile"},
                {"type": "SimpleNormalizeImages"},
            ],
        },
        "denormalize_action": {"type": "DenormalizeActions", "norm_type": "quantile"},
        **changes,
    }


@pytest.mark.parametrize("value", ["my_arm_robot:SPEC", "my_arm_robot:make"])
def test_a_registered_robot_is_known_by_its_name(installed: Installer, value: str) -> None:
    installed("my-arm", {"my-arm": value}, {"my_arm_robot": SOURCE})
    assert robot_spec("my-arm") == SPEC
    assert robot_spec_names() == tuple(sorted({*ROBOT_SPECS, "my-arm"}))
    assert bind(InferenceRunner, section("my-arm"), "inference").spec == SPEC


def test_names_are_listed_without_importing_any_package(installed: Installer) -> None:
    installed("trap", {"trap": "a_trap:SPEC"}, {"a_trap": "raise SystemExit('imported')"})
    assert "trap" in robot_spec_names()
    assert robot_spec("ur3") is ROBOT_SPECS["ur3"]
    with pytest.raises(
        RobotError, match="unknown robot 'tarp'. Known robots: .*, trap, ur10e, ur3"
    ):
        robot_spec("tarp")
    assert "a_trap" not in sys.modules


def test_a_config_bound_with_a_name_writes_the_description_out(installed: Installer) -> None:
    installed("my-arm", {"my-arm": "my_arm_robot:SPEC"}, {"my_arm_robot": SOURCE})
    tree = json.loads(json.dumps(unbind(bind(InferenceRunner, section("my-arm"), "inference"))))
    assert tree["robot"] == json.loads(json.dumps(unbind(SPEC)))


def test_a_written_out_robot_needs_no_package() -> None:
    by_type = bind(InferenceRunner, section(unbind(SPEC)), "inference")
    by_value = bind(InferenceRunner, section(SPEC), "inference")
    assert by_type == by_value and by_type.spec == SPEC
    untyped = {key: value for key, value in unbind(SPEC).items() if key != "type"}
    assert bind(InferenceRunner, section(untyped), "inference") == by_type
    assert bind(InferenceRunner, unbind(by_type), "inference") == by_type
    assert inference_sections(by_type) == {"my-arm": by_type}


def test_a_written_out_robot_is_read_where_its_package_is_not_installed(tmp_path: Path) -> None:
    """Runs in a separate process, without the package."""
    config = {"inference": unbind(bind(InferenceRunner, section(SPEC), "inference"))}
    (tmp_path / "config.json").write_text(json.dumps(config))
    program = (
        "import json, sys\n"
        "from flux_core.robots import carried_robot\n"
        "spec = carried_robot(json.load(open(sys.argv[1])))\n"
        "print(spec.name, spec.action_dim, spec.kinematics.dh[0].joint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "config.json")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["my-arm", "3", "shoulder"]


@pytest.mark.parametrize("runner", ["AlohaInferenceRunner", "URInferenceRunner"])
def test_the_runners_of_fluxs_own_robots_write_their_descriptions_out_too(runner: str) -> None:
    changes = {"type": runner}
    tree = section("ignored", **changes)
    del tree["robot"]
    tree["dataset"]["img_keys"] = ["cam_high"]
    bound = bind(InferenceRunner, tree, "inference")
    assert unbind(bound)["robot"] == unbind(ROBOT_SPECS[bound.spec.name])


def test_an_unknown_robot_of_a_config_is_named_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"^inference.robot: unknown robot 'my-arm'. Known rob"):
        bind(InferenceRunner, section("my-arm"), "inference")


def test_two_sections_of_one_robot_are_refused() -> None:
    runner = bind(InferenceRunner, section(SPEC), "inference")
    with pytest.raises(ConfigError, match="expected one section per robot, got my-arm, my-arm"):
        inference_sections({"a": runner, "b": runner})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_mod"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("OTHER = 1", "AttributeError: module 'a_robot' has no attribute 'SPEC'"),
        ("1 +", "SyntaxError: "),
    ],
)
def test_a_package_that_cannot_be_imported_is_named_in_one_line(
    installed: Installer, source: str, expected: str
) -> None:
    installed("broken-robot", {"my-arm": "a_robot:SPEC"}, {"a_robot": source})
    with pytest.raises(RobotError) as caught:
        robot_spec("my-arm")
    message = str(caught.value)
    assert "'a_robot:SPEC' cannot be loaded from broken-robot 1.0" in message
    assert expected in message and "\n" not in message


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("SPEC = {'name': 'my-arm'}", "cannot be called: it is dict"),
        ("SPEC = None", "cannot be called: it is NoneType"),
        (
            "def SPEC(): return 'my-arm'",
            "expected a RobotSpec or a callable that returns one, got str",
        ),
        ("def SPEC(robot): return robot", "fails (TypeError: SPEC() missing 1 required"),
        ("def SPEC(): return 1 / 0", "fails (ZeroDivisionError: division by zero)"),
        (
            SOURCE.replace("'my-arm'", "'other'"),
            "expected a RobotSpec of that name, got one named",
        ),
        (SOURCE.replace("'rad', 'rad'", "'deg', 'rad'"), "units: shoulder: expected one of rad"),
    ],
)
def test_an_entry_point_that_is_not_a_description_is_refused_with_its_distribution(
    installed: Installer, source: str, expected: str
) -> None:
    installed("odd-robot", {"my-arm": "a_robot:SPEC"}, {"a_robot": source})
    with pytest.raises(RobotError) as caught:
        robot_spec("my-arm")
    message = str(caught.value)
    assert message.startswith("my-arm: ") and "odd-robot 1.0" in message
    assert expected in message and "\n" not in message


def test_two_packages_that_describe_one_robot_are_both_named(installed: Installer) -> None:
    installed("arm-one", {"my-arm": "my_arm_robot:SPEC"}, {"my_arm_robot": SOURCE})
    installed("arm-two", {"my-arm": "my_arm_robot:make"})
    with pytest.raises(RobotError) as caught:
        robot_spec("my-arm")
    assert "arm-one 1.0 (my_arm_robot:SPEC)" in str(caught.value)
    assert "arm-two 1.0 (my_arm_robot:make)" in str(caught.value)


@pytest.mark.parametrize("name", ROBOT_SPECS)
def test_fluxs_own_robots_cannot_be_shadowed(installed: Installer, name: str) -> None:
    installed("impostor", {name: "a_trap:SPEC"}, {"a_trap": "raise SystemExit('imported')"})
    with pytest.raises(RobotError, match=r"got flux itself and impostor 1.0 \(a_trap:SPEC\)"):
        robot_spec(name)


def test_the_error_for_a_robot_with_only_a_driver_says_what_is_missing(
    installed: Installer,
) -> None:
    installed("my-driver", {"my-arm": "a_trap:Driver"}, {"a_trap": "1 / 0"}, DRIVER_GROUP)
    with pytest.raises(RobotError) as caught:
        robot_spec("my-arm")
    message = str(caught.value)
    assert "my-driver 1.0 has a driver of that name but no description" in message
    assert "group 'flux.robots'" in message and "robot=dict(type='RobotSpec', ...)" in message


def test_older_configs_contain_only_a_name() -> None:
    assert carried_robot({"inference": {"robot": "aloha-sim"}}) is None
    assert carried_robot({"inference": {}}) is None
    assert carried_robot({}) is None


@pytest.mark.parametrize(
    ("robot", "expected"),
    [
        ([1, 2], "inference.robot: expected RobotSpec, got"),
        ({"type": "os:system"}, "inference.robot.type: expected 'RobotSpec', got 'os:system'"),
        ({"type": "PI0FlowMatching"}, "inference.robot.type: expected 'RobotSpec'"),
        ({"schema_version": 4, "torque": 1}, "robot.schema_version: expected 1 to 3, got 4"),
        ({"name": "my-arm"}, "inference.robot.joint_names: RobotSpec needs 'joint_names'"),
        (unbind(SPEC) | {"lower": [0.0, float("nan"), 0.0]}, "lower: elbow: expected a finite"),
    ],
)
def test_an_invalid_carried_robot_is_refused_without_an_import(
    robot: object, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        carried_robot({"inference": {"robot": robot}})
    assert expected in str(caught.value) and "\n" not in str(caught.value)
