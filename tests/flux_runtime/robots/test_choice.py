"""Which robot, driver, settings and Python the options stand for."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flux_core.agreement import Changes
from flux_core.bundle import Bundle as OpenedBundle
from flux_core.bundle import Manifest
from flux_core.errors import BundleError, MissingDependencyError, RobotError, UsageError
from flux_core.robots import ROBOT_SPECS, AlohaOperator, UROperator
from flux_driver.robot import DriverError, load_robot
from flux_runtime.cli import main
from flux_runtime.control.latency import StageTimes
from flux_runtime.control.preflight import check_bundle_fits
from flux_runtime.control.session import RunOptions, open_policy
from flux_runtime.doctor.drivers import driver_checks
from flux_runtime.robots import RobotChoice, RobotRequest, choose_robot, interpreter

Bundle = Callable[..., Path]
HERE = Path(sys.executable)


@pytest.fixture
def bundle(fakes: Any, tmp_path: Path) -> Bundle:
    """Writes a bundle for robots of some names, with an operator."""

    def write(*robots: str, **inference: object) -> Path:
        folder = tmp_path / "-".join(("bundle", *robots))
        config = {"inference": inference} if inference else {}
        return fakes.write_toy_bundle(folder, config=config, robot=robots[0], robots=robots)

    return write


def choose(name: str, **request: Any) -> RobotChoice:
    """The choice with the Python of the tests, which needs no module."""
    return choose_robot(RobotRequest(name=name, python=request.pop("python", HERE), **request))


@pytest.mark.parametrize("variant", ["aloha-agilex", "aloha-viperx"])
def test_aloha_is_the_variant_that_the_bundle_was_trained_for(bundle: Bundle, variant: str) -> None:
    choice = choose("aloha", bundle=bundle(variant, "ur3"))
    assert choice.name == choice.arguments["spec"]["name"] == variant
    assert choice.target == "flux_driver.ros.aloha:AlohaDriver" and choice.is_simulated is False
    assert choice.lines[0] == f"robot: aloha is {variant}, which the bundle was trained for"


def test_a_bundle_that_says_only_aloha_must_be_told_which(bundle: Bundle) -> None:
    path = bundle("aloha")
    with pytest.raises(RobotError) as caught:
        choose("aloha", bundle=path)
    assert str(caught.value).startswith("aloha: expected a bundle that says which variant it was")
    assert str(caught.value).endswith("say --robot aloha-agilex or --robot aloha-viperx")
    choice = choose("aloha-agilex", bundle=path)
    assert choice.name == "aloha-agilex" and "the bundle says only aloha" in choice.lines[0]


def test_without_a_bundle_or_with_both_variants_aloha_is_not_guessed(bundle: Bundle) -> None:
    for path in (None, bundle("aloha-viperx", "aloha-agilex")):
        with pytest.raises(RobotError, match="[Ss]ay --robot aloha-agilex or --robot aloha-viperx"):
            choose("aloha", bundle=path)
    with pytest.raises(BundleError, match="robots: expected aloha, got ur3"):
        choose("aloha", bundle=bundle("ur3"))


def test_a_real_robot_gets_its_description_and_the_topics_of_the_tutorial() -> None:
    arguments = choose("aloha-viperx").arguments
    topics = asdict(AlohaOperator())
    assert not topics.pop("use_depth_image") and not topics.pop("use_robot_base")
    spec = asdict(ROBOT_SPECS["aloha-viperx"])
    assert arguments == {"spec": spec, "topics": topics, "transport": "ros1"}


def test_topics_are_the_bundles_then_the_files_then_those_of_the_option(
    bundle: Bundle, tmp_path: Path
) -> None:
    carried = AlohaOperator(
        img_front_topic="/of_bundle", img_left_topic="/of_bundle", img_right_topic="/of_bundle"
    )
    path = bundle("aloha-agilex", operator={"type": "AlohaOperator", **asdict(carried)})
    file = tmp_path / "robot.yaml"
    file.write_text(
        "topics: {img_left_topic: /of_file, img_right_topic: /of_file, use_depth_image: true}\n"
        "joint_names: [a, b]\n"
    )
    options = {"img_right_topic": "/of_option"}
    arguments = choose("aloha", bundle=path, config_file=file, topics=options).arguments
    found = [arguments["topics"][f"img_{side}_topic"] for side in ("front", "left", "right")]
    assert found == ["/of_bundle", "/of_file", "/of_option"]
    assert arguments["use_depth_image"] is True and "use_robot_base" not in arguments
    assert arguments["joint_names"] == ["a", "b"]


def test_a_ur_is_reached_over_ros_or_rtde(tmp_path: Path) -> None:
    over_ros = choose("ur3")
    assert over_ros.target == "flux_driver.ur.ros_arm:UrRosDriver"
    assert over_ros.arguments["topics"]["puppet_arm_left_cmd_topic"] == "/cmd/servoj"
    assert set(over_ros.arguments["topics"]) == set(asdict(UROperator())) - {"use_depth_image"}
    assert choose("ur3", transport="ros2").arguments["transport"] == "ros2"
    file = tmp_path / "robot.json"
    file.write_text(json.dumps({"host": "192.168.0.10", "gain": 300}))
    over_rtde = choose("ur5e", transport="rtde", config_file=file)
    assert over_rtde.target == "flux_driver.ur.rtde:UrRtdeDriver"
    spec = asdict(ROBOT_SPECS["ur5e"])
    assert over_rtde.arguments == {"spec": spec, "host": "192.168.0.10", "gain": 300}


def test_a_robot_of_lerobot_gets_its_type_and_the_whole_file(
    bundle: Bundle, tmp_path: Path
) -> None:
    file = tmp_path / "robot.yml"
    file.write_text("port: /dev/ttyACM0\nid: left\n")
    choice = choose("lerobot:so101_follower", config_file=file, bundle=bundle("so101_follower"))
    assert choice.target == "flux_driver.lerobot.driver:LeRobotDriver"
    assert choice.arguments["robot_type"] == "so101_follower"
    assert choice.arguments["config"] == {"port": "/dev/ttyACM0", "id": "left"}
    assert choice.arguments["control_hz"] > 0 and not choice.is_simulated


def test_anybodys_driver_gets_the_entries_of_the_file_as_arguments(tmp_path: Path) -> None:
    file = tmp_path / "robot.json"
    file.write_text('{"address": "10.0.0.2"}')
    choice = choose("a_module:Arm", config_file=file)
    assert (choice.target, choice.arguments) == (None, {"address": "10.0.0.2"})
    assert choice.is_simulated is None and choice.lines == ()


@pytest.mark.parametrize(
    ("name", "request_", "message"),
    [
        ("aloha-sim", {"transport": "ros1"}, "--transport: expected none for robot aloha-sim"),
        ("aloha-agilex", {"transport": "rtde"}, "--transport: expected ros1 or ros2 for robot"),
        ("ur3", {"topics": {"img_front": "/a"}}, "UROperator has no field 'img_front'. Did you me"),
        ("ur3", {"topics": {"img_front_topic": 1}}, "--topic: operator.img_front_topic: expected"),
        (
            "ur3",
            {"topics": {"img_front_topic": "/a"}, "transport": "rtde"},
            "--topic: expected ROS",
        ),
        ("lerobot:", {}, "--robot: expected lerobot:TYPE, such as lerobot:so101_follower"),
        ("lerobot:koch", {"topics": {"a": "b"}}, "--topic: expected none for robot lerobot:koch"),
        ("dataset:", {"python": None}, "--robot: expected dataset:DIR"),
        ("dataset:/none", {"python": None}, "--robot: dataset: /none: no such folder"),
        ("dataset:/none", {}, "--driver-python: expected none, because a dataset has no driver"),
        ("ur3", {"config_file": Path("/none.json")}, "--robot-config: /none.json: cannot be read"),
    ],
)
def test_options_that_do_not_fit_the_robot_are_answered_in_one_line(
    name: str, request_: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        choose(name, **request_)
    assert str(caught.value).startswith(message) or message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("a.json", "{", "not valid JSON"),
        ("a.yaml", "a: [", "not valid YAML"),
        ("a.yaml", "- a", "expected a mapping, got list"),
        ("a.yaml", "1: a", "expected texts for keys, got 1"),
        ("a.txt", "", r"expected a .json, .yaml or .yml file"),
        ("a.json", '{"spec": {}}', "expected no spec, because flux describes robot ur3"),
        ("a.json", '{"topics": 1}', "topics: expected a mapping, got 1"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    file: str, text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / file
    path.write_text(text)
    with pytest.raises(UsageError, match=rf"^--robot-config: .*{message}"):
        choose("ur3", config_file=path)


@pytest.fixture
def pythons(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Interpreter -> the modules that it has."""
    have: dict[str, set[str]] = {sys.executable: set(), interpreter.SYSTEM_PYTHON: set()}
    monkeypatch.setattr(interpreter, "has_module", lambda python, name: name in have[python])
    monkeypatch.setattr(interpreter, "_is_this", lambda python: False)
    return have


