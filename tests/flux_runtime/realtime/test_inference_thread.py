"""The inference thread: what it cannot answer is reported, and it never keeps anybody waiting."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from flux_runtime.realtime.inference_thread import InferenceThread, is_inference_stuck


class AskingLoop:
    """Asks for a number of chunks."""

    def __init__(self, count: int) -> None:
        self.requests = [SimpleNamespace(index=index, session=1) for index in range(count)]
        self.failures: list[tuple[int, str]] = []
        self.is_done = threading.Event()

    def wait_for_request(self, timeout_s: float) -> Any:
        if not self.requests:
            self.is_done.set()
            threading.Event().wait(0.001)
            return None
        return self.requests.pop(0)

    def report_failure(self, request: Any, text: str) -> None:
        self.failures.append((request.index, text))


def test_an_error_is_reported_and_the_next_request_answered() -> None:
    loop, answered = AskingLoop(3), list[int]()

    def answer(request: Any) -> None:
        if request.index == 1:
            raise KeyError("cam_a\nis missing")
        answered.append(request.index)

    thread = InferenceThread(loop, answer)
    assert loop.is_done.wait(30)
    assert thread.close()
    assert answered == [0, 2]
    assert loop.failures == [(1, "'cam_a\\nis missing'")]
    assert not is_inference_stuck()


@pytest.fixture
def release() -> Any:
    event = threading.Event()
    yield event
    event.set()


def test_an_inference_that_hangs_is_left_behind(release: threading.Event) -> None:
    loop, has_begun = AskingLoop(1), threading.Event()

    def answer(request: Any) -> None:
        has_begun.set()
        release.wait()

    thread = InferenceThread(loop, answer)
    assert has_begun.wait(30)
    assert not thread.close(timeout_s=0.01)
    assert is_inference_stuck()
    release.set()
    assert thread.close(timeout_s=30)
    assert not is_inference_stuck()
