"""The control loop through its binding: which action is sent at which tick."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_runtime import _core
from flux_runtime.engines.onnxruntime_library import find_library

CONTROL_HZ = 50.0


@pytest.fixture(scope="module")
def policy(tiny_policy: Path, tiny: Any) -> Any:
    return _core.FlowPolicy(
        str(tiny_policy / "prefix.onnx"),
        str(tiny_policy / "denoise.onnx"),
        library=str(find_library()),
        num_inference_steps=tiny.STEPS,
    )


SCALE = np.array([0.5, 2.0, 1.0], np.float32)
OFFSET = np.array([0.1, -0.2, 0.3], np.float32)
RELATIVE = np.array([True, False, True])
START = np.array([0.01, 0.02, 0.03], np.float32)


def make_loop(
    policy: Any, *, limit: float = 100.0, max_velocity: float = 1e5, **options: Any
) -> Any:
    loop = _core.ControlLoop(
        policy=policy,
        decoder=_core.ActionDecoder(scale=SCALE, offset=OFFSET, relative_mask=RELATIVE),
        limits=_core.SafetyLimits(
            lower=[-limit] * 3, upper=[limit] * 3, max_velocity=[max_velocity] * 3
        ),
        **({"control_hz": CONTROL_HZ, "execution_horizon": 3, "mode": "sync"} | options),
    )
    loop.start(START)
    return loop


def decoded(policy: Any, tiny: Any, seed: int, state: np.ndarray) -> np.ndarray:
    actions = policy.infer(tiny.inputs(seed), tiny.noise(seed))
    return actions * SCALE + OFFSET + np.where(RELATIVE, state, np.float32(0))


def test_sync_chunks_follow_each_other_without_a_gap(policy: Any, tiny: Any) -> None:
    loop = make_loop(policy)
    state = np.array([1.0, 2.0, 3.0], np.float32)
    for chunk in range(3):
        assert loop.needs_observation()
        loop.submit(tiny.inputs(chunk), state, tiny.noise(chunk))
        expected = decoded(policy, tiny, chunk, state)
        for row in range(3):
            assert not loop.needs_observation()
            command, flags = loop.tick()
            np.testing.assert_array_equal(command, expected[row])
            assert flags == (_core.NEW_CHUNK if row == 0 else 0)
    stats = loop.stats()
    assert (stats["ticks"], stats["chunks"], stats["held_ticks"]) == (9, 3, 0)
    assert stats["histograms"]["inference"]["count"] == 3
    assert stats["histograms"]["tick"]["count"] == stats["histograms"]["jitter"]["count"] == 9


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_async_simulated_chunks_take_over_exactly_after_the_delay(
    policy: Any, tiny: Any, delay: int
) -> None:
    loop = make_loop(policy, mode="async", inference_delay=delay)
    sent, observed_at, expected = [], [], []
    for tick in range(delay + 9):
        if loop.needs_observation():
            chunk = len(observed_at)
            observed_at.append(tick)
            expected.append(decoded(policy, tiny, chunk, START))
            loop.submit(tiny.inputs(chunk), START, tiny.noise(chunk))
        sent.append(loop.tick())
    loop.stop()
    assert observed_at[:3] == [0, 3, 6]
    for command, flags in sent[:delay]:
        np.testing.assert_array_equal(command, START)
        assert flags == _core.HELD
    for tick, (command, flags) in enumerate(sent[delay:], start=delay):
        chunk, executed = divmod(tick - delay, 3)
        # Only rows that were executed meanwhile are skipped: none before the first chunk.
        row = executed if chunk == 0 else executed + delay
        np.testing.assert_array_equal(command, expected[chunk][row])
        assert flags == (_core.NEW_CHUNK if executed == 0 else 0)


@pytest.mark.parametrize("method", ["prefix", "guidance"])
def test_an_rtc_chunk_continues_rows_that_are_made_relative_to_the_new_observation(
    policy: Any, tiny: Any, method: Any
) -> None:
    """The second chunk, made with `Policy.infer` from what is left of the first one."""
    settings = _core.ContinuationSettings(method=method, delays=[0, 1, 2])
    loop = make_loop(
        policy, mode="rtc", inference_delay=1, execution_horizon=3, continuation=settings
    )
    states = [START, np.array([0.4, -0.3, 0.2], np.float32)]
    observed_at, asked = [], []
    for tick in range(5):
        if loop.needs_observation():
            chunk = len(observed_at)
            observed_at.append(tick)
            loop.submit(tiny.inputs(chunk), states[chunk], tiny.noise(chunk))
        loop.tick()
        asked.append(loop.asked())
    assert observed_at == [0, 3]
    first = decoded(policy, tiny, 0, START)
    np.testing.assert_array_equal(asked[1:4], first[:3])
    left = first[2:]  # at the third tick, two rows had been executed
    decoder = _core.ActionDecoder(scale=SCALE, offset=OFFSET, relative_mask=RELATIVE)
    previous = decoder.encode(left, tiny.DIM, states[1])
    np.testing.assert_allclose(
        previous, (left - OFFSET - np.where(RELATIVE, states[1], 0)) / SCALE, atol=1e-6
    )
    second = policy.infer(tiny.inputs(1), tiny.noise(1), previous, 1, settings)
    expected = decoder.decode(second, states[1])
    # The row that was executed meanwhile is skipped; the next one is the network's.
    np.testing.assert_allclose(asked[4], expected[1], atol=1e-6)
    if method == "guidance":  # behind a known prefix, the tiny network's rows stay the same
        assert np.abs(asked[4] - decoded(policy, tiny, 1, states[1])[1]).max() > 1e-3
    assert loop.stats()["rtc"] == {"delays": {0: 1, 1: 1}, "late": 0}


def test_rtc_without_a_delay_is_bit_identical_to_async(policy: Any, tiny: Any) -> None:
    sent = []
    for mode in ("async", "rtc"):
        loop = make_loop(policy, mode=mode)
        commands = []
        for tick in range(20):
            if loop.needs_observation():
                loop.submit(tiny.inputs(tick), START, tiny.noise(tick))
            commands.append(loop.tick())
        sent.append(commands)
    for (one, flags), (other, other_flags) in zip(*sent, strict=True):
        np.testing.assert_array_equal(one, other)
        assert flags == other_flags


def test_a_late_chunk_runs_out_and_then_holds(policy: Any, tiny: Any) -> None:
    loop = make_loop(policy)
    loop.submit(tiny.inputs(), START, tiny.noise())
    expected = decoded(policy, tiny, 0, START)
    for row in range(tiny.HORIZON + 2):
        command, flags = loop.tick()
        np.testing.assert_array_equal(command, expected[min(row, tiny.HORIZON - 1)])
        assert bool(flags & _core.HELD) == (row >= tiny.HORIZON)
    assert loop.needs_observation()
    assert loop.stats()["held_ticks"] == 2


def test_actions_outside_the_limits_are_clipped_flagged_and_counted() -> None:
    loop = make_loop(None, limit=1.0, max_velocity=5.0, execution_horizon=1)
    rows = np.array([[0.05, 0.0, 0.0], [0.05, 9.0, 0.0], [np.nan, 0.0, 0.0]], np.float32)
    loop.submit_chunk(rows)
    first, flags = loop.tick()
    np.testing.assert_array_equal(first, rows[0])
    assert flags == _core.NEW_CHUNK
    second, flags = loop.tick()
    assert flags == _core.CLIPPED_POSITION | _core.CLIPPED_VELOCITY
    np.testing.assert_allclose(second, [0.05, 0.1, 0.0], atol=1e-6)
    third, flags = loop.tick()
    assert flags == _core.NON_FINITE | _core.HELD
    np.testing.assert_array_equal(third, second)
    assert loop.stats()["violations"] == {
        "non_finite": 1,
        "position": 1,
        "velocity": 1,
        "stale": 0,
    }


def test_a_chunk_from_an_old_observation_is_not_executed() -> None:
    loop = make_loop(None, stale_after_s=0.1)
    loop.submit_chunk(np.ones((3, 3), np.float32))
    flags = []
    for _ in range(12):
        flags.append(loop.tick()[1])
    assert flags[-1] == _core.HELD | _core.STALE
    assert loop.stats()["violations"]["stale"] == flags.count(_core.HELD | _core.STALE) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"execution_horizon": 0}, "execution_horizon: expected 1 to .* 5, got 0"),
        ({"execution_horizon": 6}, "execution_horizon: .*action_horizon 5, got 6"),
        ({"mode": "async", "inference_delay": 3}, "inference_delay: expected 0 to 2.*got 3"),
        ({"inference_delay": -1}, "inference_delay: expected 0"),
        ({"mode": "fast"}, "mode: expected 'sync', 'async', 'ensemble' or 'rtc', got 'fast'"),
        (
            {"mode": "rtc", "inference_delay": 1},
            "usable delay d <= execution_horizon 3 <= .*5 - d",
        ),
        ({"speed": 1.5}, "speed: expected a number above 0 and at most 1"),
        ({"control_hz": 0.0}, "control_hz: expected a finite number above 0"),
        ({"stale_after_s": -1.0}, "stale_after_s"),
    ],
)
def test_an_argument_out_of_range_is_named(policy: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_loop(policy, **options)


def test_limits_and_decoders_check_their_arrays() -> None:
    with pytest.raises(ValueError, match=r"lower\[1\]: expected a finite number below upper"):
        _core.SafetyLimits(lower=[0, 1], upper=[1, 1], max_velocity=[1, 1])
    with pytest.raises(ValueError, match=r"upper: expected shape \(A,\), got float64 \(1, 2\)"):
        _core.SafetyLimits(lower=[0, 0], upper=[[1, 1]], max_velocity=[1, 1])
    with pytest.raises(ValueError, match=r"max_velocity\[0\]"):
        _core.SafetyLimits(lower=[0], upper=[1], max_velocity=[np.inf])
    with pytest.raises(ValueError, match="one length"):
        _core.ActionDecoder(scale=[1], offset=[0, 0], relative_mask=[False])


def test_calls_with_wrong_arrays_or_out_of_turn_are_refused(policy: Any, tiny: Any) -> None:
    loop = make_loop(policy)
    with pytest.raises(ValueError, match=r"state: expected float32 \(3,\), got float64 \(3,\)"):
        loop.submit(tiny.inputs(), np.zeros(3), tiny.noise())
    with pytest.raises(ValueError, match="images"):
        loop.submit(tiny.inputs() | {"images": np.zeros(3)}, START, tiny.noise())
    with pytest.raises(
        ValueError, match=r"actions: expected float32 \(4, 3\), got float32 \(4, 2\)"
    ):
        loop.submit_chunk(np.zeros((4, 2), np.float32))
    with pytest.raises(ValueError, match="execution_horizon 3"):
        loop.submit_chunk(np.zeros((2, 3), np.float32))
    with pytest.raises(RuntimeError, match="start: expected a loop that has not started"):
        loop.start(START)
    loop.stop()
    with pytest.raises(RuntimeError, match="expected a running loop, got a stopped one"):
        loop.needs_observation()
    command, flags = loop.tick()
    np.testing.assert_array_equal(command, START)
    assert flags == _core.HELD


def test_a_loop_that_is_not_started_says_so() -> None:
    loop = _core.ControlLoop(
        policy=None,
        decoder=_core.ActionDecoder(scale=[1], offset=[0], relative_mask=[False]),
        limits=_core.SafetyLimits(lower=[0], upper=[1], max_velocity=[1]),
        control_hz=CONTROL_HZ,
        execution_horizon=1,
        mode="sync",
    )
    for call in (loop.tick, loop.needs_observation):
        with pytest.raises(RuntimeError, match="expected a started loop.* Call start"):
            call()
    with pytest.raises(ValueError, match=r"command\[0\]: expected a finite number"):
        loop.start(np.array([np.nan], np.float32))


def test_a_wider_network_drives_a_robot_of_fewer_joints(policy: Any, tiny: Any) -> None:
    loop = _core.ControlLoop(
        policy=policy,
        decoder=_core.ActionDecoder(scale=[1, 1], offset=[0, 0], relative_mask=[0, 0]),
        limits=_core.SafetyLimits(lower=[-9, -9], upper=[9, 9], max_velocity=[1e4, 1e4]),
        control_hz=CONTROL_HZ,
        execution_horizon=2,
        mode="sync",
    )
    loop.start(np.zeros(2, np.float32))
    loop.submit(tiny.inputs(), np.zeros(2, np.float32), tiny.noise())
    expected = policy.infer(tiny.inputs(), tiny.noise())
    np.testing.assert_array_equal(loop.tick()[0], expected[0, :2])
