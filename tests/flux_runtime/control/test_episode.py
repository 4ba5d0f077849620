"""One episode with a fake loop: the order of calls, and when it ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_runtime.control.command_monitor import CommandMonitor
from flux_runtime.control.episode import EpisodeResult, run_episode
from flux_runtime.control.latency import StageTimes
from flux_runtime.control.policy_source import BundleSource, HoldSource, chunk_noise
from flux_runtime.control.success import STRICT_HOLD_TICKS
from flux_runtime.run.recording import Recorder


def run(fakes: Any, robot: Any, loop: Any, **changes: Any) -> EpisodeResult:
    fields = {"prompt": "wave", "seed": 7, "max_steps": 60, "source": HoldSource(robot.spec)}
    return run_episode(robot=robot, loop=loop, **(fields | changes))


def test_an_episode_ends_once_the_end_state_has_held(fakes: Any) -> None:
    robot, loop = fakes.ToyRobot(transferred_at=5), fakes.FakeLoop()
    result = run(fakes, robot, loop)
    assert result.success
    assert result.strict_success
    assert result.steps == 5 + STRICT_HOLD_TICKS - 1
    assert robot.calls[0] == "reset 7"
    assert loop.stopped


def test_an_episode_with_a_dropped_cube_runs_to_the_end_without_strict_success(fakes: Any) -> None:
    result = run(fakes, fakes.ToyRobot(transferred_at=5, dropped_at=20), fakes.FakeLoop())
    assert result.steps == 60
    assert result.success
    assert not result.strict_success
    assert result.stages["lifted"]
    assert not result.stages["held_by_left_only"]


def test_a_failed_episode_uses_all_steps(fakes: Any) -> None:
    result = run(fakes, fakes.ToyRobot(transferred_at=999), fakes.FakeLoop())
    assert (result.success, result.strict_success, result.steps) == (False, False, 60)


def test_holding_renders_no_images_and_stays_at_the_start(fakes: Any) -> None:
    robot = fakes.ToyRobot(transferred_at=999)
    result = run(fakes, robot, fakes.FakeLoop())
    assert "observe" not in robot.calls
    start = np.array([0.1, -0.1, 0.5], np.float32)
    assert all((command == start).all() for command in result.trace.commands)
    assert result.commands_out_of_limit == 0
    assert result.trace.chunk_starts == [0, 25, 50]


def difference_robot(fakes: Any) -> Any:
    """A toy robot whose commands are differences and whose state has one more dimension."""
    robot = fakes.ToyRobot(transferred_at=999)
    robot.spec = replace(
        robot.spec,
        rest_command=(0.0, 0.0, 1.0),
        state_names=("x", "y", "finger_left", "finger_right"),
        state_units=("m", "m", "m", "m"),
    )
    robot.state = lambda: np.array([0.3, 0.4, 0.0, 0.0], np.float32)
    return robot


def test_a_robot_commanded_by_differences_starts_and_rests_with_its_rest_command(
    fakes: Any, tmp_path: Path
) -> None:
    robot = difference_robot(fakes)
    recording = Recorder(tmp_path, robot.spec).begin(prompt="rest", seed=7)
    result = run(fakes, robot, fakes.FakeLoop(), max_steps=5, log=recording)
    assert [command.tolist() for command in robot.commands] == [[0.0, 0.0, 1.0]] * 5
    assert result.commands_out_of_limit == 0
    with np.load(recording.finish(result)) as recorded:
        assert (recorded["state"].shape, recorded["command"].shape) == ((5, 4), (5, 3))


def test_a_success_may_end_an_episode_at_once(fakes: Any) -> None:
    result = run(fakes, fakes.ToyRobot(transferred_at=5), fakes.FakeLoop(), hold_ticks=1)
    assert (result.steps, result.success, result.strict_success) == (5, True, True)


def test_the_robot_is_observed_only_when_a_chunk_is_needed(fakes: Any, toy_bundle: Path) -> None:
    from flux_core.bundle.bundle import Bundle

    robot, loop, times = fakes.ToyRobot(transferred_at=999), fakes.FakeLoop(4), StageTimes()
    source = BundleSource(
        bundle=Bundle.open(toy_bundle),
        encoder=fakes.ToyEncoder(),
        policy=None,
        engine="fake",
        times=times,
    )
    result = run(fakes, robot, loop, source=source, max_steps=10)
    assert result.trace.chunk_starts == [0, 4, 8]
    assert robot.calls.count("observe") == 3
    assert times.histograms()["encode"]["count"] == times.histograms()["render"]["count"] == 3
    states = [state for _, state, _ in loop.submitted]
    assert np.allclose(states[1], result.trace.states[4])
    noises = [noise for _, _, noise in loop.submitted]
    assert [n.shape for n in noises] == [(6, 3)] * 3
    assert (noises[1] == chunk_noise(7, 1, (6, 3))).all()


def test_the_noise_depends_only_on_the_seed_and_the_chunk() -> None:
    first = chunk_noise(1, 2, (4, 3))
    assert first.dtype == np.float32
    assert (first == chunk_noise(1, 2, (4, 3))).all()
    assert not (first == chunk_noise(2, 2, (4, 3))).any()
    assert not (first == chunk_noise(1, 3, (4, 3))).any()


def test_the_loop_is_stopped_when_the_robot_fails(fakes: Any) -> None:
    robot, loop = fakes.ToyRobot(), fakes.FakeLoop()

    def fail(action: np.ndarray) -> None:
        raise OSError("cable")

    robot.command = fail
    with pytest.raises(OSError, match="cable"):
        run(fakes, robot, loop)
    assert loop.stopped


def test_every_tick_is_announced(fakes: Any) -> None:
    steps: list[int] = []
    run(fakes, fakes.ToyRobot(), fakes.FakeLoop(), max_steps=5, on_tick=steps.append)
    assert steps == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("command", "is_fine"),
    [
        ([0.0, 0.0, 0.5], True),
        ([0.1, 0.0, 0.5], True),
        ([0.11, 0.0, 0.5], False),  # 5 rad/s at 50 Hz are 0.1 rad per tick
        ([0.0, 0.0, 0.2], True),
        ([np.nan, 0.0, 0.5], False),
        ([0.0, np.inf, 0.5], False),
    ],
)
def test_the_monitor_measures_each_command(fakes: Any, command: list[float], is_fine: bool) -> None:
    monitor = CommandMonitor(fakes.toy_spec(), np.array([0.0, 0.0, 0.4], np.float32))
    assert monitor.check(np.array(command, np.float32)) == is_fine
    assert monitor.num_out_of_limit == (not is_fine)


def test_the_monitor_sees_a_position_beyond_the_limit(fakes: Any) -> None:
    monitor = CommandMonitor(fakes.toy_spec(), np.array([2.0, 0.0, 1.0], np.float32))
    assert monitor.check(np.array([2.0, 0.0, 1.0], np.float32))
    assert not monitor.check(np.array([2.0001, 0.0, 1.0], np.float32))
