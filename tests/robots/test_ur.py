"""A UR arm over RTDE and over ROS 1, driven by the command; what the other side logs is the judge.

Over RTDE, unmodified `ur_rtde` talks to a fake controller; over ROS, a real master has a node that
publishes and takes what the tutorial's nodes do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ..environments import Environment, fault_of
from ..machine_stalls import Attempt
from .ur.runs import GRIPPER, PAUSE_S, PERIOD_S, SPEC, START, WATCHDOG_HZ, Outcome, Scenario, run

SIDE_BY_SIDE = 5
ROUGHLY_S = 0.35
"""What a busy machine with two cores may add to a time that is measured from outside."""
FAULT_S = 1.5
SLOW_FROM_S, SLOW_FOR_S, SHARE = 3.0, 3.0, 0.2
OPEN_M = 0.085
URDF_NAMES = tuple(f"{name}_joint" for name in SPEC.joint_names[:6])


def fault(kind: str) -> Scenario:
    """A fault to the end of a run."""
    return Scenario(faults=[{"kind": kind, "at": FAULT_S}])


SCENARIOS = {
    "speed": Scenario(
        faults=[{"kind": "speed", "at": SLOW_FROM_S, "for": SLOW_FOR_S, "share": SHARE}],
    ),
    "over ROS": Scenario(
        faults=[
            {"kind": "speed", "at": SLOW_FROM_S, "for": SLOW_FOR_S, "share": SHARE},
            {"kind": "gripper_silent", "at": SLOW_FROM_S + SLOW_FOR_S, "for": 1.0},
            {"kind": "camera_silent", "at": SLOW_FROM_S + SLOW_FOR_S + 1.2, "for": 1.0},
            {"kind": "nan", "at": 2.0, "for": 0.05},
        ],
        config={"gripper_open": OPEN_M, "speed_scaling_topic": "/speed_scaling_factor"},
        environment="ros1",
    ),
    "protective stop": fault("protective_stop"),
    "silent": fault("silent"),
    "hangs": fault("not_ready"),
    "frozen": fault("frozen"),
    "policy killed": Scenario(kill="policy"),
    "driver killed": Scenario(kill="driver"),
    "ur_rtde killed": Scenario(kill="ur_rtde"),
    "joints silent": Scenario(
        faults=[{"kind": "silent", "at": FAULT_S}],
        arguments=("--hold-for", "0.6"),
        environment="ros1",
    ),
    "node paused": Scenario(
        kill="node", arguments=("--hold-for", "0.6"), environment="ros1", seconds=8.0
    ),
}
LONG = ("speed", "over ROS")
"""They last for FLUX_ROBOT_SECONDS."""


class Outcomes:
    """The outcomes of the scenarios, each run once per attempt, side by side."""

    def __init__(self, python: Environment, folder: Path, seconds: float, pool: ThreadPoolExecutor):
        self._python, self._folder, self._seconds, self._pool = python, folder, seconds, pool
        self._runs: dict[str, Future[Outcome]] = {}

    def begin(self, name: str) -> Future[Outcome]:
        """Begins to run a scenario."""
        key = f"{name} {Attempt.number}"
        if key not in self._runs:
            scenario = SCENARIOS[name]
            if name in LONG:
                scenario = replace(scenario, seconds=self._seconds)
            folder = self._folder / key.replace(" ", "_")
            python = self._python(scenario.environment)
            self._runs[key] = self._pool.submit(run, folder, python, scenario)
        return self._runs[key]

    def __call__(self, name: str) -> Outcome:
        """Returns the outcome of a scenario."""
        return self.begin(name).result()


@pytest.fixture(scope="module")
def outcome(
    environment: Environment, robot_seconds: float, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcomes]:
    """Returns the outcome of a scenario by its name."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        outcomes = Outcomes(environment, tmp_path_factory.mktemp("ur"), robot_seconds, pool)
        for name, scenario in SCENARIOS.items():
            if not fault_of(scenario.environment):
                outcomes.begin(name)
        yield outcomes


@pytest.mark.parametrize("name", LONG)
def test_the_arm_gets_30_commands_per_second_within_its_limits(
    outcome: Outcomes, robot_seconds: float, name: str
) -> None:
    found = outcome(name)
    times, commands = found.times_s("servoj"), found.values("servoj", "q")

    assert found.run.status == 0, found.run.errors
    assert found.run.report["outcome"] == "finished"
    assert found.run.report["commands_out_of_limit"] == 0
    assert len(times) >= 0.97 * robot_seconds / PERIOD_S
    assert np.median(np.diff(times)) == pytest.approx(PERIOD_S, rel=0.05)
    assert np.percentile(np.diff(times), 95) < 2 * PERIOD_S
    assert (np.abs(commands) <= np.array(SPEC.upper[:6])).all()
    steps = np.abs(np.diff(commands, axis=0)) / np.array(SPEC.max_velocity[:6])
    assert np.percentile(steps.max(axis=1), 99) <= PERIOD_S * 1.01
    assert steps.max() <= 3 * PERIOD_S
    assert np.abs(commands[0] - np.array(START)).max() < 0.02, "it begins where the arm stands"
    assert np.ptp(commands[:, 0]) > 0.1, "it has moved"


