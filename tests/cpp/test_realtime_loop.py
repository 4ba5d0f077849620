"""The control thread through its binding, with a robot inside this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_runtime import _core
from flux_runtime.engines.onnxruntime_library import find_library

DIM = 3
START = [0.1, -0.2, 0.3]
WAIT_S = 10.0
"""Longest wait for something that takes milliseconds on a quiet machine."""


def make_loop(policy: Any = None, **settings: Any) -> tuple[_core.RealtimeLoop, Any]:
    signals = settings.pop("signals", None)
    defaults: dict[str, Any] = {
        "control_hz": 50.0,
        "execution_horizon": 4,
        "mode": "async",
        "cameras": [0],
        "inference_deadline_s": WAIT_S,
        "hold_for_s": WAIT_S,
    }
    link = _core.LoopbackLink(action_dim=DIM, state=START, num_cameras=1)
    loop = _core.RealtimeLoop(
        link=link,
        policy=policy,
        decoder=_core.ActionDecoder(
            scale=np.ones(DIM), offset=np.zeros(DIM), relative_mask=np.zeros(DIM, bool)
        ),
        limits=_core.SafetyLimits(lower=[-1] * DIM, upper=[1] * DIM, max_velocity=[1] * DIM),
        settings=_core.RealtimeSettings(**(defaults | settings)),
        signals=signals,
    )
    return loop, link


@pytest.fixture
def answering() -> Iterator[Callable[[Any], None]]:
    """Answers a loop's requests with chunks that hold the start, on a thread."""
    ended = threading.Event()
    threads: list[threading.Thread] = []

    def serve(loop: Any) -> None:
        chunk = np.tile(np.array(START, np.float32), (8, 1))
        while not ended.is_set():
            request = loop.wait_for_request(0.02)
            if request is not None:
                loop.submit_chunk(request, chunk, time.monotonic_ns())

    def begin(loop: Any) -> None:
        threads.append(threading.Thread(target=serve, args=(loop,), daemon=True))
        threads[-1].start()

    yield begin
    ended.set()
    for thread in threads:
        thread.join(WAIT_S)


def request_of(loop: Any) -> _core.InferenceRequest:
    request = loop.wait_for_request(WAIT_S)
    assert request is not None
    return request


def test_every_command_is_recorded_with_its_true_time(answering: Callable[[Any], None]) -> None:
    loop, link = make_loop()
    answering(loop)
    loop.start(7)
    records = [loop.drain_ticks()]
    while sum(map(len, records)) < 20:
        assert not loop.wait_until_ended(0.05)
        records.append(loop.drain_ticks())
    loop.finish()
    assert loop.wait_until_ended(WAIT_S)
    ticks = np.concatenate([*records, loop.drain_ticks()])
    ticks = ticks[ticks["sent_ns"] != 0]
    stats = loop.stats()
    assert len(ticks) == link.num_commands == stats["ticks"]
    assert ticks["sequence"].tolist() == list(range(1, len(ticks) + 1))
    assert set(ticks["session"]) == {7}
    assert np.all(np.diff(ticks["sent_ns"]) > 0)
    assert np.all(ticks["sent_ns"] >= ticks["deadline_ns"])
    np.testing.assert_array_equal(
        ticks["command"], np.tile(np.array(START, np.float32), (len(ticks), 1))
    )
    executed = ticks[ticks["row"] >= 0]
    assert np.all(executed["observed_ns"] > 0)
    assert np.all(ticks["observed_ns"][ticks["flags"] & _core.HELD != 0] == 0)
    assert stats["histograms"]["intervals"]["count"] == len(ticks) - 1
    assert stats["histograms"]["jitter"]["count"] == len(ticks)
    assert stats["chunks"] > 0
    loop.close()
    assert link.phase == 3