def test_the_driver_runs_where_its_module_is(pythons: dict[str, set[str]]) -> None:
    pythons[interpreter.SYSTEM_PYTHON] = {"rospy", "rtde_control"}
    choice = choose("ur3", python=None)
    assert choice.python == Path(interpreter.SYSTEM_PYTHON)
    assert choice.lines[-1] == (
        "driver: flux_driver.ur.ros_arm:UrRosDriver over ros1, in /usr/bin/python3, which has "
        "rospy; this Python does not"
    )
    with pytest.raises(MissingDependencyError, match="rtde_control, got this Python .* without"):
        choose("ur3", python=None, transport="rtde")  # pip installs it: no system Python has it
    pythons[sys.executable] = {"rospy"}
    choice = choose("ur3", python=None)
    assert choice.python is None and choice.lines[-1].endswith("in this Python, which has rospy")
    choice = choose("ur3", python=Path("/opt/ros-python"))
    assert choice.lines[-1].endswith("over ros1, in /opt/ros-python (--driver-python)")


@pytest.mark.parametrize(
    ("name", "transport", "module", "remedy"),
    [
        ("aloha-agilex", None, "rospy", "apt install python3-rospy"),
        ("aloha-agilex", "ros2", "rclpy", "Install ROS 2"),
        ("ur10e", "rtde", "rtde_control", "pip install ur_rtde"),
        ("lerobot:koch_follower", None, "lerobot", "pip install lerobot"),
    ],
)
def test_where_nothing_is_installed_one_line_says_what_to_install(
    name: str, transport: str | None, module: str, remedy: str, pythons: dict[str, set[str]]
) -> None:
    with pytest.raises(MissingDependencyError) as caught:
        choose(name, python=None, transport=transport)
    message = str(caught.value)
    assert message.startswith(f"{name}: expected a Python with {module}, got this Python (")
    assert remedy in message and message.endswith("with --driver-python") and "\n" not in message


