"""ALOHA and a UR arm over ROS 2, and what the connection does with real publishers and subscribers.

The robot is a node that shares no code with flux; its own log is the judge. Every test has a domain
of its own, so tests that run side by side do not hear each other.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flux_core.errors import RobotError
from flux_core.robots import ROBOT_SPECS, AlohaOperator, RobotSpec
from flux_runtime.realtime import DriverProcess

from ..environments import ROOT, Environment
from ..machine_stalls import Attempt
from .policy import write_bundle
from .ros1 import only, read_log
from .runs import Run, finish, running

FOLDER = Path(__file__).parent / "ros2"
SOURCES = ROOT / "packages" / "flux-runtime" / "src"
ALOHA = ROBOT_SPECS["aloha-agilex"]
UR = ROBOT_SPECS["ur3"]
UR_REST = [0.2, -1.4, 1.2, -1.1, -1.4, 0.3, 0.9]
ALOHA_REST = [0.1, 1.2, -1.0, 0.1, 0.2, -0.3, 0.06, -0.1, 1.3, -0.9, 0.2, 0.1, 0.3, 0.07]
SHORT_S, STOPS_S = 3.0, 1.5
"""How long a robot is driven unless FLUX_ROBOT_SECONDS asks for more than the default; when the
silent one falls silent."""

DOMAINS = ((7 * os.getpid() + number) % 100 + 1 for number in count())
"""Numbers of ROS 2's for tests that run at the same time; above 101 their ports may be taken."""


def variables() -> dict[str, str]:
    """The variables of a domain on this machine alone."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("ROS_")}
    found.pop("PYTHONPATH", None)
    return found | {
        "ROS_DOMAIN_ID": str(next(DOMAINS)),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "OMP_NUM_THREADS": "1",
    }


def run_script(python: Path, script: str, *arguments: str) -> dict[str, Any]:
    """Returns the JSON object that a script prints."""
    done = subprocess.run(
        [python, FOLDER / script, SOURCES, *arguments],
        env=variables(),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@dataclass(frozen=True)
class Outcome:
    """A run and what its robot wrote down."""

    run: Run
    log: list[dict[str, Any]]

    def commands(self, arm: str) -> list[dict[str, Any]]:
        """What an arm was told."""
        return only(self.log, "command", arm=arm)

    def values(self, arm: str) -> NDArray[np.float64]:
        """Where each command sends the arm's joints, (N, joints)."""
        return np.array([line["position"] for line in self.commands(arm)])

    def stamps(self, arm: str) -> NDArray[np.float64]:
        """When each command was sent, by the driver's clock."""
        return np.array([line["stamp"] for line in self.commands(arm)])


