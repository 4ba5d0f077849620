"""A policy whose chunks a function of Python makes: on both clocks, on other threads, and in every
way in which it can end."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from flux_runtime import _core
from flux_runtime.engines.onnxruntime_library import find_library

WAIT_S = 10.0
DIM, ROWS = 3, 8
START = np.array([0.01, 0.02, 0.03], np.float32)
SCALE = np.array([0.5, 2.0, 1.0], np.float32)
OFFSET = np.array([0.1, -0.2, 0.3], np.float32)
RELATIVE = np.array([True, False, True])
LIMITS: dict[str, Any] = {"lower": [-100] * 3, "upper": [100] * 3, "max_velocity": [1e5] * 3}
STATE_INPUT = {"state": ("float32", (DIM,))}


def identity(dim: int = DIM) -> _core.ActionDecoder:
    return _core.ActionDecoder(
        scale=np.ones(dim), offset=np.zeros(dim), relative_mask=np.zeros(dim, bool)
    )


def holding(inputs: dict[str, NDArray[Any]], *_: object, rows: int = ROWS) -> NDArray[np.float32]:
    return np.tile(inputs["state"], (rows, 1))


def make_policy(call: Callable[..., Any], **options: Any) -> _core.CallbackPolicy:
    defaults: dict[str, Any] = {
        "inputs": STATE_INPUT,
        "action_shape": (ROWS, DIM),
        "can_continue": True,
    }
    return _core.CallbackPolicy(call, **(defaults | options))


def make_loop(policy: Any, decoder: Any = None, **options: Any) -> Any:
    loop = _core.ControlLoop(
        policy=policy,
        decoder=identity() if decoder is None else decoder,
        limits=_core.SafetyLimits(**LIMITS),
        **({"control_hz": 50.0, "execution_horizon": 3, "mode": "sync"} | options),
    )
    loop.start(START)
    return loop


def submit(loop: Any) -> None:
    assert loop.needs_observation()
    loop.submit({"state": START}, START, np.zeros((ROWS, DIM), np.float32))


@pytest.fixture(scope="module")
def flow(tiny_policy: Path, tiny: Any) -> Any:
    return _core.FlowPolicy(
        str(tiny_policy / "prefix.onnx"),
        str(tiny_policy / "denoise.onnx"),
        library=str(find_library()),
        num_inference_steps=tiny.STEPS,
    )


@pytest.mark.parametrize("mode", ["sync", "async", "ensemble", "rtc"])
def test_on_simulated_time_it_commands_the_same_as_the_network_behind_it(
    flow: Any, tiny: Any, mode: Any
) -> None:
    """The function infers with a network of its own, and answers in robot units."""
    settings = _core.ContinuationSettings(delays=[0, 1, 2])
    decoder = _core.ActionDecoder(scale=SCALE, offset=OFFSET, relative_mask=RELATIVE)
    horizon, width = flow.action_shape
    threads: set[str] = set()
    prefixes: list[int] = []

    def call(inputs: Any, noise: Any, previous: Any, prefix_len: int, cancelled: Any) -> Any:
        threads.add(threading.current_thread().name)
        prefixes.append(prefix_len)
        assert not cancelled()
        inputs = dict(inputs)
        base = inputs.pop("base")
        if previous is None:
            return decoder.decode(flow.infer(inputs, noise), base)
        rows = decoder.encode(np.ascontiguousarray(previous[:, :DIM]), width, base)
        actions = flow.infer(inputs, noise, rows, prefix_len, settings)
        return decoder.decode(actions, base)

    policy = _core.CallbackPolicy(
        call,
        inputs=flow.inputs | {"base": ("float32", (DIM,))},
        action_shape=flow.action_shape,
        can_continue=True,
    )
    options: dict[str, Any] = {"mode": mode, "continuation": settings}
    options["inference_delay"] = 0 if mode == "sync" else 1
    loops = make_loop(flow, decoder, **options), make_loop(policy, **options)
    sent: list[list[NDArray[np.float32]]] = [[], []]
    random = np.random.default_rng(3)
    for tick in range(40):
        base = random.uniform(-1, 1, DIM).astype(np.float32)
        for loop, commands in zip(loops, sent, strict=True):
            if loop.needs_observation():
                inputs = tiny.inputs(tick)
                more = {"base": base} if loop is loops[1] else {}
                loop.submit(inputs | more, base, tiny.noise(tick))
            commands.append(loop.tick()[0])
    for loop in loops:
        loop.stop()
    assert np.array_equal(np.array(sent[0]), np.array(sent[1]))
    assert loops[0].stats()["chunks"] == loops[1].stats()["chunks"] > 5
    assert (mode == "rtc") == (max(prefixes) > 0)
    assert horizon == flow.action_shape[0]
    assert loops[1].stats()["histograms"]["inference"]["count"] == len(prefixes)
    assert all((name == "MainThread") == (mode == "sync") for name in threads)


@pytest.mark.parametrize("mode", ["sync", "async", "ensemble", "rtc"])
def test_in_real_time_it_drives_in_every_mode(mode: Any) -> None:
    prefixes: list[int] = []

    def call(inputs: Any, noise: Any, previous: Any, prefix_len: int, cancelled: Any) -> Any:
        prefixes.append(prefix_len)
        assert (previous is None) == (prefix_len == 0)
        return holding(inputs)

    loop = realtime_loop(make_policy(call), mode=mode)
    answerer = Answerer(loop)
    loop.start(1)
    deadline_s = time.monotonic() + WAIT_S
    while loop.stats()["chunks"] < 6 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    loop.finish()
    assert loop.wait_until_ended(WAIT_S)
    answerer.close()
    loop.close()
    assert loop.stats()["chunks"] >= 6
    assert loop.status()["phase"] == "idle"
    assert (mode == "rtc") == (max(prefixes) > 0)


def realtime_loop(policy: Any, **settings: Any) -> Any:
    defaults: dict[str, Any] = {
        "control_hz": 50.0,
        "execution_horizon": 4,
        "mode": "async",
        "inference_deadline_s": WAIT_S,
        "hold_for_s": WAIT_S,
        "continuation": _core.ContinuationSettings(delays=[0, 1, 2, 4]),
    }
    return _core.RealtimeLoop(
        link=_core.LoopbackLink(action_dim=DIM, state=START.tolist()),
        policy=policy,
        decoder=identity(),
        limits=_core.SafetyLimits(lower=[-1] * DIM, upper=[1] * DIM, max_velocity=[1] * DIM),
        settings=_core.RealtimeSettings(**(defaults | settings)),
    )


class Answerer:
    """Infers on a thread what a loop asks for, and keeps what that raised."""

    def __init__(self, loop: Any) -> None:
        self.errors: list[BaseException] = []
        self._ended = threading.Event()
        self._loop = loop
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        noise = np.zeros((ROWS, DIM), np.float32)
        while not self._ended.is_set():
            request = self._loop.wait_for_request(0.02)
            if request is None:
                continue
            try:
                self._loop.infer(request, {"state": START}, START, noise, time.monotonic_ns())
            except (RuntimeError, ValueError) as error:
                self.errors.append(error)


def test_an_inference_that_nobody_wants_any_more_is_told_and_given_up() -> None:
    told: list[bool] = []
    entered = threading.Event()

    def call(inputs: Any, noise: Any, previous: Any, prefix_len: int, cancelled: Any) -> Any:
        entered.set()
        deadline_s = time.monotonic() + WAIT_S
        while not cancelled() and time.monotonic() < deadline_s:
            time.sleep(0.002)
        told.append(cancelled())
        raise ConnectionError("given up")

    loop = realtime_loop(make_policy(call))
    answerer = Answerer(loop)
    loop.start(1)
    assert entered.wait(WAIT_S)
    loop.stop(2, "enough")
    assert loop.wait_until_ended(WAIT_S)
    answerer.close()
    assert told == [True]
    assert answerer.errors == []  # a chunk that nobody wants is not a failure
    assert loop.status()["fault"] == "operator_stop"
    loop.close()


def test_what_it_raises_is_the_reason_of_the_stop() -> None:
    def call(*_: object) -> Any:
        raise ConnectionError("ws://robot-gpu:8000: no\nroute   to host")

    loop = realtime_loop(make_policy(call), max_retries=1)
    answerer = Answerer(loop)
    loop.start(1)
    assert loop.wait_until_ended(WAIT_S)
    answerer.close()
    status = loop.status()
    assert status["fault"] == "retries_exhausted"
    assert status["reason"].endswith("the last one: ws://robot-gpu:8000: no route to host")
    loop.close()


def test_a_policy_that_is_away_is_waited_for_beyond_the_bound_of_other_holds() -> None:
    began_s = time.monotonic()
    is_back = threading.Event()

    def call(inputs: Any, *_: object) -> Any:
        if not is_back.is_set():
            raise ConnectionError("no route to host")
        return holding(inputs)

    loop = realtime_loop(make_policy(call), hold_for_s=0.2, chunk_hold_for_s=30.0, max_retries=0)
    answerer = Answerer(loop)
    loop.start(1)
    while time.monotonic() < began_s + 0.6:
        assert not loop.wait_until_ended(0.02)
    assert loop.status()["phase"] == "holding"
    is_back.set()
    while loop.status()["phase"] != "running":
        assert not loop.wait_until_ended(0.02)
        assert time.monotonic() < began_s + WAIT_S
    assert len(answerer.errors) > 1
    loop.close()
    answerer.close()


def test_on_simulated_time_a_failure_is_raised_once_and_then_it_goes_on() -> None:
    fails = [True]

    def call(inputs: Any, *_: object) -> Any:
        if fails[0]:
            raise ValueError("two\nlines")
        return holding(inputs)

    loop = make_loop(make_policy(call))
    with pytest.raises(RuntimeError, match="^two lines$"):
        submit(loop)
    fails[0] = False
    submit(loop)
    loop.stop()

    fails[0] = True
    loop = make_loop(make_policy(call), mode="async", inference_delay=1)
    submit(loop)
    loop.tick()
    loop.tick()
    with pytest.raises(RuntimeError, match="inference failed: two lines"):
        loop.needs_observation()
    loop.stop()


class Silent(Exception):
    def __str__(self) -> str:
        return ""


class Broken(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.zeros((ROWS, DIM)), r"actions: expected float32 \(8, 3\), got float64 \(8, 3\)"),
        (np.zeros((ROWS - 1, DIM), np.float32), r"actions: expected float32 \(8, 3\), got float32"),
        (None, r"actions: expected float32 \(8, 3\), got <class 'NoneType'>"),
        ([[0.0] * DIM] * ROWS, r"actions: expected float32 \(8, 3\), got <class 'list'>"),
        (Silent(), "^Silent$"),
        (Broken(), "^an exception without text$"),
    ],
)
def test_an_answer_that_is_no_chunk_is_refused(answer: Any, message: str) -> None:
    def call(*_: object) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises((ValueError, RuntimeError), match=message):
        make_policy(call).infer({"state": START}, np.zeros((ROWS, DIM), np.float32))


def test_a_chunk_that_is_not_finite_is_left_to_the_loop() -> None:
    policy = make_policy(lambda *_: np.full((ROWS, DIM), np.nan, np.float32))
    loop = make_loop(policy)
    submit(loop)
    command, flags = loop.tick()
    np.testing.assert_array_equal(command, START)
    assert flags & _core.NON_FINITE
    loop.stop()


def test_a_signal_of_the_operator_passes_through() -> None:
    def call(*_: object) -> Any:
        raise KeyboardInterrupt

    loop = make_loop(make_policy(call))
    with pytest.raises(KeyboardInterrupt):
        submit(loop)
    loop.stop()


def test_what_it_is_given_may_be_kept_and_the_question_asked_later() -> None:
    kept: list[Any] = []

    def call(*arguments: Any) -> Any:
        kept.append(arguments)
        return holding(arguments[0])

    policy = make_policy(call)
    state = START.copy()
    noise = np.ones((ROWS, DIM), np.float32)
    settings = _core.ContinuationSettings(delays=[0, 2])
    policy.infer({"state": state}, noise, noise[:4] * 2, 2, settings)
    state[:] = noise[:] = 9
    inputs, given, previous, prefix_len, cancelled = kept[0]
    np.testing.assert_array_equal(inputs["state"], START)
    np.testing.assert_array_equal(given, np.ones((ROWS, DIM)))
    np.testing.assert_array_equal(previous, np.full((4, DIM), 2))
    assert prefix_len == 2
    assert cancelled()  # nobody wants it any more
    with pytest.raises(ValueError, match="state: expected float32"):
        policy.infer({"state": START[:2]}, noise)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action_shape": (0, 3)}, "action_horizon: expected at least 1, got 0"),
        ({"action_shape": (8, 0)}, "action_dim: expected at least 1, got 0"),
        ({"inputs": {"state": ("float32", (0,))}}, "state: expected at least 1, got 0"),
        ({"inputs": {"state": ("float16", (3,))}}, "state: expected float32, .* got float16"),
    ],
)
def test_a_policy_of_no_shape_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_policy(holding, **options)
    with pytest.raises(ValueError, match="call: expected a function"):
        make_policy(cast("Any", 3))


def test_the_function_is_released_with_its_policy() -> None:
    class Callable_:
        def __call__(self, inputs: Any, *_: object) -> Any:
            return holding(inputs)

    function = Callable_()
    policy = make_policy(function)
    loop = make_loop(policy, mode="async", inference_delay=1)
    submit(loop)
    loop.tick()
    gone = weakref.ref(function)
    del function, policy
    assert gone() is not None
    loop.stop()
    del loop
    gc.collect()
    assert gone() is None


SCRIPT = """
import threading, time, numpy as np
from flux_runtime import _core