def test_servoj_has_the_settings_of_the_robot_config(outcome: Outcomes) -> None:
    first = next(line for line in outcome("speed").log if line["what"] == "servoj")

    assert (first["time"], first["lookahead"], first["gain"]) == (0.008, 0.1, 300.0)
    watchdog = next(line for line in outcome("speed").log if line["what"] == "watchdog_set")
    assert watchdog["hz"] == WATCHDOG_HZ


@pytest.mark.parametrize("name", LONG)
def test_at_a_fifth_of_its_speed_the_arm_is_sent_a_fifth_of_the_way(
    outcome: Outcomes, name: str
) -> None:
    found = outcome(name)
    times = found.times_s("servoj")[1:] - found.first_s("servoj")
    steps = np.linalg.norm(np.diff(found.values("servoj", "q"), axis=0), axis=1)

    full = steps[(times > 1.0) & (times < SLOW_FROM_S)]
    slow = steps[(times > SLOW_FROM_S + 0.5) & (times < SLOW_FROM_S + SLOW_FOR_S)]

    assert np.median(slow) / np.median(full) == pytest.approx(SHARE, rel=0.2)
    assert found.run.report["violations"]["following_error"] == 0


def test_a_speed_that_the_controller_reduces_is_told(outcome: Outcomes) -> None:
    event = outcome("speed").run.events("reduced_speed")[0]

    assert "20%" in event["text"]


def test_the_gripper_goes_where_it_is_sent(outcome: Outcomes) -> None:
    sent = [line for line in outcome("speed").log if line["what"] == "gripper" and "POS" in line]

    assert sent[-1]["POS"] == pytest.approx(3 + (1 - GRIPPER) * 227, abs=1)
    assert sent[-1]["GTO"] == 1


def test_over_ros_joints_are_told_apart_by_name_and_commands_have_names_and_stamps(
    outcome: Outcomes,
) -> None:
    found = outcome("over ROS")
    commands = [line for line in found.log if line["what"] == "servoj"]

    assert {tuple(line["names"]) for line in commands} == {URDF_NAMES}
    assert all(0 <= line["age_s"] < 1 for line in commands)
    still = np.array([line["q"] for line in commands])[:, 2]
    assert np.abs(still - START[2]).max() < 0.01, "the elbow comes first in the alphabet"


def test_over_ros_the_gripper_is_read_and_sent_in_its_own_unit(outcome: Outcomes) -> None:
    sent = [line["data"] for line in outcome("over ROS").log if line["what"] == "gripper"]

    assert sent[0] == pytest.approx(OPEN_M, rel=0.1), "it begins where the gripper is"
    assert sent[-1] == pytest.approx(GRIPPER * OPEN_M, rel=0.01)


def test_over_ros_a_gripper_that_is_silent_holds_the_arm(outcome: Outcomes) -> None:
    run = outcome("over ROS").run

    assert "/gripper/position" in run.events("silent /gripper/position")[0]["text"]
    assert run.report["violations"]["state_stale"] > 0


def test_over_ros_a_camera_that_stops_holds_the_arm_until_it_is_back(outcome: Outcomes) -> None:
    begin, end = outcome("over ROS").run.events("frame_stale")[:2]

    assert (begin["what"], begin["subject"]) == ("begin", "cam_wrist")
    assert (end["what"], end["subject"]) == ("end", "cam_wrist")


def test_over_ros_a_state_with_nan_is_reported_and_not_used(outcome: Outcomes) -> None:
    event = outcome("over ROS").run.events("state_not_finite")[0]

    assert "elbow: expected a finite number, got nan" in event["text"]


def test_over_ros_a_node_that_stands_still_is_held_then_stopped_for_good(
    outcome: Outcomes,
) -> None:
    found = outcome("node paused")
    stamps = np.array([line["stamp"] for line in found.log if line["what"] == "servoj"])
    paused_s = found.first_s("kill") + time.time() - time.monotonic()

    assert found.run.status == 1
    assert found.run.report["stopped_by"] == "held_too_long"
    assert found.run.report["violations"]["state_stale"] > 0
    assert stamps[-1] < paused_s + PAUSE_S - 0.2, "a robot that is back is sent nothing more"


