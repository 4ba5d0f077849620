"""Episodes in real time with the compiled control thread and a robot inside this process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flux_core.command_line import StoppedBySignal
from flux_core.errors import DataError, RobotError, UsageError
from flux_core.robots import ROBOT_SPECS, motion_limits
from flux_core.rtc import RTCConfig
from flux_runtime.chunking import MODE_WITHOUT_RTC, Chunking
from flux_runtime.control.command_monitor import GAP, RETURNING, CommandMonitor
from flux_runtime.control.episode import EpisodeResult
from flux_runtime.control.episode_log import Event
from flux_runtime.control.latency import StageTimes
from flux_runtime.control.realtime_episode import drive_realtime
from flux_runtime.control.realtime_rows import HOLDING, RUNNING, HoldWatch
from flux_runtime.control.realtime_session import (
    Confirm,
    RealtimeSession,
    connected_realtime,
    delay_of,
    with_latency,
)
from flux_runtime.control.session import RunOptions
from flux_runtime.realtime import RealtimeOptions, RealtimeSettings, realtime_settings
from flux_runtime.run.recorded_episode import read_recording
from flux_runtime.run.recording import Recorder

pytestmark = pytest.mark.usefixtures("core")
START = (0.1, -0.1, 0.5)
STAGES = ("touched", "transferred", "held_by_left_only")


class LoopbackDriver:
    """Has the parts of `DriverProcess` that an episode uses, for a robot inside this process."""

    failure = None

    def __init__(self, core: Any, spec: Any, start: Sequence[float] = START) -> None:
        self.spec = spec
        self.simulation: Any = None
        self.niceness = {"asked": 0, "got": 0, "error": ""}
        self.link = core.LoopbackLink(action_dim=3, state=list(start))
        self.calls: list[str] = []
        self.told: list[Any] = []
        self.error: Exception | None = None

    def connect(
        self,
        cameras: Sequence[str],
        *,
        cancelled: Any,
        limits: Any,
        command_hz: float,
        binary_mask: Any = None,
    ) -> None:
        self.calls.append(f"connect {limits.max_velocity[0]:g}")
        self.command_hz = command_hz

    def observe(self, cameras: Sequence[str]) -> tuple[np.ndarray, int, dict[str, Any]]:
        if self.error is not None:
            raise self.error
        state, captured_ns, _ = self.link.read_state()
        return state, captured_ns, {}

    def begin(self, session: int, *, stop_category: int) -> None:
        self.calls.append(f"begin {session}")

    def end(self) -> None:
        self.calls.append("end")

    def command_counts(self, session: int) -> tuple[int, int] | None:
        return self.link.num_commands, 0

    def reset(self, seed: int, *, cancelled: Any) -> None:
        self.calls.append(f"reset {seed}")

    def stages(self, progress: int) -> Mapping[str, bool]:
        return dict.fromkeys(STAGES, self.link.num_commands >= 10)

    def events(self) -> list[Any]:
        told, self.told = self.told, []
        return told

    def close(self) -> None:
        self.calls.append("close")


@contextmanager
def opened(
    driver: Any,
    *,
    confirm: Confirm = lambda question, cancelled: True,
    realtime: Mapping[str, Any] = {},
    **options: Any,
) -> Iterator[RealtimeSession]:
    settings = RealtimeOptions(priority=0, hold_for_s=0.3, **realtime)
    fields: dict[str, Any] = {"robot": "toy", "policy": "hold", "max_steps": 20}
    run = RunOptions(**(fields | options), realtime_options=settings)
    with connected_realtime(run, driver, None, StageTimes(), confirm) as session:
        yield session


@pytest.fixture
def driver(core: Any, fakes: Any) -> LoopbackDriver:
    return LoopbackDriver(core, fakes.toy_spec())


def test_an_episode_has_exactly_its_steps_and_then_brakes(driver: LoopbackDriver) -> None:
    with opened(driver) as session:
        results = [drive_realtime(session, seed) for seed in (1, 2)]
    assert [(r.steps, r.outcome, r.commands_out_of_limit) for r in results] == [
        (20, "finished", 0)
    ] * 2
    assert results[0].stats["ticks"] == 20
    counts = results[0].commands
    assert counts is not None and counts.sent == counts.accepted == len(results[0].trace.commands)
    assert driver.calls == ["connect 5", "begin 1", "end", "begin 2", "end", "close"]
    trace = results[1].trace
    assert len(trace.commands) >= 20
    assert np.allclose(trace.commands, START)
    intervals_ms = np.diff(trace.times_s) * 1e3
    assert np.median(intervals_ms) == pytest.approx(20, abs=2)
    timing = results[1].timing
    assert timing is not None and timing.intervals["count"] == len(trace.commands) - 1
    assert timing.inferences and all(0 <= i.state_age_s < 0.1 for i in timing.inferences)


def test_steps_are_those_of_the_policy_however_many_commands_each_has(
    driver: LoopbackDriver, tmp_path: Path
) -> None:
    recording = Recorder(tmp_path, driver.spec).begin(
        prompt="wave", seed=1, is_realtime=True, command_hz=200.0
    )
    with opened(driver, realtime={"command_hz": 200.0, "speed": 0.5}) as session:
        facts, lines = session.describe(), "\n".join(session.lines())
        result = drive_realtime(session, 1, log=recording)
    assert (result.steps, result.stats["ticks"], result.commands_out_of_limit) == (20, 80, 0)
    assert driver.command_hz == 200.0
    assert np.median(np.diff(result.trace.times_s)) == pytest.approx(0.005, abs=1e-3)
    assert (facts["command_hz"], facts["speed"]) == (200.0, 0.5)
    assert "executed at 0.5 of it; 200 commands per second on a cubic curve" in lines
    episode = read_recording(recording.finish(result))
    assert (episode.control_hz, episode.command_hz) == (50.0, 200.0)
    assert set(episode.arrays["speed"].tolist()) == {0.5}


def test_an_episode_ends_when_the_task_is_done(driver: LoopbackDriver) -> None:
    driver.simulation = SimpleNamespace(
        task="wave", success_stage="transferred", end_state="held_by_left_only"
    )
    with opened(driver, max_steps=200) as session:
        result = drive_realtime(session, 7, hold_ticks=5)
    assert (result.success, result.strict_success) == (True, True)
    assert 14 <= result.steps < 60
    assert "reset 7" in driver.calls
    assert result.stages == dict.fromkeys(STAGES, True)


def test_a_fault_ends_the_episode_with_its_reason_and_all_until_then(
    driver: LoopbackDriver,
) -> None:
    ends: list[EpisodeResult] = []

    def freeze(step: int) -> None:
        if step >= 8 and "freeze" not in driver.calls:
            driver.calls.append("freeze")
            driver.link.freeze(time.monotonic_ns())

    with (
        opened(driver, max_steps=500) as session,
        pytest.raises(RobotError, match=r"^toy: stopped by held_too_long: the cause .*s\b"),
    ):
        drive_realtime(session, 1, on_tick=freeze, on_end=ends.append)
    (result,) = ends
    assert (result.outcome, result.stopped_by) == ("failed", "held_too_long")
    assert result.steps >= 8
    assert {"state_stale", "driver_silent"} & {event.name for event in result.events}
    assert driver.calls[-1] == "close"


class LoopThatTheDriverStopped:
    """The loop, but its sessions end because the driver has stopped the robot."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def status(self) -> dict[str, Any]:
        cause = {"fault": "driver_stopped", "reason": "the driver has stopped the robot by itself"}
        return {**self._loop.status(), "phase": "stopped", **cause}


