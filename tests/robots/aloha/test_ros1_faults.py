"""Further faults of a robot under ROS 1, each in a run of its own: `make test-robots`."""

from __future__ import annotations

import io
import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flux_data.lerobot import open_lerobot
from flux_data.validate import validate

from ...environments import Environment
from ..ros1 import only
from ..runs import Run, finish, running
from .scene import PERIOD_S, Outcome, Scene

pytestmark = pytest.mark.slow
SECONDS = 6.0


@pytest.fixture
def scene(environment: Environment, tmp_path: Path) -> Scene:
    """A robot and a bundle of this test's own."""
    return Scene(environment("ros1"), tmp_path)


def drive(scene: Scene, *robot: str, faults: list[dict[str, object]], options: str = "") -> Outcome:
    """Drives the robot for some seconds."""
    arguments = (*scene.arguments(SECONDS), *options.split())
    with (
        scene.ros.master(),
        scene.robot(*robot, faults=faults),
        running(*arguments, environment=scene.ros.environment) as process,
    ):
        return Outcome(finish(process, SECONDS + 40), scene.log, scene.folder)


def begins_and_ends(run: Run, name: str) -> list[str]:
    """How the events of a fault follow each other."""
    return [event["what"] for event in run.events(name)]


def test_a_camera_that_stops_for_good_stops_the_robot(scene: Scene) -> None:
    run = drive(scene, faults=[{"what": "camera_stops", "camera": "f", "at": 1.0}]).run

    assert run.status == 1
    assert run.report["stopped_by"] == "held_too_long"
    assert "frame_stale" in run.report["reason"]
    assert {event["subject"] for event in run.events("frame_stale")} == {"cam_high"}


def test_a_state_that_stays_nan_holds_the_robot_until_it_is_finite(scene: Scene) -> None:
    found = drive(scene, faults=[{"what": "nan", "at": 1.0, "for": 0.6}])

    assert found.run.status == 0
    assert begins_and_ends(found.run, "state_stale")[:2] == ["begin", "end"]
    assert found.run.events("state_not_finite")
    begin_s, end_s = (event["time_s"] for event in found.run.events("state_stale")[:2])
    times = found.stamps() - found.stamps()[0]
    held = found.values()[(times > begin_s + 0.35) & (times < end_s - 2 * PERIOD_S)]
    assert len(held) > 3
    assert np.ptp(held, axis=0).max() < 1e-6


def test_stamps_of_a_machine_whose_clock_is_ahead_are_measured(scene: Scene) -> None:
    run = drive(scene, "--ahead", "7", faults=[]).run

    assert run.status == 0
    texts = [event["text"] for event in run.events("clock_differs")]
    assert any("ahead of this machine's" in text for text in texts)
    assert run.report["violations"]["state_stale"] == 0


def test_a_robots_node_that_is_started_again_is_driven_on(scene: Scene) -> None:
    arguments = (*scene.arguments(SECONDS), "--hold-for", "5")
    with (
        scene.ros.master(),
        scene.robot(faults=[]) as first,
        running(*arguments, environment=scene.ros.environment) as process,
    ):
        scene.wait_until(1.5)
        first.kill()
        first.wait()
        killed_ns = time.monotonic_ns()
        with scene.robot(faults=[]):
            run = finish(process, SECONDS + 40)
            log = scene.log

    assert run.status == 0
    assert begins_and_ends(run, "state_stale")[:2] == ["begin", "end"]
    assert len([line for line in only(log, "command") if line["time_ns"] > killed_ns]) > 50


def test_a_master_that_hangs_is_reported_and_delays_nothing(scene: Scene) -> None:
    with (
        scene.ros.master() as master,
        scene.robot(faults=[]),
        running(*scene.arguments(SECONDS), environment=scene.ros.environment) as process,
    ):
        scene.wait_until(1.0)
        master.send_signal(signal.SIGSTOP)
        found = Outcome(finish(process, SECONDS + 40), scene.log, scene.folder)

    assert found.run.status == 0
    assert any("topics go on" in event["text"] for event in found.run.events("master"))
    assert np.percentile(np.diff(found.stamps()), 95) < 2 * PERIOD_S


def test_it_warns_of_commands_that_nobody_takes_and_of_a_second_commander(scene: Scene) -> None:
    run = drive(scene, "--led", faults=[]).run

    for topic in ("/master/joint_left", "/master/joint_right"):
        assert "nobody takes commands" in run.events(f"no_subscriber {topic}")[0]["text"]
        assert "/cobot publishes" in run.events(f"second_commander {topic}")[0]["text"]


@pytest.mark.parametrize("encoding", ["bgr8", "mono8"])
def test_other_encodings_are_read(scene: Scene, encoding: str) -> None:
    assert drive(scene, "--encoding", encoding, faults=[]).run.status == 0


def test_the_mobile_base_and_depth_are_recorded_without_being_driven(scene: Scene) -> None:
    settings = {"use_depth_image": True, "use_robot_base": True}
    (scene.folder / "robot.json").write_text(json.dumps(settings))
    dataset = scene.folder / "dataset"
    options = f"--robot-config {scene.folder / 'robot.json'} --record-dataset {dataset}"
    found = drive(scene, "--depth", faults=[], options=options)

    assert found.run.status == 0, found.run.errors
    assert not found.run.events("missing")
    assert not only(found.log, "base_command")
    assert found.run.report["dataset_recording"]["complete"]
    assert validate(dataset) == []
    source = open_lerobot(dataset)
    names = ("cam_high", "cam_left_wrist", "cam_right_wrist")
    assert source.camera_keys == tuple(f"observation.images.{name}" for name in names)
    assert source.depth_keys == tuple(f"observation.images.{name}_depth" for name in names)
    encoded = source.encoded_image(0, source.depth_keys[0], source.num_frames - 1)
    assert isinstance(encoded, bytes)
    depth = np.asarray(Image.open(io.BytesIO(encoded)))
    assert depth.dtype == np.uint16 and 500 <= depth.min() == depth.max() < 600
    base = source.columns(["observation.base"])["observation.base"]
    assert np.unique(base, axis=0).tolist() == [[0.25, 0.0]]