def test_over_ros_joints_that_are_silent_hold_and_then_stop(outcome: Outcomes) -> None:
    found = outcome("joints silent")

    assert found.run.status == 1
    assert found.run.report["stopped_by"] == "held_too_long"
    assert found.run.report["violations"]["state_stale"] > 0
    assert_no_command_after(found, found.first_s("fault") + 0.2 + 0.3 + 0.6 + ROUGHLY_S)
    last = found.values("servoj", "q")[-5:]
    assert np.ptp(last, axis=0).max() < 1e-6, "the arm was held before it was stopped"


def test_the_end_of_a_run_ends_the_control_program(outcome: Outcomes) -> None:
    log = outcome("speed").log

    ends = [line["why"] for line in log if line["what"] == "program_ended"]
    assert ends == ["the client has ended it"]


def test_a_protective_stop_ends_the_run_with_its_reason(outcome: Outcomes) -> None:
    found = outcome("protective stop")
    stopped_s = found.first_s("protective_stop")

    assert_ended(found, "protective stop", "clear it on the pendant")
    assert_no_command_after(found, stopped_s + 2 * PERIOD_S)
    ended = next(line for line in found.log if line["what"] == "program_ended")
    assert ended["why"] == "dashboard", "an arm that is released does not move on by itself"
    assert ended["t"] * 1e-9 - stopped_s < 1.0 + ROUGHLY_S


def test_a_controller_that_stops_answering_holds_and_then_stops(outcome: Outcomes) -> None:
    found = outcome("silent")
    silent_s = found.first_s("fault")

    assert_ended(found, "silent for 1 s", "timestamp stands still")
    assert found.run.report["violations"]["state_stale"] > 0
    assert_watchdog(found, silent_s)
    assert any(line.get("request") == "stop" for line in found.log), "the dashboard was asked to"


def test_a_servoj_that_hangs_neither_delays_the_stop_nor_hides_its_reason(
    outcome: Outcomes,
) -> None:
    found = outcome("hangs")

    assert_ended(found, "the control program on the controller has ended")
    assert_watchdog(found, found.first_s("fault"))
    assert any(line.get("request") == "stop" for line in found.log), "the dashboard was asked to"


def test_a_controller_that_is_dead_on_every_port_is_said_to_be_so(outcome: Outcomes) -> None:
    found = outcome("frozen")

    assert_ended(found, "silent for 1 s")
    assert "the robot's own stop has failed" in found.run.errors
    assert "use the emergency stop" in found.run.errors


def test_when_the_policy_is_killed_the_driver_stops_the_arm(outcome: Outcomes) -> None:
    found = outcome("policy killed")
    killed_s = found.first_s("kill")

    assert found.run.status == -9
    assert 0 < found.first_s("servo_stop") - killed_s < 3 * PERIOD_S + ROUGHLY_S
    assert found.rest_s(killed_s) < 3 * PERIOD_S + 0.3 + ROUGHLY_S
    assert_no_command_after(found, killed_s + PERIOD_S + ROUGHLY_S)


@pytest.mark.parametrize("who", ["driver", "ur_rtde"])
def test_when_the_driver_is_killed_the_controllers_watchdog_stops_the_arm(
    outcome: Outcomes, who: str
) -> None:
    found = outcome(f"{who} killed")

    assert found.run.status == 1
    assert found.run.report["stopped_by"] in ("driver_dead", "driver_failed")
    # The driver, if it still lives, ends the program through the dashboard meanwhile.
    ways = ("watchdog",) if who == "driver" else ("watchdog", "dashboard")
    assert_program_ended(found, found.first_s("kill"), ways)


def assert_ended(found: Outcome, *words: str) -> None:
    """The run has failed, with one line that has these words."""
    assert found.run.status == 1, (found.run.status, found.run.errors)
    assert "Traceback" not in found.run.errors, found.run.errors
    for word in words:
        assert word in found.run.error, f"{word!r} is not in {found.run.error!r}"
    assert found.run.error.startswith("flux-runtime: error: ur3: ")


def assert_watchdog(found: Outcome, since_s: float) -> None:
    """The watchdog has ended the program in time, and the arm stands."""
    assert_program_ended(found, since_s, ("watchdog",))


def assert_program_ended(found: Outcome, since_s: float, ways: Sequence[str]) -> None:
    """The program on the controller has ended in time in one of these ways, and the arm stands."""
    ended = next(line for line in found.log if line["what"] == "program_ended")
    assert ended["why"] in ways
    assert ended["t"] * 1e-9 - since_s < 1 / WATCHDOG_HZ + PERIOD_S + ROUGHLY_S
    assert found.rest_s(since_s) < 1 / WATCHDOG_HZ + 0.3 + ROUGHLY_S
    assert_no_command_after(found, since_s + ROUGHLY_S)


def assert_no_command_after(found: Outcome, since_s: float) -> None:
    """The controller has heard nothing more of the arm's motion."""
    assert found.times_s("servoj")[-1] <= since_s