def call(inputs, *_):
    entered.set()
    time.sleep(0.3)  # gives the interpreter lock away and needs it again
    return np.zeros((8, 3), np.float32)

entered = threading.Event()
policy = _core.CallbackPolicy(
    call, inputs={"state": ("float32", (3,))}, action_shape=(8, 3), can_continue=False
)
START = np.zeros(3, np.float32)
loop = _core.ControlLoop(
    policy=policy,
    decoder=_core.ActionDecoder(
        scale=np.ones(3), offset=np.zeros(3), relative_mask=np.zeros(3, bool)
    ),
    limits=_core.SafetyLimits(lower=[-1] * 3, upper=[1] * 3, max_velocity=[1] * 3),
    control_hz=50.0, execution_horizon=3, mode="async", inference_delay=1,
)
loop.start(START)
assert loop.needs_observation()
loop.submit({"state": START}, START, np.zeros((8, 3), np.float32))
assert entered.wait(5)
ENDING
print("done", flush=True)
"""


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param("del loop", id="the loop is deleted"),
        pytest.param("loop.tick(); loop.tick()", id="a tick waits"),
        pytest.param("loop.stop()", id="the loop is stopped"),
        pytest.param("pass", id="the interpreter ends"),
    ],
)
def test_nobody_waits_for_the_function_with_the_lock_that_it_needs(ending: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("ENDING", ending)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "done\n", "")