def test_a_module_is_found_by_importing_it_as_the_driver_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert interpreter.has_module(sys.executable, "numpy")
    assert not interpreter.has_module(sys.executable, "no_such_module_anywhere")
    assert not interpreter.has_module("/no/such/python", "numpy")
    # A workspace of ROS that is sourced, and a folder of this Python's.
    other = tmp_path / "python"
    other.symlink_to(sys.executable)
    for folder in ("ws/lib", "mine"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ws/lib/of_ros.py").touch()
    (tmp_path / "mine/of_mine.py").touch()
    monkeypatch.setenv("CMAKE_PREFIX_PATH", str(tmp_path / "ws"))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'ws/lib'}{os.pathsep}{tmp_path / 'mine'}")
    assert interpreter.driver_environment(str(other))["PYTHONPATH"] == str(tmp_path / "ws/lib")
    assert interpreter.has_module(str(other), "of_ros")
    assert not interpreter.has_module(str(other), "of_mine")


class Arm:
    """A driver that takes its address."""

    connect = read_state = read_frames = send = stop = close = lambda self: None

    def __init__(self, address: str, port: int = 7) -> None:
        if port < 0:
            raise DriverError(f"port: expected at least 0, got {port}")
        self.address = address


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "--robot-config: expected 'address', got nothing. Add it to the file"),
        ({"adress": "a"}, "--robot-config: expected some of address, port, got 'adress'"),
        ({"address": "a", "port": -1}, "port: expected at least 0, got -1"),
        ({"address": "a", "port": "b"}, "fails (TypeError"),
    ],
)
def test_a_driver_that_cannot_be_made_says_what_its_class_takes(
    arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("an_addressed_arm")
    module.__dict__["Arm"], module.__dict__["ARM"] = Arm, Arm("b")
    monkeypatch.setitem(sys.modules, "an_addressed_arm", module)
    robot: Any = load_robot("an_addressed_arm:Arm", {"address": "c"})
    assert robot.address == "c"
    with pytest.raises(DriverError) as caught:
        load_robot("an_addressed_arm:Arm", arguments)
    assert message in str(caught.value)
    with pytest.raises(DriverError, match="expected a class, which takes address, got an object"):
        load_robot("an_addressed_arm:ARM", {"address": "c"})


def test_the_help_lists_the_robots(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in ("aloha-agilex, aloha-viperx, ur3, ur5e, ur10e", "lerobot:TYPE", "dataset:DIR"):
        assert name in text


def test_a_viperx_bundle_does_not_drive_agilexs_arms(bundle: Bundle) -> None:
    path = bundle("aloha-viperx")
    message = "robots: expected aloha-agilex, got aloha-viperx. Train with data of that robot"
    with pytest.raises(BundleError, match=message):
        choose("aloha-agilex", bundle=path)
    manifest = OpenedBundle.open(path).manifest
    with pytest.raises(BundleError, match=message):
        check_bundle_fits(manifest, ROBOT_SPECS["aloha-agilex"])
    check_bundle_fits(replace(manifest, robots=("aloha",)), replace(SPEC, **fitting(manifest)))


SPEC = ROBOT_SPECS["aloha-agilex"]


def fitting(manifest: Manifest) -> dict[str, Any]:
    """Joints, cameras and a rate for a manifest."""
    joints = manifest.state_dim
    lengths = ("lower", "upper", "max_velocity", "max_acceleration", "max_jerk", "units")
    return {
        "joint_names": tuple(f"joint_{place}" for place in range(joints)),
        **{name: (getattr(SPEC, name)[0],) * joints for name in lengths},
        "max_following_error": (),
        "prepare_pose": (),
        "cameras": manifest.cameras,
        "control_hz": manifest.control_hz,
    }


def test_doctor_says_which_drivers_can_run_and_what_to_install(
    pythons: dict[str, set[str]],
) -> None:
    pythons[interpreter.SYSTEM_PYTHON] = {"rospy", "rtde_control"}
    pythons[sys.executable] = {"lerobot"}
    checks = {check.name: check for check in driver_checks()}
    assert list(checks) == [
        *("ros1 (rospy)", "ros2 (rclpy)", "rtde (rtde_control)", "LeRobot (lerobot)")
    ]
    assert [check.ok for check in checks.values()] == [True, False, False, True]
    found = checks["ros1 (rospy)"].found
    assert found.startswith("found in /usr/bin/python3; drives aloha-agilex, aloha-viperx, ur3")
    assert checks["LeRobot (lerobot)"].found == "found in this Python; drives lerobot:TYPE"
    assert checks["rtde (rtde_control)"].fix.startswith("Install it with: pip install ur_rtde")
    assert not any(check.required for check in checks.values())


def test_without_a_bundle_topics_are_for_robots_that_have_some() -> None:
    changes = Changes(topics={"img_front_topic": "/camera"})
    options = RunOptions(robot="aloha-agilex", policy="hold", changes=changes)
    assert options.robot_request().topics == changes.topics
    assert open_policy(options, ROBOT_SPECS["aloha-agilex"], StageTimes()) is None
    with pytest.raises(UsageError, match="expected no options that change a bundle, got operator"):
        open_policy(options, ROBOT_SPECS["aloha-sim"], StageTimes())
    both = replace(options, changes=replace(changes, execution_horizon=4))
    with pytest.raises(UsageError, match="change a bundle, got execution_horizon. Leave"):
        open_policy(both, ROBOT_SPECS["aloha-agilex"], StageTimes())


def test_the_choice_is_printed_before_the_driver_is_started(
    core: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "run --robot aloha-agilex --policy hold --driver-python /bin/true"
    assert main(command.split()) == 1
    told = " ".join(capsys.readouterr().err.split())
    line = "driver: flux_driver.ros.aloha:AlohaDriver over ros1, in /bin/true (--driver-python)"
    assert told.startswith(line) and "a program that does not serve a driver" in told
