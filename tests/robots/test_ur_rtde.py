"""A UR arm over RTDE: unmodified `ur_rtde` against a fake controller, whose log is the judge."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ..machine_stalls import Attempt
from .conftest import Environment
from .ur.runs import GRIPPER, PERIOD_S, SPEC, START, WATCHDOG_HZ, Outcome, Scenario, run

SIDE_BY_SIDE = 4
ROUGHLY_S = 0.35
"""What a busy machine with two cores may add to a time that is measured from outside."""
FAULT_S = 1.5
SLOW_FROM_S, SLOW_FOR_S, SHARE = 3.0, 3.0, 0.2


def fault(kind: str) -> Scenario:
    """A fault to the end of a run."""
    return Scenario(faults=[{"kind": kind, "at": FAULT_S}])


SCENARIOS = {
    "speed": Scenario(
        faults=[{"kind": "speed", "at": SLOW_FROM_S, "for": SLOW_FOR_S, "share": SHARE}],
        arguments=("--limit", "elbow=-2:2"),
    ),
    "protective stop": fault("protective_stop"),
    "silent": fault("silent"),
    "hangs": fault("not_ready"),
    "frozen": fault("frozen"),
    "policy killed": Scenario(kill="policy"),
    "driver killed": Scenario(kill="driver"),
    "ur_rtde killed": Scenario(kill="ur_rtde"),
}


class Outcomes:
    """The outcomes of the scenarios, each run once per attempt, side by side."""

    def __init__(self, python: Path, folder: Path, seconds: float, pool: ThreadPoolExecutor):
        self._python, self._folder, self._seconds, self._pool = python, folder, seconds, pool
        self._runs: dict[str, Future[Outcome]] = {}

    def begin(self, name: str) -> Future[Outcome]:
        """Begins to run a scenario."""
        key = f"{name} {Attempt.number}"
        if key not in self._runs:
            scenario = SCENARIOS[name]
            if name == "speed":
                scenario = replace(scenario, seconds=self._seconds)
            folder = self._folder / key.replace(" ", "_")
            self._runs[key] = self._pool.submit(run, folder, self._python, scenario)
        return self._runs[key]

    def __call__(self, name: str) -> Outcome:
        """Returns the outcome of a scenario."""
        return self.begin(name).result()


@pytest.fixture(scope="module")
def outcome(
    environment: Environment, robot_seconds: float, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcomes]:
    """Returns the outcome of a scenario by its name."""
    python = environment("rtde")
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        outcomes = Outcomes(python, tmp_path_factory.mktemp("ur"), robot_seconds, pool)
        for name in SCENARIOS:
            outcomes.begin(name)
        yield outcomes


def test_the_arm_gets_30_commands_per_second_within_its_limits(
    outcome: Outcomes, robot_seconds: float
) -> None:
    found = outcome("speed")
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


def test_at_a_fifth_of_its_speed_the_arm_is_sent_a_fifth_of_the_way(outcome: Outcomes) -> None:
    found = outcome("speed")
    begun_s = found.first_s("servoj")
    times = found.times_s("servoj")[1:] - begun_s
    steps = np.linalg.norm(np.diff(found.values("servoj", "q"), axis=0), axis=1)

    full = steps[(times > 1.0) & (times < SLOW_FROM_S)]
    slow = steps[(times > SLOW_FROM_S + 0.5) & (times < SLOW_FROM_S + SLOW_FOR_S)]

    assert np.mean(slow) / np.mean(full) == pytest.approx(SHARE, rel=0.25)
    event = found.run.events("reduced_speed")[0]
    assert "20%" in event["text"]
    assert found.run.report["violations"]["following_error"] == 0


def test_the_gripper_goes_where_it_is_sent(outcome: Outcomes) -> None:
    sent = [line for line in outcome("speed").log if line["what"] == "gripper" and "POS" in line]

    assert sent[-1]["POS"] == pytest.approx(3 + (1 - GRIPPER) * 227, abs=1)
    assert sent[-1]["GTO"] == 1


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
    assert_watchdog(found, found.first_s("kill"))
    assert found.run.report["stopped_by"] in ("driver_dead", "driver_failed")


def assert_ended(found: Outcome, *words: str) -> None:
    """The run has failed, with one line that has these words."""
    assert found.run.status == 1, (found.run.status, found.run.errors)
    assert "Traceback" not in found.run.errors, found.run.errors
    for word in words:
        assert word in found.run.error, f"{word!r} is not in {found.run.error!r}"
    assert found.run.error.startswith("flux-runtime: error: ur3: ")


def assert_watchdog(found: Outcome, since_s: float) -> None:
    """The watchdog has ended the program in time, and the arm stands."""
    ended = next(line for line in found.log if line["what"] == "program_ended")
    assert ended["why"] == "watchdog"
    assert ended["t"] * 1e-9 - since_s < 1 / WATCHDOG_HZ + PERIOD_S + ROUGHLY_S
    assert found.rest_s(since_s) < 1 / WATCHDOG_HZ + 0.3 + ROUGHLY_S
    assert_no_command_after(found, since_s + ROUGHLY_S)


def assert_no_command_after(found: Outcome, since_s: float) -> None:
    """The controller has heard nothing more of the arm's motion."""
    assert found.times_s("servoj")[-1] <= since_s
