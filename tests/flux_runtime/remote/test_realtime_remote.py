"""A robot in real time whose policy is on a server that is slow, away, another one or hostile."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from flux_core.command_line import StoppedBySignal
from flux_core.errors import RobotError
from flux_runtime.control.episode import EpisodeResult
from flux_runtime.control.latency import StageTimes
from flux_runtime.control.realtime_episode import drive_realtime
from flux_runtime.control.realtime_session import RealtimeSession, connected_realtime
from flux_runtime.control.session import RunOptions
from flux_runtime.realtime import RealtimeOptions
from flux_runtime.realtime.remote_options import RemoteOptions
from flux_runtime.remote.opening import policy_server
from flux_runtime.remote.source import FIRST_LOOK_S
from flux_runtime.wire.messages import Infer

from ..control.test_realtime_episode import START, LoopbackDriver
from .fake_server import (
    FakeServer,
    Sent,
    answer_to,
    chunk_for,
    facts_of,
    renamed,
    well,
    with_horizon,
)

pytestmark = pytest.mark.usefixtures("core")
HOLD_FOR_S = 0.3
DELAYS = (0, 2, 4, 6, 8)


class SeeingDriver(LoopbackDriver):
    """A robot inside this process, with the toy's cameras."""

    def __init__(self, core: Any, spec: Any) -> None:
        super().__init__(core, spec)
        self.link = core.LoopbackLink(action_dim=3, state=list(START), num_cameras=2)

    def observe(self, cameras: Any) -> tuple[np.ndarray, int, dict[str, Any]]:
        state, captured_ns, _ = self.link.read_state()
        image = np.full((6, 8, 3), 7, np.uint8)
        return state, captured_ns, dict.fromkeys(cameras, (image, captured_ns))


@pytest.fixture
def driver(core: Any, fakes: Any) -> SeeingDriver:
    return SeeingDriver(core, fakes.toy_spec())


@pytest.fixture
def server(fakes: Any) -> Iterator[FakeServer]:
    """A server whose chunks last for 0.4 s, so that its answers may take a while."""
    manifest = with_horizon(
        fakes.toy_manifest(execution_horizon=8, rtc_valid_delays=DELAYS, prompt="wave"), 20
    )
    running = FakeServer(facts_of(manifest, fakes.toy_spec()))
    yield running
    running.kill()


@contextmanager
def opened(
    server: FakeServer, driver: SeeingDriver, *, reconnect_for_s: float = 5.0, **options: Any
) -> Iterator[RealtimeSession]:
    fields: dict[str, Any] = {"robot": "toy", "mode": "async", "max_steps": 100}
    run = RunOptions(
        **(fields | options),
        remote=RemoteOptions(url=server.url, reconnect_for_s=reconnect_for_s),
        realtime_options=RealtimeOptions(priority=0, hold_for_s=HOLD_FOR_S),
    )
    times = StageTimes()
    with policy_server(run) as remote:
        assert remote is not None
        policy = remote.opened(run, driver.spec, times, is_realtime=True)
        with connected_realtime(run, driver, policy, times) as session:  # type: ignore[arg-type]
            yield session


def remote_of(session: RealtimeSession) -> dict[str, Any]:
    found: Any = session.describe()["remote"]
    return found


def once(at_step: int, act: Callable[[], object]) -> Callable[[int], None]:
    """Returns an `on_tick` that acts once, at a step."""
    done: list[int] = []

    def on_tick(step: int) -> None:
        if step >= at_step and not done:
            done.append(step)
            act()

    return on_tick


def names_of(result: EpisodeResult) -> set[str]:
    return {event.name for event in result.events}


def test_answers_that_take_a_while_continue_the_running_chunk(
    server: FakeServer, driver: SeeingDriver
) -> None:
    def slowly(s: FakeServer, r: Infer) -> Iterable[Sent]:
        yield 0.05
        yield answer_to(s, r)

    server.script = slowly
    with opened(server, driver, mode="rtc", max_steps=45) as session:
        assert session.settings.first_latency_s >= 0.07  # the way there and back, and a tick
        assert session.settings.chunk_hold_for_s == 5.0
        assert "while it is away the robot holds, for at most 5 s" in "\n".join(session.lines())
        result = drive_realtime(session, 1)
        facts = remote_of(session)
    assert (result.outcome, result.commands_out_of_limit) == ("finished", 0)
    delays = result.stats["rtc"]["delays"]
    assert sum(count for rows, count in delays.items() if rows >= 4) >= 3
    continued = [r.continued for r in server.seen.requests if r.continued is not None]
    assert len(continued) >= 3 and {len(c.settings["delays"]) for c in continued} == {5}
    assert "starved" not in names_of(result)
    assert (facts["reconnects"], facts["late_answers"], facts["url"]) == (0, 0, server.url)
    # Over the way alone: the server's own time is not part of it.
    assert facts["round_trip_ms"]["p50"] > 0
    times = [r.captured_ns for r in server.seen.requests[-3:]]
    assert all(set(t) == {"state", "cam_a", "cam_b"} for t in times)


def test_a_server_that_is_killed_and_comes_back_is_waited_for(
    server: FakeServer, driver: SeeingDriver
) -> None:
    """Longer than any other hold may last."""
    back = threading.Timer(HOLD_FOR_S + 0.5, server.start)

    def kill() -> None:
        server.kill()
        back.start()

    with opened(server, driver, max_steps=100) as session:
        result = drive_realtime(session, 1, on_tick=once(10, kill))
        facts = remote_of(session)
    back.join()
    assert (result.outcome, result.commands_out_of_limit) == ("finished", 0)
    assert {"starved", "inference_failed"} & names_of(result)
    assert (facts["reconnects"], result.ended_in_hold) == (1, None)
    held_s = [event.time_s for event in result.events if event.name == "starved"]
    assert held_s and held_s[-1] - held_s[0] > HOLD_FOR_S
    assert result.stats["held_ticks"] > 15


