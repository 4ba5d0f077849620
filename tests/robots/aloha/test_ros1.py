"""ALOHA over a real ROS 1 master: a test robot that shares no code with flux is driven by it.

The robot's own log is the judge. Faults that a run must survive happen one after the other in the
first run; those that hold and stop the robot in the second.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from flux_core.errors import RobotError
from flux_core.robots import AlohaOperator
from flux_runtime.realtime import DriverProcess

from ...environments import Environment
from ...machine_stalls import Attempt
from ..ros1 import RosSystem, only, read_log
from ..runs import finish, running
from .scene import LISTENER, PERIOD_S, REST, SPEC, STILL, Outcome, Scene

SURVIVED = [
    {"what": "nan", "at": 1.0, "for": 0.07},
    {"what": "names_shuffled", "at": 2.0, "for": 1.0},
    {"what": "stamps_back", "at": 3.2, "for": 0.15, "by": 5.0},
    {"what": "stamps_back", "at": 7.0, "by": 5.0},
]
MASTER_DIES_S, MASTER_RETURNS_S, LISTENS_S = 3.0, 5.0, 7.5
CAMERA_STOPS_S, ROBOT_STOPS_S, SILENT_S = 0.5, 2.0, 2.0


Outcomes = Callable[[str], Outcome]


@pytest.fixture(scope="module")
def outcome(
    environment: Environment, robot_seconds: float, tmp_path_factory: pytest.TempPathFactory
) -> Outcomes:
    """Returns the outcome of `survived` or `stopped`; each is run once per attempt."""
    python = environment("ros1")
    scenes = {
        "survived": lambda folder: survive(Scene(python, folder), robot_seconds),
        "stopped": lambda folder: stop(Scene(python, folder)),
    }
    found: dict[tuple[str, int], Outcome] = {}

    def of(name: str) -> Outcome:
        key = name, Attempt.number
        if key not in found:
            found[key] = scenes[name](tmp_path_factory.mktemp(name))
        return found[key]

    return of


def survive(scene: Scene, seconds: float) -> Outcome:
    """Drives the robot through faults that do not end a run."""
    settings = {"use_depth_image": True, "image_transport": {"cam_right_wrist": "compressed"}}
    (scene.folder / "robot.json").write_text(json.dumps(settings))
    config = ("--robot-config", str(scene.folder / "robot.json"))
    size = ("640", "480") if seconds > 10 else ("128", "96")
    with ExitStack() as stack:
        master = stack.enter_context(scene.ros.master())
        stack.enter_context(scene.robot("--compressed", "r", "--size", *size, faults=SURVIVED))
        scene.use_facts()
        stack.enter_context(scene.ros.node(LISTENER, str(scene.folder / "slow.jsonl"), "0.1"))
        run = stack.enter_context(
            running(*scene.arguments(seconds), *config, environment=scene.ros.environment)
        )
        scene.wait_until(MASTER_DIES_S)
        master.kill()
        master.wait()
        scene.wait_until(MASTER_RETURNS_S)
        stack.enter_context(scene.ros.master())
        scene.wait_until(LISTENS_S)
        stack.enter_context(scene.ros.node(LISTENER, str(scene.folder / "late.jsonl"), "0"))
        return Outcome(finish(run, seconds + 30), scene.log, scene.folder)


def stop(scene: Scene) -> Outcome:
    """Stops a camera for a second, and the whole robot for two seconds."""
    faults = [{"what": "camera_stops", "camera": "l", "at": CAMERA_STOPS_S, "for": 1.0}]
    arguments = (*scene.arguments(20), "--hold-for", "1")
    with (
        scene.ros.master(),
        scene.robot(faults=faults) as robot,
        running(*arguments, environment=scene.ros.environment) as process,
    ):
        scene.wait_until(ROBOT_STOPS_S)
        robot.send_signal(signal.SIGSTOP)
        time.sleep(SILENT_S)
        resumed_s = time.time()
        robot.send_signal(signal.SIGCONT)
        run = finish(process, 30)
        time.sleep(0.5)
        return Outcome(run, scene.log, scene.folder, resumed_s)


def test_the_robot_gets_50_commands_per_second_within_its_limits(
    outcome: Outcomes, robot_seconds: float
) -> None:
    found = outcome("survived")

    assert found.run.status == 0, found.run.errors
    assert found.run.report["outcome"] == "finished"
    for arm, side in enumerate(("left", "right")):
        stamps, values = found.stamps(side), found.values(side)
        own = slice(7 * arm, 7 * arm + 7)
        intervals = np.diff(stamps)
        assert len(stamps) >= 0.97 * robot_seconds / PERIOD_S
        assert np.median(intervals) == pytest.approx(PERIOD_S, rel=0.02)
        assert np.percentile(intervals, 95) < 2 * PERIOD_S
        assert (values >= np.array(SPEC.lower[own]) - 1e-6).all()
        assert (values <= np.array(SPEC.upper[own]) + 1e-6).all()
        speeds = np.abs(np.diff(values, axis=0)) / np.maximum(intervals, PERIOD_S)[:, None]
        assert (speeds <= np.array(SPEC.max_velocity[own])).all()
        assert np.ptp(values[:, 0]) > 0.3, "it has moved"


def test_the_robot_of_the_training_is_not_suspected(outcome: Outcomes) -> None:
    deployment = outcome("survived").run.report["deployment"]

    assert deployment["suspicions"] == []


def test_commands_are_named_and_stamped_as_the_original_ones(outcome: Outcomes) -> None:
    commands = outcome("survived").commands()

    assert {tuple(line["names"]) for line in commands} == {tuple(f"joint{i}" for i in range(7))}
    assert {line["extra"] for line in commands} == {0}, "velocity and effort are left empty"


def test_joints_are_told_apart_by_name(outcome: Outcomes) -> None:
    found = outcome("survived")
    shuffled = only(found.log, "fault", fault="names_shuffled")[0]["time_ns"]

    meanwhile = [
        line["position"]
        for line in found.commands()
        if shuffled <= line["time_ns"] <= shuffled + 1e9
    ]

    assert len(meanwhile) > 30
    assert np.abs(np.array(meanwhile)[:, STILL] - np.array(REST)[STILL]).max() < 0.01


def test_a_state_with_nan_is_reported_and_not_used(outcome: Outcomes) -> None:
    event = outcome("survived").run.events("state_not_finite")[0]

    assert "left_shoulder" in event["text"] or "right_shoulder" in event["text"]
    assert "got nan" in event["text"]


def test_stamps_that_jump_back_are_reported_and_learnt_anew_if_they_stay(
    outcome: Outcomes,
) -> None:
    run = outcome("survived").run

    texts = [event["text"] for event in run.events("stamps_jumped /camera_f/")]
    assert any("its message is not used" in text for text in texts)
    assert any("for good" in text for text in texts)
    differs = run.events("clock_differs /camera_f/")[0]["text"]
    assert "5.0" in differs and "behind" in differs
    assert run.report["violations"]["frame_stale"] == 0


def test_the_run_goes_on_without_a_master_and_registers_with_the_next_one(
    outcome: Outcomes,
) -> None:
    found = outcome("survived")

    texts = [event["text"] for event in found.run.events("master")]
    assert any("expected a ROS master" in text and "topics go on" in text for text in texts)
    assert any("a new ROS master answers" in text for text in texts)
    heard = read_log(found.folder / "late.jsonl")
    assert len(heard) > 5, "a node that came later gets the commands, too"


def test_a_slow_subscriber_delays_nobody_else(outcome: Outcomes) -> None:
    found = outcome("survived")

    heard = read_log(found.folder / "slow.jsonl")
    assert 2 <= len(heard) < len(found.commands()) / 4
    assert heard[-1]["wall"] - heard[-1]["stamp"] < 7.0, "what it is told does not get ever older"
    assert np.percentile(np.diff(found.stamps()), 95) < 2 * PERIOD_S


def test_missing_depth_is_reported_and_drives_on(outcome: Outcomes) -> None:
    run = outcome("survived").run

    assert "/camera_f/depth/image_raw" in run.events("missing cam_high_depth")[0]["text"]


def test_a_camera_that_stops_holds_the_robot_until_it_is_back(outcome: Outcomes) -> None:
    begin, end = outcome("stopped").run.events("frame_stale")[:2]

    assert (begin["what"], begin["subject"]) == ("begin", "cam_left_wrist")
    assert (end["what"], end["subject"]) == ("end", "cam_left_wrist")
    assert end["time_s"] < ROBOT_STOPS_S + 0.5


def test_a_robot_that_falls_silent_is_held_then_stopped_for_good(outcome: Outcomes) -> None:
    found = outcome("stopped")
    report = found.run.report

    assert found.run.status == 1
    assert report["outcome"] == "failed"
    assert report["violations"]["state_stale"] > 0
    assert report["stopped_by"] == "held_too_long"
    values = found.values()
    held = values[found.stamps() > found.stamps()[-1] - 0.5]
    assert np.ptp(held, axis=0).max() < 1e-6, "the robot was held before it was stopped"
    assert found.stamps()[-1] < found.resumed_s - 0.3, "a robot that is back is sent nothing more"


def test_bgr8_announced_as_rgb8_is_refused_before_the_first_command(
    environment: Environment, tmp_path: Path
) -> None:
    scene = Scene(environment("ros1"), tmp_path)
    wrong = ("--encoding", "bgr8", "--announced", "rgb8")

    with scene.ros.master(), scene.robot(*wrong, faults=[]):
        scene.use_facts()
        with running(*scene.arguments(5), environment=scene.ros.environment) as process:
            run = finish(process, 40)

    assert run.status == 1
    assert "camera_colour" in run.errors
    assert "cam_high" in run.errors
    assert not only(scene.log, "command")


def test_without_a_master_the_error_names_its_address(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = RosSystem(environment("ros1"), tmp_path)

    with pytest.raises(RobotError, match=f"ROS_MASTER_URI=http://127.0.0.1:{scene.port}") as info:
        connect(scene, monkeypatch)

    assert "\n" not in str(info.value)


def test_silent_topics_are_named_with_what_was_seen_instead(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(environment("ros1"), tmp_path)

    with scene.ros.master(), scene.robot(faults=[]), pytest.raises(RobotError) as info:
        connect(
            scene.ros,
            monkeypatch,
            puppet_arm_left_topic="/puppet/left",
            img_left_topic="/odom_raw",
        )

    text = str(info.value)
    assert "/puppet/left (nobody publishes it)" in text
    assert "/odom_raw (its kind is nav_msgs/Odometry, expected sensor_msgs/Image)" in text
    assert "Other topics of that kind here: /camera_f/color/image_raw" in text
    assert "\n" not in text


def connect(ros: RosSystem, monkeypatch: pytest.MonkeyPatch, **topics: str) -> None:
    """Connects the driver alone, and closes it."""
    for name, value in ros.environment.items():
        monkeypatch.setenv(name, value)
    operator = AlohaOperator(img_front_topic="/camera_f/color/image_raw")
    driver = DriverProcess.start(
        "aloha-agilex",
        target="flux_driver.ros.aloha:AlohaDriver",
        arguments={
            "spec": dataclasses.asdict(SPEC),
            "topics": dataclasses.asdict(dataclasses.replace(operator, **topics)),
            "first_messages_s": 1.0,
        },
        python=ros.python,
    )
    try:
        driver.connect(SPEC.cameras)
    finally:
        driver.close()
