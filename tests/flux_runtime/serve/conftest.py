"""Servers that the tests of a module share, and a robot that must not notice anything."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray
from websockets.sync.client import ClientConnection, connect

from flux_core.robots import robot_spec
from flux_core.types import Observation
from flux_runtime.control import RunOptions, open_policy
from flux_runtime.control.latency import StageTimes
from flux_runtime.control.policy_source import BundleSource, ChunkRequest
from flux_runtime.wire import METADATA_BOUNDS, Bounds, pack, unpack

from ...serving import SHIPPED, Served, observation

SEED = 7


class Local:
    """The same policy, opened as a run on this machine opens it."""

    def __init__(self, source: BundleSource) -> None:
        self.source = source
        self._spec = robot_spec("aloha-sim")

    def chunk(self, number: int, index: int, seed: int = SEED) -> NDArray[np.float32]:
        """Returns the chunk of `observation(number)` with the noise of (seed, index)."""
        data = observation(number)
        seen = Observation(
            images=data["images"], state=data["state"], prompt=data["prompt"], timestamp_s=0.0
        )
        request = ChunkRequest(seed=seed, chunk_index=index, prompt=seen.prompt)
        return self.source.infer(seen, self._spec.hold(seen.state), request)


@pytest.fixture(scope="package")
def local() -> Local:
    """A local policy to compare with."""
    spec = robot_spec("aloha-sim")
    policy = open_policy(RunOptions(robot="aloha-sim", bundle=SHIPPED), spec, StageTimes())
    assert policy is not None
    return Local(policy.source)


class OpenPIClient:
    """Speaks openpi's protocol as openpi-client does."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        first = connection.recv(timeout=30)
        assert isinstance(first, bytes)
        self.metadata = unpack(first, METADATA_BOUNDS)

    def ask(self, message: dict[str, object] | bytes | str) -> dict[str, object] | str:
        """Sends a message; returns the answer, or the line of an error."""
        self.connection.send(pack(message) if isinstance(message, dict) else message)
        return self.answer()

    def answer(self) -> dict[str, object] | str:
        """Returns the next answer."""
        found = self.connection.recv(timeout=30)
        return found if isinstance(found, str) else unpack(found, Bounds())


@contextmanager
def openpi(served: Served, **settings: object) -> Iterator[OpenPIClient]:
    """Connects to a server."""
    settings = {"compression": None, "max_size": None, "open_timeout": 30, **settings}
    with connect(served.url, **settings) as connection:  # type: ignore[arg-type]
        yield OpenPIClient(connection)


Connected = Callable[[], AbstractContextManager[OpenPIClient]]


def wait_until(is_true: Callable[[], object], what: str, limit_s: float = 30.0) -> None:
    """Waits for something that happens at once on a machine that has nothing else to do."""
    end_s = time.monotonic() + limit_s
    while not is_true():
        assert time.monotonic() < end_s, what
        time.sleep(0.01)


LONGEST_WAIT_S = 5.0
"""Of a robot, on a machine on which much else runs. Who blocks the server does so for ever, or for
as long as a test misbehaves."""


class Robot:
    """A good client in a thread: asks 25 times per second, and compares every answer.

    It asks without a pause while somebody waits for its answers.
    """

    def __init__(self, connected: Connected, local: Local) -> None:
        self._connected = connected
        self._expected = [local.chunk(0, index) for index in range(2)]
        self._is_awaited = threading.Event()
        self._is_stopped = False
        self.answers = 0
        self.waits_s: list[float] = []
        self.fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def check(self, more: int = 3) -> None:
        """Requires that it still gets its answers."""
        before = self.answers
        self._is_awaited.set()
        wait_until(
            lambda: self.answers >= before + more or self.fault is not None,
            "the robot gets no answers",
        )
        self._is_awaited.clear()
        assert self.fault is None, self.fault
        assert max(self.waits_s) < LONGEST_WAIT_S

    def stop(self) -> None:
        """Disconnects it."""
        self._is_stopped = True
        self._is_awaited.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            noise = self._noise()
            with self._connected() as client:
                while not self._is_stopped:
                    self._is_awaited.wait(0.04)
                    began_s = time.monotonic()
                    found = client.ask({**observation(0), "noise": noise})
                    self.waits_s.append(time.monotonic() - began_s)
                    assert isinstance(found, dict), found
                    np.testing.assert_array_equal(found["actions"], self._expected[0])
                    self.answers += 1
        except BaseException as error:  # noqa: BLE001 - told by `check`
            self.fault = error

    def _noise(self) -> NDArray[np.float32]:
        from flux_runtime.control.policy_source import chunk_noise

        height, width = self._expected[0].shape
        return chunk_noise(SEED, 0, (height, width))