def test_a_server_that_stays_away_is_a_latched_stop_that_names_it(
    server: FakeServer, driver: SeeingDriver
) -> None:
    ends: list[EpisodeResult] = []
    with opened(server, driver, reconnect_for_s=0.4, max_steps=500) as session:
        assert session.settings.hold_for_s == HOLD_FOR_S
        with pytest.raises(RobotError, match=r"^toy: stopped by held_too_long: .* limit 0\.4 s"):
            drive_realtime(session, 1, on_tick=once(10, server.kill), on_end=ends.append)
        assert session.loop.status()["phase"] == "stopped"
        server.start()  # too late
        time.sleep(0.2)
        assert session.loop.status()["phase"] == "stopped"
    assert (ends[0].outcome, ends[0].stopped_by) == ("failed", "held_too_long")
    assert f"{server.url}: cannot be reached" in str(ends[0].reason)


def test_a_signal_ends_the_wait_before_the_first_command(
    server: FakeServer, driver: SeeingDriver
) -> None:
    def stop(s: FakeServer, r: Infer) -> list[Sent]:
        os.kill(os.getpid(), signal.SIGTERM)
        return []

    server.script = stop
    began_s = time.monotonic()
    with pytest.raises(StoppedBySignal, match="SIGTERM"), opened(server, driver):
        pass
    assert time.monotonic() - began_s < FIRST_LOOK_S / 2
    assert driver.calls[-1] == "close" and driver.link.num_commands == 0


def test_no_hold_lasts_longer_than_a_server_may_be_away(
    server: FakeServer, driver: SeeingDriver, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(server, driver, reconnect_for_s=0.2) as session:
        settings = session.settings
    assert settings.hold_for_s == settings.chunk_hold_for_s == 0.2
    assert "--hold-for 0.3: no hold may last longer than --reconnect-for 0.2" in caplog.text


def test_another_bundle_after_a_reconnect_is_a_stop(
    server: FakeServer, driver: SeeingDriver
) -> None:
    def exchange() -> None:
        server.kill()
        server.facts = renamed(server.facts)
        server.start()

    ends: list[EpisodeResult] = []
    before: list[int] = []
    with (
        opened(server, driver, max_steps=500) as session,
        pytest.raises(RobotError, match=r"^toy: stopped by policy_changed: ws://.*sha256"),
    ):
        drive_realtime(
            session,
            1,
            on_tick=once(10, lambda: (before.append(len(server.seen.requests)), exchange())),
            on_end=ends.append,
        )
    assert (ends[0].outcome, ends[0].stopped_by) == ("failed", "policy_changed")
    assert len(server.seen.requests) - before[0] <= 1
    assert ends[0].steps < 100


def test_hostile_answers_hold_the_arm_and_good_ones_move_it_again(
    server: FakeServer, driver: SeeingDriver
) -> None:
    def far(s: FakeServer, r: Infer) -> bytes:
        rows = chunk_for(s, r)
        rows[:, 1] = np.nan
        return answer_to(s, r, actions=rows)

    def lie() -> None:
        server.script = lambda s, r: [far(s, r)]
        threading.Timer(HOLD_FOR_S + 0.4, lambda: setattr(server, "script", well)).start()

    with opened(server, driver, max_steps=65) as session:
        result = drive_realtime(session, 1, on_tick=once(10, lie))
        facts = remote_of(session)
    assert (result.outcome, result.commands_out_of_limit) == ("finished", 0)
    assert "inference_failed" in names_of(result) and facts["reconnects"] >= 2
    commands = np.array(result.trace.commands)
    assert np.isfinite(commands).all() and np.abs(commands - np.array(START)).max() < 0.05
    assert result.ended_in_hold is None


def test_a_chunk_far_away_passes_the_robots_own_safety_filter(
    server: FakeServer, driver: SeeingDriver
) -> None:
    def jump() -> None:
        rows = np.full((20, 3), 50.0, np.float32)  # finite, and nowhere near the robot
        server.script = lambda s, r: [answer_to(s, r, actions=rows)]

    with opened(server, driver, max_steps=35, reconnect_for_s=3.0) as session:
        result = drive_realtime(session, 1, on_tick=once(10, jump))
    limits = np.array([driver.spec.lower, driver.spec.upper])
    commands = np.array(result.trace.commands)
    assert result.commands_out_of_limit == 0
    assert (commands >= limits[0] - 1e-6).all() and (commands <= limits[1] + 1e-6).all()
    assert "border_jump" in names_of(result)


def test_an_answer_after_the_deadline_is_dropped_and_the_next_one_executed(
    server: FakeServer, driver: SeeingDriver
) -> None:
    slow: list[int] = []

    def dawdle(s: FakeServer, r: Infer) -> Iterable[Sent]:
        if not slow:
            slow.append(r.sequence)
            yield 1.35  # the loop gives up after 1.4 s, and the client 0.2 s before
        yield answer_to(s, r)

    with opened(server, driver, max_steps=105) as session:
        result = drive_realtime(
            session, 1, on_tick=once(10, lambda: setattr(server, "script", dawdle))
        )
        facts = remote_of(session)
    assert (result.outcome, result.ended_in_hold) == ("finished", None)
    assert "starved" in names_of(result) and slow
    assert facts["late_answers"] + facts["reconnects"] >= 1
    assert "inference_deadline" not in names_of(result)