def test_a_policy_infers_on_the_calling_thread(tiny_policy: Path, tiny: Any) -> None:
    policy = _core.FlowPolicy(
        str(tiny_policy / "prefix.onnx"),
        str(tiny_policy / "denoise.onnx"),
        library=str(find_library()),
        num_inference_steps=tiny.STEPS,
    )
    loop, _ = make_loop(policy)
    loop.start(1)
    request = request_of(loop)
    inputs, noise, state = tiny.inputs(0), tiny.noise(0) * np.float32(0.1), np.zeros(3, np.float32)
    assert loop.infer(request, inputs, state, noise, time.monotonic_ns())
    assert not loop.infer(request, inputs, state, noise, time.monotonic_ns())
    assert loop.stats()["histograms"]["inference"]["count"] == 1
    with pytest.raises(ValueError, match="noise"):
        loop.infer(request_of(loop), inputs, state, noise[0], time.monotonic_ns())
    loop.close()


def test_the_delays_of_real_time_chunking_are_counted(answering: Callable[[Any], None]) -> None:
    loop, _ = make_loop(
        mode="rtc",
        command_hz=100.0,
        speed=0.5,
        first_latency_s=0.07,
        continuation=_core.ContinuationSettings(delays=[0, 2, 4]),
    )
    answering(loop)
    loop.start(1)
    while loop.stats()["chunks"] < 3:
        assert not loop.wait_until_ended(0.02)
    loop.finish()
    assert loop.wait_until_ended(WAIT_S)
    ticks, stats = loop.drain_ticks(), loop.stats()
    rtc = stats["rtc"]
    assert rtc is not None and rtc["late"] == stats["faults"].get("rtc_late", 0)
    assert rtc["delays"][0] == 1 and sum(rtc["delays"].values()) == stats["chunks"]
    assert set(rtc["delays"]) <= {0, 2, 4}
    assert set(ticks["speed"]) == {0.5}
    assert np.median(np.diff(ticks["sent_ns"])) == pytest.approx(1e7, rel=0.1)
    loop.close()


def test_a_policy_whose_latency_no_delay_covers_is_refused(tiny_policy: Path, tiny: Any) -> None:
    policy = _core.FlowPolicy(
        str(tiny_policy / "prefix.onnx"),
        str(tiny_policy / "denoise.onnx"),
        library=str(find_library()),
        num_inference_steps=tiny.STEPS,
    )
    settings: dict[str, Any] = {"mode": "rtc", "execution_horizon": 2, "first_latency_s": 1.0}
    with pytest.raises(
        ValueError, match=r"delay: expected d rows .* s = 2 and H = \d+, got a late"
    ):
        make_loop(policy, **settings)


def test_failures_are_retried_and_the_last_one_is_the_reason() -> None:
    loop, link = make_loop(max_retries=2)
    loop.start(1)
    for attempt in range(3):
        loop.report_failure(request_of(loop), f"camera top: failure {attempt}")
    assert loop.wait_until_ended(WAIT_S)
    status = loop.status()
    assert status["phase"] == "stopped"
    assert status["fault"] == "retries_exhausted"
    assert "camera top: failure 2" in status["reason"]
    assert link.phase == 2
    names = [event["name"] for event in loop.drain_events()]
    assert names.count("inference_failed") == 3
    assert names[-1] == "retries_exhausted"


def test_a_chunk_of_a_wrong_shape_is_a_failure() -> None:
    loop, _ = make_loop(max_retries=0)
    loop.start(1)
    with pytest.raises(
        ValueError, match=r"actions: expected float32 \(8, 3\), got float32 \(8, 2\)"
    ):
        loop.submit_chunk(request_of(loop), np.zeros((8, 2), np.float32), time.monotonic_ns())
    assert loop.wait_until_ended(WAIT_S)
    assert loop.status()["fault"] == "retries_exhausted"


