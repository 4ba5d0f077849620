"""A fake policy server for the toy robot, and a client of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
import pytest

pytest.importorskip("websockets", reason="no websockets: pip install 'flux-runtime[remote]'")
pytest.importorskip("msgpack", reason="no msgpack: pip install 'flux-runtime[remote]'")

from flux_runtime.realtime.remote_options import RemoteOptions
from flux_runtime.remote.access import access_to
from flux_runtime.remote.client import PolicyClient
from flux_runtime.remote.connection import Request

from .fake_server import FakeServer, facts_of

MakeClient = Callable[..., PolicyClient]


@pytest.fixture
def server(fakes: Any) -> Iterator[FakeServer]:
    """A server of the toy bundle, which answers well."""
    running = FakeServer(facts_of(fakes.toy_manifest(), fakes.toy_spec()))
    yield running
    running.kill()


@pytest.fixture
def connect(server: FakeServer) -> Iterator[MakeClient]:
    """Connects clients, of the server unless a URL is given, and closes them after the test."""
    with ExitStack() as stack:

        def make(url: str | None = None, reconnect_for_s: float = 60.0, **options: Any) -> Any:
            remote = RemoteOptions(url=url or server.url, **options)
            access = access_to(remote, {})
            client = PolicyClient(access, reconnect_for_s=reconnect_for_s)
            return stack.enter_context(closing(client))

        yield make


@pytest.fixture
def request_of(server: FakeServer) -> Callable[[int], Request]:
    """Makes requests for chunks of the toy policy."""
    manifest = server.facts.manifest

    def make(number: int = 0) -> Request:
        generator = np.random.default_rng(number)
        return Request(
            captured_ns={"state": 1000 + number},
            state=generator.uniform(-1, 1, manifest.state_dim).astype(np.float32),
            images={name: np.full((6, 8, 3), number, np.uint8) for name in manifest.cameras},
            prompt="wave",
            noise=generator.standard_normal(
                (manifest.action_horizon, manifest.action_dim), np.float32
            ),
        )

    return make