@contextmanager
def robot(
    python: Path, environment: dict[str, str], log: Path, *arguments: str
) -> Iterator[subprocess.Popen[str]]:
    """Runs the test robot meanwhile."""
    with subprocess.Popen(
        [str(python), str(FOLDER / "node.py"), str(log), *arguments],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def drive(
    python: Path, folder: Path, spec: RobotSpec, seconds: float, options: Sequence[str], *node: str
) -> Outcome:
    """Drives a test robot with a bundle whose policy moves the first two joints in circles."""
    environment, log = variables(), folder / "robot.jsonl"
    name, rest = ("aloha", ALOHA_REST) if spec is ALOHA else ("ur", UR_REST)
    bundle = write_bundle(
        folder / "bundle", dataclasses.asdict(spec), rest=rest, pairs=[(0, 1)], radius=0.15
    )
    config = folder / "robot.json"
    config.write_text(json.dumps({"gripper_state_kind": "std_msgs/Float32"} if spec is UR else {}))
    arguments = [
        *("--robot", spec.name, "--transport", "ros2", "--driver-python", str(python)),
        *("--bundle", str(bundle), "--episodes", "1", "--mode", "async", "--json"),
        *("--max-steps", str(round(seconds * spec.control_hz)), "--robot-config", str(config)),
        *options,
    ]
    start = ("--start", json.dumps(rest))
    with (
        robot(python, environment, log, name, *start, *node),
        running(*arguments, environment=environment) as process,
    ):
        run = finish(process, seconds + 60)
        return Outcome(run, read_log(log))


Outcomes = Callable[[str], Outcome]


@pytest.fixture(scope="module")
def outcome(
    environment: Environment, robot_seconds: float, tmp_path_factory: pytest.TempPathFactory
) -> Outcomes:
    """Returns the outcome of `aloha`, `silent` or `ur`; all run at once, once per attempt."""
    python = environment("ros2")
    seconds = SHORT_S if robot_seconds <= 10 else robot_seconds
    silent = ("--best-effort", "--stop-after", str(STOPS_S))
    runs: dict[str, tuple[Any, ...]] = {
        "aloha": (ALOHA, seconds, ()),
        "ur": (UR, seconds, (), "--best-effort"),
        "silent": (ALOHA, 30.0, ("--hold-for", "0.5"), *silent),
    }
    found: dict[int, dict[str, Outcome]] = {}

    def drive_all() -> dict[str, Outcome]:
        with ThreadPoolExecutor() as pool:
            begun = {
                name: pool.submit(drive, python, tmp_path_factory.mktemp(name), *arguments)
                for name, arguments in runs.items()
            }
            return {name: run.result() for name, run in begun.items()}

    def of(name: str) -> Outcome:
        if Attempt.number not in found:
            found[Attempt.number] = drive_all()
        return found[Attempt.number][name]

    return of


@pytest.mark.parametrize("name, spec", [("aloha", ALOHA), ("ur", UR)])
def test_a_robot_gets_its_commands_at_its_rate_and_within_its_limits(
    outcome: Outcomes, name: str, spec: RobotSpec
) -> None:
    found = outcome(name)

    assert found.run.status == 0, found.run.errors
    assert found.run.report["outcome"] == "finished"
    lower, upper = np.array(spec.lower) - 1e-6, np.array(spec.upper) + 1e-6
    arms = {"left": slice(0, 7), "right": slice(7, 14)} if spec is ALOHA else {"arm": slice(0, 6)}
    for arm, own in arms.items():
        stamps, values = found.stamps(arm), found.values(arm)
        assert len(stamps) >= 0.97 * found.run.report["ticks"]
        assert np.median(np.diff(stamps)) == pytest.approx(1 / spec.control_hz, rel=0.02)
        assert (values >= lower[own]).all() and (values <= upper[own]).all()
    first = found.values(next(iter(arms)))
    assert np.ptp(first[:, 0]) > 0.1, "it has moved"
    assert np.abs(first[:, 2:6] - first[0, 2:6]).max() < 0.01, "and only the joints that should"


def test_the_gripper_of_a_ur_arm_gets_its_opening(outcome: Outcomes) -> None:
    openings = outcome("ur").values("gripper")

    assert len(openings) > 50 and np.abs(openings - UR_REST[6]).max() < 0.01


def test_a_best_effort_robot_that_falls_silent_is_held_then_stopped(outcome: Outcomes) -> None:
    found = outcome("silent")

    assert found.run.status == 1
    assert found.run.report["violations"]["state_stale"] > 0
    assert found.run.report["stopped_by"] == "held_too_long"
    values, stamps = found.values("left"), found.stamps("left")
    assert np.ptp(values[:, 0]) > 0.02, "it has moved before"
    held = values[stamps > stamps[-1] - 0.3]
    assert np.ptp(held, axis=0).max() < 1e-6


def test_a_missing_rclpy_is_one_line_with_the_way_out(tmp_path: Path) -> None:
    bundle = write_bundle(
        tmp_path / "bundle", dataclasses.asdict(ALOHA), rest=ALOHA_REST, pairs=[(0, 1)]
    )
    arguments = ("--robot", ALOHA.name, "--transport", "ros2", "--bundle", str(bundle))
    python = ("--driver-python", sys.executable)
    with running(*arguments, *python, environment=variables()) as process:
        run = finish(process, 60)
    assert run.status == 1
    assert f"rclpy: cannot be imported by {sys.executable}" in run.error
    assert "Source your ROS (source /opt/ros/DISTRO/setup.bash)" in run.error


def test_silent_topics_are_named_with_the_domain(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = variables()
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    driver = DriverProcess.start(
        ALOHA.name,
        target="flux_driver.ros.aloha:AlohaDriver",
        arguments={
            "spec": dataclasses.asdict(ALOHA),
            "topics": dataclasses.asdict(AlohaOperator()),
            "transport": "ros2",
            "first_messages_s": 0.1,
        },
        python=environment("ros2"),
    )
    with pytest.raises(RobotError) as info:
        driver.connect(ALOHA.cameras)
    driver.close()

    text = str(info.value)
    assert f"ROS_DOMAIN_ID={found['ROS_DOMAIN_ID']}: expected messages within 0.1 s" in text
    assert "/puppet/joint_left (nobody publishes it)" in text and "\n" not in text


@pytest.fixture(scope="module")
def peer(environment: Environment) -> dict[str, Any]:
    """What flux's connection and a node of rclpy's own have seen of each other."""
    return run_script(environment("ros2"), "peer.py")


def test_reliable_and_best_effort_publishers_are_both_heard(peer: dict[str, Any]) -> None:
    assert peer["heard"]
    assert peer["type"] == "JointState" and peer["stamp_s"] == 1000.25 and peer["is_now"]


def test_what_cannot_be_heard_or_told_is_reported(peer: dict[str, Any]) -> None:
    (_, told), (_, heard) = peer["warnings"]
    assert told.startswith("/latched: /lab/peer gets no commands: the publisher's durability is")
    assert heard.startswith("/stated: nothing of /lab/peer arrives: the publisher's reliability")
    assert "no_such_msgs/Thing: expected this kind of message" in peer["wrong_kind"]


def test_commands_arrive_with_their_stamps(peer: dict[str, Any]) -> None:
    assert peer["taken"] and peer["taken_stamp"] == [1234, 750_000_000]
    assert peer["taken_position"] == [1.5, 2.5]
    assert peer["publishers"] == [["/lab/peer"], []] and peer["num_subscribers"] == 1
    assert set(peer["published"].values()) == {"sensor_msgs/JointState"}
    assert peer["place"].startswith("ROS_DOMAIN_ID=")


def test_images_of_ros_2_are_read_like_those_of_ros_1(peer: dict[str, Any]) -> None:
    red = [250, 1, 2]
    assert peer["images"] == {"image": red, "depth": [[256, 2]], "png": red}


def test_the_connection_leaves_the_process_as_it_was(peer: dict[str, Any]) -> None:
    assert peer["handlers"], "no signal handler is replaced"
    assert peer["threads"] == [] and peer["close_s"] < 20
    assert peer["peer_lives"], "the context of other nodes goes on"


def test_cameras_are_read_by_real_opencv(environment: Environment, tmp_path: Path) -> None:
    seen = run_script(environment("ros2"), "cameras.py", str(tmp_path))

    times, colours = np.array(seen["film"])[:, 0], np.array(seen["film"])[:, 1:]
    steps = np.round(times * 20)
    np.testing.assert_allclose(times, steps / 20, atol=1e-6)
    assert np.abs(colours[:, 0] - colours[0, 0] - 40 * steps).max() < 12
    assert colours[:, 1:].max() < 12, "red, not blue"
    assert seen["picture"] == [[64, 48, 3], [200, 9, 0]]
    assert 0 <= seen["age_s"] < 5
    film, missing, null, size = seen["errors"]
    assert "Use type: video" in film and "/dev/video987 does not exist" in missing
    assert "OpenCV cannot open '/dev/null'" in null
    assert "expected 640 x 48 pixels, the device gives 64 x 48" in size