def test_a_start_outside_the_limits_is_refused_with_the_joint() -> None:
    loop, link = make_loop()
    link.set_state(np.array([0, -54.96, 0], np.float32))
    with pytest.raises(ValueError, match=r"state\[1\]: expected -1 to 1 .*got -54\.96.*units"):
        loop.start(1)
    link.set_state(np.array([0, 0, 1.04], np.float32))
    with pytest.raises(ValueError, match=r"state\[2\].*Confirm the slow motion"):
        loop.start(1)
    loop.start(1, confirmed_return=True)
    with pytest.raises(RuntimeError, match="a running one"):
        loop.start(2)
    loop.close()
    names = [event["name"] for event in loop.drain_events()]
    assert "return_to_limits" in names
    assert link.num_commands > 0


def test_states_that_stop_coming_hold_and_then_stop(answering: Callable[[Any], None]) -> None:
    loop, link = make_loop(hold_for_s=0.2)
    answering(loop)
    loop.start(1)
    link.freeze(time.monotonic_ns())
    assert loop.wait_until_ended(WAIT_S)
    status = loop.status()
    assert (status["fault"], status["category"]) == ("held_too_long", 2)
    assert status["held_by"] in {"state_stale", "frame_stale", "driver_silent"}
    assert status["held_by"] in status["reason"]
    assert loop.stats()["faults"]["state_stale"] == 1


def test_the_first_signal_stops_the_loop(answering: Callable[[Any], None]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with _core.StopSignals() as signals:
        loop, _ = make_loop(signals=signals)
        answering(loop)
        loop.start(1)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert loop.wait_until_ended(WAIT_S)
        assert signals.signal == signal.SIGTERM
        assert signals.count == 2
        status = loop.status()
        assert (status["fault"], status["value"]) == ("signal", signal.SIGTERM)
        with pytest.raises(ValueError, match="signal"):
            loop.start(2)
        loop.close()
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(ValueError, match="signals: expected an entered StopSignals"):
        make_loop(signals=signals)


def test_unknown_modes_and_categories_are_refused() -> None:
    with pytest.raises(
        ValueError, match="mode: expected 'sync', 'async', 'ensemble' or 'rtc', got 'fast'"
    ):
        make_loop(mode="fast")
    with pytest.raises(ValueError, match="category: expected 0, 1 or 2, got 3"):
        make_loop(stop_category=3)


def test_every_fault_has_a_reaction_and_a_text() -> None:
    reactions = {"note", "clamp", "refuse_chunk", "hold", "stop", "refuse_start"}
    assert len(_core.FAULTS) >= 25
    assert len({name for name, _, _ in _core.FAULTS}) == len(_core.FAULTS)
    for name, reaction, text in _core.FAULTS:
        assert reaction in reactions, name
        assert text and not text.endswith("."), name


STUCK = """
import threading, time, numpy as np
from flux_runtime import _core
link = _core.LoopbackLink(action_dim=1, state=[0.0])
loop = _core.RealtimeLoop(link=link, policy=None,
    decoder=_core.ActionDecoder(scale=[1], offset=[0], relative_mask=[False]),
    limits=_core.SafetyLimits(lower=[-1], upper=[1], max_velocity=[1]),
    settings=_core.RealtimeSettings(control_hz=50, execution_horizon=4, mode="async"))
loop.start(1)
threading.Thread(target=lambda: loop.wait_for_request(60) and time.sleep(60), daemon=True).start()
loop.stop()
assert loop.wait_until_ended(10)
print("stopped")
"""


def test_a_program_ends_while_its_inference_thread_is_stuck() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\n", "")


def test_a_session_begins_slowly_unless_it_is_told_not_to(
    answering: Callable[[Any], None],
) -> None:
    loop, _ = make_loop(slow_start_s=60.0, slow_start_speed=0.25)
    answering(loop)
    speeds: list[float] = []
    for session, is_slow in ((1, True), (2, False)):
        loop.start(session, max_ticks=10, is_slow=is_slow)
        assert loop.session_start()["is_slow"] == is_slow
        assert loop.wait_until_ended(WAIT_S)
        speeds.append(float(loop.drain_ticks()["speed"][-1]))
    assert speeds == [0.25, 1.0]
    with pytest.raises(ValueError, match="'rtc', which was not prepared"):
        loop.start(3, mode="rtc")
    loop.close()