def test_the_reason_of_a_driver_that_stopped_by_itself_is_waited_for(
    driver: LoopbackDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = SimpleNamespace(time_ns=1, name="stopped", text="stop(2): silence", count=1)
    looks: list[int] = []

    def events() -> list[Any]:
        looks.append(driver.link.phase)
        return [told] if looks.count(0) == 4 else []  # it arrives a little after the end

    ends: list[EpisodeResult] = []
    with opened(driver, max_steps=3) as session:
        monkeypatch.setattr(driver, "events", events)
        ended = replace(session, loop=LoopThatTheDriverStopped(session.loop))
        with pytest.raises(RobotError, match=r"driver_stopped: .* itself \(stop\(2\): silence\)$"):
            drive_realtime(ended, 1, on_end=ends.append)
    reason = "the driver has stopped the robot by itself (stop(2): silence)"
    assert (ends[0].stopped_by, ends[0].reason) == ("driver_stopped", reason)
    assert "stopped" in [event.name for event in ends[0].events]


def test_an_episode_that_ends_in_a_hold_is_finished_with_a_warning(
    driver: LoopbackDriver, caplog: pytest.LogCaptureFixture
) -> None:
    def freeze(step: int) -> None:
        if step >= 4 and "freeze" not in driver.calls:
            driver.calls.append("freeze")
            driver.link.freeze(time.monotonic_ns())

    with opened(driver, max_steps=20) as session:
        result = drive_realtime(session, 1, on_tick=freeze)
    assert (result.outcome, result.steps) == ("finished", 20)
    assert result.ended_in_hold in ("state_stale", "driver_silent", "unacknowledged")
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"was held ({result.ended_in_hold})" in line
    assert result.summary()["ended_in_hold"] == result.ended_in_hold


def test_a_hold_counts_at_the_last_step_and_not_after_it() -> None:
    holds = HoldWatch()
    steps = np.zeros(1, [("timestamp_s", "<f8"), ("phase", "<i4")])

    def step(time_s: float, phase: int) -> str | None:
        steps["timestamp_s"], steps["phase"] = time_s, phase
        holds.add_steps(steps)
        return holds.fault()

    holds.add_event(Event(time_s=0.9, name="frame_stale", what="begin", subject="top"))
    assert step(1.0, HOLDING) == "frame_stale"
    holds.add_event(Event(time_s=1.1, name="frame_stale", what="end", subject="top"))
    assert holds.fault() == "frame_stale"
    assert step(1.2, RUNNING) is None


def test_phases_and_flags_have_the_numbers_of_the_core(core: Any) -> None:
    assert (core.PHASES[RUNNING], core.PHASES[HOLDING]) == ("running", "holding")
    assert (GAP, RETURNING) == (core.GAP, core.RETURNING)


def test_inferences_that_fail_are_retried_and_then_a_stop(driver: LoopbackDriver) -> None:
    def fail(step: int) -> None:
        driver.error = OSError("camera unplugged")

    with (
        opened(driver, max_steps=500, realtime={"max_retries": 2}) as session,
        pytest.raises(RobotError, match="camera unplugged"),
    ):
        drive_realtime(session, 1, on_tick=fail)


def test_a_recording_that_fails_stops_the_robot(driver: LoopbackDriver) -> None:
    class FullDisk:
        def add_rows(self, rows: object) -> None:
            raise DataError("episode.stream: cannot be written (No space left on device)")

        add_event = add_inference = add_rows

    ends: list[EpisodeResult] = []
    with opened(driver, max_steps=500) as session, pytest.raises(DataError, match="No space"):
        drive_realtime(session, 1, log=FullDisk(), on_end=ends.append)
    assert (ends[0].outcome, ends[0].stopped_by) == ("failed", "DataError")
    assert session.loop.status()["fault"] == "operator_stop"
    assert len(ends[0].trace.commands) >= 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_episode_and_is_named(
    driver: LoopbackDriver, number: signal.Signals
) -> None:
    ends: list[EpisodeResult] = []

    def interrupt(step: int) -> None:
        if step >= 5 and not ends:
            os.kill(os.getpid(), number)

    with (
        opened(driver, max_steps=500) as session,
        pytest.raises(StoppedBySignal, match=number.name),
    ):
        drive_realtime(session, 1, on_tick=interrupt, on_end=ends.append)
    assert (ends[0].outcome, ends[0].stopped_by) == ("interrupted", number.name)
    assert 5 <= ends[0].steps < 100


def test_a_signal_just_before_the_start_is_no_fault(
    driver: LoopbackDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(session: int, *, stop_category: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(driver, "begin", interrupt)
    ends: list[EpisodeResult] = []
    with opened(driver) as session, pytest.raises(StoppedBySignal, match="SIGTERM"):
        drive_realtime(session, 1, on_end=ends.append)
    assert (ends[0].outcome, ends[0].stopped_by) == ("interrupted", "SIGTERM")
    assert driver.link.num_commands == 0


def test_what_happens_is_recorded_as_it_happens(
    driver: LoopbackDriver, fakes: Any, tmp_path: Path
) -> None:
    recording = Recorder(tmp_path, fakes.toy_spec()).begin(prompt="", seed=1, is_realtime=True)
    counts: list[int] = []
    driver.told = [
        SimpleNamespace(time_ns=time.monotonic_ns(), name="send_failed", text="busy", count=2)
    ]

    def look(step: int) -> None:
        counts.append(read_recording(tmp_path / "episode_000000.stream").num_ticks)

    with opened(driver) as session:
        result = drive_realtime(session, 1, log=recording, on_tick=look)
    assert counts[-1] >= 15, "rows are on their way to the disk while the episode goes on"
    episode = read_recording(recording.finish(result))
    arrays = episode.arrays
    assert arrays["sequence"].tolist() == list(range(1, episode.num_ticks + 1))
    assert (np.diff(arrays["sent_s"]) > 0).all()
    assert np.allclose(arrays["sent_s"] - arrays["deadline_s"], arrays["lateness_s"])
    assert np.allclose(arrays["state"], START) and np.allclose(arrays["command"], START)
    assert (arrays["state_age_s"] >= 0).all()
    assert arrays["event_name"].tolist() == ["send_failed"]
    assert arrays["event_text"].tolist() == ["busy"]
    assert len(arrays["chunk_starts"]) == len(arrays["inference_time_s"]) >= 1


def test_a_robot_outside_its_limits_is_led_back_only_if_the_operator_agrees(
    core: Any, fakes: Any
) -> None:
    def outside() -> LoopbackDriver:
        return LoopbackDriver(core, fakes.toy_spec(), (2.01, -0.1, 0.5))

    with pytest.raises(RobotError, match="add --return-to-limits"), opened(outside()):
        pass
    asked: list[str] = []
    driver, option = outside(), {"return_to_limits": True}
    with (
        opened(
            driver, realtime=option, confirm=lambda text, _: bool(asked.append(text))
        ) as session,
        pytest.raises(RobotError, match="was not confirmed"),
    ):
        drive_realtime(session, 1)
    assert asked == ["Move left_a from 2.01 to 2 rad at 0.5 rad per second?"]
    assert driver.link.num_commands == 0
    with opened(outside(), realtime=option) as session:
        result = drive_realtime(session, 1)
    assert (result.steps, result.commands_out_of_limit) == (20, 0)
    assert "return_to_limits" in {event.name for event in result.events}
    assert max(command[0] for command in result.trace.commands[-5:]) <= 2.0


def test_a_robot_commanded_by_differences_rests_with_its_rest_command(
    core: Any, fakes: Any
) -> None:
    spec = replace(
        fakes.toy_spec(),
        rest_command=(0.0, 0.0, 1.0),
        state_names=("x", "y", "left", "right"),
        state_units=("m",) * 4,
    )
    driver = LoopbackDriver(core, spec)
    driver.link = core.LoopbackLink(action_dim=3, state=[9.0, 9.0, 9.0, 9.0])
    with opened(driver) as session:
        result = drive_realtime(session, 1)
    assert (result.steps, result.commands_out_of_limit) == (20, 0)
    assert np.allclose(result.trace.commands, (0.0, 0.0, 1.0))


def test_the_facts_name_limits_scheduling_and_bounds(driver: LoopbackDriver) -> None:
    with opened(driver) as session:
        facts: Any = session.describe()
        lines = "\n".join(session.lines())
    assert facts["clock"] == "monotonic"
    assert facts["limits"]["max_jerk"]["left_a"]["source"].startswith("default")
    assert set(facts["scheduling"]) >= {"priority", "locked_bytes"}
    assert facts["staleness"]["state"] == 0.1
    assert facts["max_observation_age_s"] == pytest.approx(25 / 50 + 1.0)
    for word in ("max_velocity: the driver", "scheduling: ", "older than 0.1 s", "IEC 60204-1"):
        assert word in lines


def test_a_delay_on_simulated_time_is_said_to_have_no_effect(
    driver: LoopbackDriver, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(driver, inference_delay=3):
        assert ["--inference-delay: has no effect" in text for text in caplog.messages] == [True]


class SlowView:
    """A robot whose policy takes so long for a chunk of 50 steps."""

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s
        self.source = SimpleNamespace(action_horizon=50)

    def first_latency_s(self, continuation: Mapping[str, Any]) -> float:
        assert continuation["delays"] == [0, 4, 8]
        return self._latency_s


def measured(latency_s: float, **options: Any) -> tuple[Chunking, RealtimeSettings]:
    chunking = Chunking(mode="rtc", reason="trained", rtc=RTCConfig(), trained_delays=(0, 4, 8))
    settings = realtime_settings(
        RealtimeOptions(**options.pop("realtime", {})),
        motion_limits(ROBOT_SPECS["aloha-sim"]),
        execution_horizon=25,
        action_horizon=50,
        mode="rtc",
        cameras=(),
        continuation=chunking.continuation(),
    )
    view: Any = SlowView(latency_s)
    return with_latency(RunOptions(robot="toy", **options), chunking, settings, view)


def test_the_first_delay_covers_the_measured_latency_and_a_tick() -> None:
    chunking, settings = measured(0.06)
    assert (chunking.mode, settings.mode) == ("rtc", "rtc")
    assert settings.first_latency_s == pytest.approx(0.08)
    assert delay_of(chunking, settings, 50) == 4
    chunking, settings = measured(0.061)
    assert delay_of(chunking, settings, 50) == 8
    chunking, settings = measured(0.061, realtime={"speed": 0.5})
    assert delay_of(chunking, settings, 50) == 4


def test_a_policy_that_is_too_slow_for_real_time_chunking_is_refused_or_waited_for() -> None:
    with pytest.raises(
        UsageError, match=r"a chunk takes 220 ms: expected a delay d of at least 11"
    ):
        measured(0.2, mode="rtc")
    chunking, settings = measured(0.2)
    assert (chunking.mode, settings.mode, chunking.rtc) == (MODE_WITHOUT_RTC,) * 2 + (None,)
    assert settings.continuation == {} and settings.first_latency_s == 0
    assert "trained: 0, 4, 8" in chunking.reason


def test_the_monitor_checks_rows_and_knows_gaps_and_returns(fakes: Any) -> None:
    def count(commands: Sequence[Sequence[float]], flags: Sequence[int] = (0, 0, 0)) -> int:
        monitor = CommandMonitor(fakes.toy_spec(), np.zeros(3, np.float32))
        monitor.check_rows(np.array(commands, np.float32), np.array(flags))
        return monitor.num_out_of_limit

    assert count([[0, 0, 0], [0.1, 0, 0], [0.2, 0, 0]]) == 0
    assert count([[0, 0, 0], [0.11, 0, 0], [0.2, 0, 0]]) == 1
    assert count([[0, 0, 0], [0.5, 0, 0], [0.5, 0, 0]], (0, GAP, 0)) == 0
    assert count([[0, np.nan, 0], [0, 0, 0], [0, 0, 0]]) == 2
    outside = [[2.05, 0, 0], [2.04, 0, 0], [2.03, 0, 0]]
    assert count(outside, (GAP, 0, 0)) == 3
    assert count(outside, (GAP | RETURNING, RETURNING, RETURNING)) == 0
