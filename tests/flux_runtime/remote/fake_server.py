"""A policy server of the tests' own, on `websockets` alone: it answers well, late, wrongly or not
at all, and is killed and started again on the same port."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from flux_core.bundle import component_sources
from flux_core.config import unbind
from flux_core.robots import RobotSpec
from flux_runtime.wire.bounds import Bounds
from flux_runtime.wire.facts import PolicyFacts
from flux_runtime.wire.messages import (
    SUBPROTOCOL,
    Answer,
    Hello,
    Infer,
    Limits,
    Ping,
    Pong,
    client_message,
)
from flux_runtime.wire.packing import pack, unpack

NOISY = ("x_t", "t", "x_next", "t_next")
"""The tensors of a policy's graphs that are as long as a chunk."""
Sent = bytes | str | float
"""A frame of bytes, a frame of text, or a pause in seconds."""
Script = Callable[["FakeServer", Infer], Iterable[Sent]]


def facts_of(manifest: Any, spec: RobotSpec, **changes: Any) -> PolicyFacts:
    """Returns the facts of a toy bundle that carries its robot."""
    config = {"inference": {"robot": unbind(spec)}}
    fields: dict[str, Any] = {
        "manifest": replace(manifest, components=component_sources(config)),
        "config": config,
        "sha256": "a" * 64,
        "engine": "fake",
        "can_continue": True,
        "server_version": "1",
        "spec": spec,
    }
    return PolicyFacts(**(fields | changes))


def with_horizon(manifest: Any, horizon: int) -> Any:
    """Returns a manifest whose graphs predict so many steps."""

    def longer(tensor: Any) -> Any:
        sizes = (horizon if size == manifest.action_horizon else size for size in tensor.shape)
        return replace(tensor, shape=tuple(sizes) if tensor.name in NOISY else tensor.shape)

    graphs = {
        name: replace(
            graph,
            inputs=tuple(map(longer, graph.inputs)),
            outputs=tuple(map(longer, graph.outputs)),
        )
        for name, graph in manifest.graphs.items()
    }
    return replace(manifest, graphs=graphs, action_horizon=horizon)


def chunk_for(server: FakeServer, request: Infer) -> np.ndarray:
    """Returns a chunk that depends on all that a request has, and hardly moves the robot."""
    rows = server.facts.manifest.action_horizon
    assert request.noise is not None
    noise = request.noise[:, : server.facts.action_dim]
    actions = np.tile(request.state, (rows, 1)) + np.float32(1e-4) * noise
    if request.continued is not None:
        known = request.continued.previous[: request.continued.prefix_len]
        actions[: len(known)] = known
    return actions.astype(np.float32)


def answer_to(server: FakeServer, request: Infer, **changes: Any) -> bytes:
    """Returns a good answer as a frame, or one with other fields."""
    now_ns = time.monotonic_ns()
    fields = Answer(
        sequence=request.sequence,
        actions=chunk_for(server, request),
        captured_ns=request.captured_ns,
        received_ns=now_ns,
        sent_ns=now_ns,
        times_ms={"infer": 1.0, "total": 2.0},
    ).as_data()
    return pack(fields | changes)


def well(server: FakeServer, request: Infer) -> Iterable[Sent]:
    """Answers as a good server does."""
    yield answer_to(server, request)


@dataclass
class Seen:
    """What a server has received."""

    requests: list[Infer]
    headers: list[Mapping[str, str]]
    connections: int = 0


class FakeServer:
    """Listens on loopback until it is closed.

    Attributes:
        script: how requests are answered; may be changed at any time.
        answers_pings: whether it shows a sign of life while it does not answer.
        facts: what it says of its policy.
        seen: what it has received.
    """

    def __init__(
        self,
        facts: PolicyFacts,
        script: Script = well,
        *,
        context: Any = None,
        subprotocol: str | None = SUBPROTOCOL,
        host: str = "127.0.0.1",
    ) -> None:
        self.facts, self.script = facts, script
        self.answers_pings = True
        self.hello: bytes | str | None = None
        self.port = 0
        self.seen = Seen([], [])
        self._context, self._subprotocol, self._host = context, subprotocol, host
        self._connections: list[ServerConnection] = []
        self._lock = threading.Lock()
        self._server: Any = None
        self.start()

    @property
    def url(self) -> str:
        return f"{'ws' if self._context is None else 'wss'}://{self._host}:{self.port}"

    def start(self) -> None:
        """Starts, on the same port as before."""
        names = [] if self._subprotocol is None else [self._subprotocol]
        self._server = serve(
            self._serve,
            self._host,
            self.port,
            subprotocols=names or None,
            max_size=2**26,
            compression=None,
            ssl=self._context,
            close_timeout=0.1,
        )
        self.port = self._server.socket.getsockname()[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def kill(self) -> None:
        """Ends as a process that is killed: the port is closed, and connections are reset."""
        server = self._server
        with contextlib.suppress(OSError):
            server.socket.shutdown(socket.SHUT_RDWR)
        server.socket.close()
        with self._lock:
            connections, self._connections = self._connections, []
        for connection in connections:
            with contextlib.suppress(OSError):
                linger = struct.pack("ii", 1, 0)
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                connection.socket.shutdown(socket.SHUT_RDWR)
                connection.socket.close()
        threading.Thread(target=server.shutdown, daemon=True).start()  # it may wait

    def _serve(self, connection: ServerConnection) -> None:
        with self._lock:
            self._connections.append(connection)
            self.seen.connections += 1
        assert connection.request is not None
        self.seen.headers.append(dict(connection.request.headers.raw_items()))
        with contextlib.suppress(ConnectionClosed, OSError):
            connection.send(self._greeting() if self.hello is None else self.hello)
            for frame in connection:
                assert isinstance(frame, bytes)
                self._take(connection, frame)

    def _greeting(self) -> bytes:
        hello = Hello(
            session="0123456789abcdef",
            facts=self.facts,
            limits=Limits(max_bytes=2**25, requests_per_s=1000.0),
            server_ns=time.monotonic_ns(),
        )
        return pack(hello.as_data())

    def _take(self, connection: ServerConnection, frame: bytes) -> None:
        message = client_message(unpack(frame, Bounds()), self.facts)
        if isinstance(message, Ping):
            if self.answers_pings:
                pong = Pong(client_ns=message.client_ns, server_ns=time.monotonic_ns())
                connection.send(pack(pong.as_data()))
            return
        self.seen.requests.append(message)
        for sent in self.script(self, message):
            if isinstance(sent, float):
                time.sleep(sent)
            else:
                connection.send(sent)


def renamed(facts: PolicyFacts) -> PolicyFacts:
    """Returns the facts of another bundle."""
    return replace(facts, sha256="b" * 64)
