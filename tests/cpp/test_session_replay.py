"""Sessions of a fast control thread that other threads disturb all the time run again."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from flux_runtime import _core

DIM = 2
OUTPUTS = ("command", "flags", "phase", "chunk", "row", "sequence", "observed_ns", "tick_ns")
WAIT_S = 20.0
LONG_AGO_NS = 1


def arguments(mode: Any) -> dict[str, Any]:
    """Returns what a loop and its replay have in common."""
    return {
        "policy": None,
        "decoder": _core.ActionDecoder(
            scale=np.ones(DIM), offset=np.zeros(DIM), relative_mask=np.zeros(DIM, bool)
        ),
        "limits": _core.SafetyLimits(lower=[-1] * DIM, upper=[1] * DIM, max_velocity=[1] * DIM),
        "settings": _core.RealtimeSettings(
            control_hz=500.0,
            execution_horizon=4,
            mode=mode,
            cameras=[0],
            hold_for_s=WAIT_S,
            max_state_age_s=0.02,
            max_frame_age_s=0.02,
            inference_deadline_s=WAIT_S,
            continuation=_core.ContinuationSettings(delays=[0, 2, 4]),
            first_latency_s=0.002 if mode == "rtc" else 0.0,
        ),
    }


class Disturbed:
    """A session with requests that are taken at once, and holds that give them up at any moment.

    Attributes:
        chunks: ticket -> (request, rows, capture time).
    """

    def __init__(self, mode: str) -> None:
        self.chunks: dict[int, tuple[dict[str, int], np.ndarray, int]] = {}
        self._link: Any = _core.LoopbackLink(action_dim=DIM, state=[0.1, -0.2], num_cameras=1)
        self.loop: Any = _core.RealtimeLoop(link=self._link, **arguments(mode))
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=run) for run in (self._serve, self._disturb)]

    def run(self, max_ticks: int) -> np.ndarray:
        """Runs a session, and returns its ticks."""
        self.loop.start(1, max_ticks=max_ticks)
        for thread in self._threads:
            thread.start()
        try:
            assert self.loop.wait_until_ended(WAIT_S)
        finally:
            self._is_over.set()
            for thread in self._threads:
                thread.join(WAIT_S)
            self.loop.close()
        return self.loop.drain_ticks()

    def _serve(self) -> None:
        random = np.random.default_rng(0)
        while not self._is_over.is_set():
            request = self.loop.wait_for_request(0.01)
            if request is None:
                continue
            rows = random.normal(0.1, 0.05, (12, DIM)).astype(np.float32)
            data, now_ns = request.as_data(), time.monotonic_ns()
            self.chunks[data["ticket"]] = (data, rows, now_ns)
            self.loop.submit_chunk(request, rows, now_ns)

    def _disturb(self) -> None:
        random = np.random.default_rng(1)
        while not self._is_over.wait(float(random.uniform(0.001, 0.004))):
            self._link.freeze(LONG_AGO_NS)
            self._is_over.wait(float(random.uniform(0.0005, 0.003)))
            self._link.freeze(0)


@pytest.mark.parametrize("mode", ["async", "rtc", "ensemble"])
def test_a_session_that_other_threads_disturb_runs_again(mode: str) -> None:
    session = Disturbed(mode)
    ticks = session.run(max_ticks=150)
    assert len(session.chunks) > 3 and ticks["has_discarded"].sum() > 3
    replay = _core.SessionReplay(state_dim=DIM, num_cameras=1, **arguments(mode))
    for request, _, _ in session.chunks.values():
        replay.add_request(request)
    replay.start(session.loop.session_start())
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < len(ticks):
        done = sum(map(len, parts))
        assert not replay.has_ended, f"ended after {done} of {len(ticks)} ticks"
        replay.run(ticks[done:])
        parts.append(replay.drain_ticks())
        if replay.waits_for_chunk:
            _, rows, observed_ns = session.chunks[replay.recorded_ticket]
            replay.submit_chunk(rows, observed_ns)
    again = np.concatenate(parts)
    for name in OUTPUTS:
        assert again[name].tobytes() == ticks[name].tobytes(), name
    assert session.loop.drain_events() == replay.drain_events()


def test_ticks_of_another_form_are_refused() -> None:
    replay = _core.SessionReplay(state_dim=DIM, num_cameras=1, **arguments("async"))
    others: Any = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="ticks: expected"):
        replay.run(others)
