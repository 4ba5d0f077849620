"""The server: who may open a connection, and what happens when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import ssl
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers, MultipleValuesError
from websockets.http11 import Request, Response
from websockets.protocol import OPEN
from websockets.typing import Subprotocol

from ..wire.bounds import Bounds
from ..wire.messages import SUBPROTOCOL, Limits
from ..wire.openpi import KeyMap
from ..wire.packing import pack
from .access import ListenAddress, Tokens
from .admission import ByteBudget, ConnectionPlaces, CountedListener, RequestRate, listen
from .connection import GuardedConnection, Guards
from .conversation import (
    TEXTS,
    ClientReply,
    Conversation,
    FluxConversation,
    House,
    OpenPIConversation,
    PendingRequest,
    hello_data,
)
from .events import EventLog
from .metrics import Metrics
from .options import ServeLimits
from .policy import ServedPolicy
from .scheduler import Dropped, Job, Scheduler
from .worker import Worker

PING_S = 20.0
"""How often a client is asked whether it is still there, and how long it may take to say so."""
WRITE_BUFFER_BYTES = 1
"""What the system does not take at once makes the server wait: an answer is accepted when it is in
the socket's buffer."""
UNOPENED_CONNECTIONS = 128
"""Accepted, and not open yet."""
STUCK_AFTER_S = 60.0
"""A running inference of this length makes the server unhealthy."""
UNHEALTHY_FAILURES = 3
"""So many failed inferences after each other do so, too."""
CLOSE_S = 2.0


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """The settings of a server.

    Attributes:
        address: where to listen.
        tokens: of which each client must have one; None: it needs none.
        tls: None for plain text.
        limits: of the clients.
        keys: of openpi's observations.
        seed: of the noise.
        drain_for_s: how long it goes on answering after a stop signal.
        shows_tracebacks: in the log, of its own faults.
    """

    address: ListenAddress
    tokens: Tokens | None
    tls: ssl.SSLContext | None
    limits: ServeLimits
    keys: KeyMap
    seed: int
    drain_for_s: float
    shows_tracebacks: bool = False


class InferenceServer:
    """Serves one policy until a signal stops it."""

    def __init__(
        self, policy: ServedPolicy, settings: ServerSettings, metrics: Metrics, events: EventLog
    ) -> None:
        limits = settings.limits
        self._settings, self._metrics, self._events = settings, metrics, events
        self._budget = ByteBudget(limits.max_bytes, limits.max_bytes // 2)
        self._places = ConnectionPlaces(UNOPENED_CONNECTIONS, self._on_refused)
        self._guards = Guards(
            budget=self._budget,
            new_rate=lambda: RequestRate(limits.max_rate),
            on_refused=self._on_refused,
            on_cut=self._on_cut,
        )
        self._worker = Worker(
            Scheduler(limits.max_waiting),
            work=lambda job: _request(job).infer(),
            deliver=partial(self._from_worker, self._on_inferred),
            deliver_dropped=partial(self._from_worker, self._on_dropped),
            on_end=partial(self._from_worker, self._on_worker_end),
        )
        told = Limits(max_bytes=limits.max_message_bytes, requests_per_s=limits.max_rate)
        self._house = House(
            policy=policy,
            greeting=pack(policy.facts.as_data()),
            hello=hello_data(policy.facts, told),
            metrics=metrics,
            bounds=Bounds(
                max_bytes=limits.max_message_bytes, max_array_bytes=limits.max_message_bytes
            ),
            max_rate=limits.max_rate,
            max_pixels=limits.max_pixels * max(1, len(policy.facts.manifest.cameras)),
            keys=settings.keys,
            seed=settings.seed,
            send_timeout_s=limits.send_timeout_s,
            submit=self._submit,
            forget=self._forget,
            on_bug=partial(self._from_worker, self._on_bug),
        )
        self._conversations: set[Conversation] = set()
        self._by_owner: Counter[tuple[str, int | None]] = Counter()
        self._is_draining = self._is_over = False
        self._failures = 0
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        metrics.watch("connections", "open connections", lambda: len(self._conversations))
        metrics.watch("waiting", "requests that wait", lambda: self._worker.num_waiting)
        metrics.watch("bytes_in_flight", "bytes of messages held", lambda: self._budget.held)
        metrics.watch("inference_running_seconds", "so far", lambda: self._worker.busy_s)

    # Its life.

    def listen(self) -> CountedListener:
        """Returns the listening socket.

        Raises:
            OSError: the address cannot be used.
        """
        address = self._settings.address
        return listen((address.host, address.port), address.family, self._places)

    async def run(self, listener: CountedListener, on_ready: Any) -> bool:
        """Serves until SIGTERM or SIGINT; returns whether everything asked was answered.

        Args:
            listener: of `listen`.
            on_ready: called without arguments when clients can connect.
        """
        self._loop.set_exception_handler(self._on_loop_exception)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal, signal.Signals(number).name)
        self._worker.start()
        server = await self._start(listener)
        sweeper = self._loop.create_task(self._sweep())
        try:
            on_ready()
            await self._stop.wait()
            return await self._drain(server)
        finally:
            sweeper.cancel()
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.remove_signal_handler(number)

    async def _start(self, listener: CountedListener) -> Server:
        limits = self._settings.limits
        quiet = logging.getLogger("flux.serve.websockets")
        quiet.setLevel(logging.CRITICAL + 1)  # what it says is counted and logged here
        return await serve(
            self._converse,
            sock=listener,
            ssl=self._settings.tls,
            select_subprotocol=_subprotocol,
            compression=None,
            process_request=self._check_request,
            server_header=None,
            open_timeout=limits.handshake_timeout_s,
            ping_interval=PING_S,
            ping_timeout=PING_S,
            close_timeout=CLOSE_S,
            max_size=limits.max_message_bytes,
            max_queue=2,
            write_limit=WRITE_BUFFER_BYTES,
            logger=quiet,
            create_connection=partial(GuardedConnection, guards=self._guards),  # type: ignore
        )

    def _on_signal(self, name: str) -> None:
        if self._is_draining:
            self._events.write("stopped_at_once", signal=name)
            self._is_over = True
            for connection in list(self._guards.connections):
                connection.transport.abort()
        else:
            self._events.write("draining", signal=name, waiting=self._worker.num_waiting)
        self._is_draining = True
        self._stop.set()

    async def _drain(self, server: Server) -> bool:
        """Answers what was asked, closes all connections, and ends the worker."""
        until_s = self._loop.time() + self._settings.drain_for_s
        server.close(close_connections=False)  # no new ones
        while not (self._is_over or self._is_done()) and self._loop.time() < until_s:
            await asyncio.sleep(0.01)
        is_done = self._is_done() and not self._is_over
        closing = [
            asyncio.ensure_future(connection.close(1001, "the server is shutting down"))
            for connection in list(self._guards.connections)
            if connection.protocol.state is OPEN
        ]
        if closing:
            await asyncio.wait(closing, timeout=CLOSE_S)
        for connection in list(self._guards.connections):
            connection.transport.abort()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.wait_closed(), CLOSE_S)
        rest_s = 0.1 if self._is_over else max(0.1, until_s - self._loop.time())
        has_ended = await asyncio.to_thread(self._worker.stop, rest_s)
        self._events.write("stopped", answered_all=is_done)
        return is_done and has_ended

    def _is_done(self) -> bool:
        return self._worker.is_idle and not any(
            conversation.outstanding for conversation in self._conversations
        )

    # Opening a connection.

    def _check_request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Returns a response that refuses a connection or is no WebSocket's; None to open it."""
        assert isinstance(connection, GuardedConnection)
        is_websocket = "websocket" in ",".join(request.headers.get_all("Upgrade")).lower()
        if request.path.partition("?")[0] == "/healthz" and not is_websocket:
            connection.ended = "healthz"
            return self._health(connection)
        refused = self._refusal_of(connection, request, is_websocket)
        if refused is None:
            return None
        kind, status, text = refused
        connection.ended = kind
        self._on_refused(kind, connection.name)
        response = connection.respond(status, f"{text}\n")
        if status == HTTPStatus.UNAUTHORIZED:
            response.headers["WWW-Authenticate"] = 'Bearer realm="flux"'
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            response.headers["Retry-After"] = "1"
        return response

    def _refusal_of(
        self, connection: GuardedConnection, request: Request, is_websocket: bool
    ) -> tuple[str, HTTPStatus, str] | None:
        headers, limits, tokens = request.headers, self._settings.limits, self._settings.tokens
        if "Origin" in headers:
            text = "expected a robot, got a browser: requests with an Origin are refused"
            return "origin", HTTPStatus.FORBIDDEN, text
        if tokens is not None:
            token = tokens.find(_authorization(headers))
            if token is None:
                has_one = "Authorization" in headers
                text = (
                    f"expected a token of this server in the header Authorization, got "
                    f"{'another one' if has_one else 'none'}"
                )
                return "wrong_token" if has_one else "no_token", HTTPStatus.UNAUTHORIZED, text
            connection.owner = (connection.owner[0], token)
        if request.path.partition("?")[0] != "/":
            return "path", HTTPStatus.NOT_FOUND, "expected the path /, got another one"
        if not is_websocket:
            text = "expected a WebSocket: connect with openpi-client or flux-runtime run --remote"
            return "no_websocket", HTTPStatus.UPGRADE_REQUIRED, text
        if self._is_draining:
            return "draining", HTTPStatus.SERVICE_UNAVAILABLE, TEXTS["draining"]
        if self._by_owner.total() >= limits.max_connections:
            text = f"expected at most {limits.max_connections} connections, which are open"
            return "connections", HTTPStatus.SERVICE_UNAVAILABLE, text
        if self._by_owner[connection.owner] >= limits.max_connections_per_client:
            text = (
                f"expected at most {limits.max_connections_per_client} connections of one client, "
                f"which are open"
            )
            return "connections_per_client", HTTPStatus.SERVICE_UNAVAILABLE, text
        return None

    def _health(self, connection: GuardedConnection) -> Response:
        if self._worker.busy_s > STUCK_AFTER_S:
            text = f"an inference runs for {self._worker.busy_s:.0f} s\n"
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, text)
        if self._failures >= UNHEALTHY_FAILURES:
            text = f"the last {self._failures} inferences failed\n"
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, text)
        return connection.respond(HTTPStatus.OK, "OK\n")

    # An open connection.

    async def _converse(self, connection: ServerConnection) -> None:
        assert isinstance(connection, GuardedConnection)
        kind = FluxConversation if connection.subprotocol == SUBPROTOCOL else OpenPIConversation
        conversation = kind(connection, self._house)
        began_s = self._loop.time()
        self._places.give(connection.peer)
        self._conversations.add(conversation)
        self._by_owner[connection.owner] += 1
        self._metrics.opened(conversation.protocol)
        self._events.write(
            "connected",
            client=connection.name,
            protocol=conversation.protocol,
            token=connection.owner[1],
        )
        try:
            await conversation.run()
        except Exception as error:  # noqa: BLE001 - no client may end the server
            self._on_bug(error)
        finally:
            self._conversations.discard(conversation)
            self._by_owner[connection.owner] -= 1
            self._events.write(
                "disconnected",
                client=connection.name,
                requests=conversation.number,
                seconds=self._loop.time() - began_s,
                why=connection.ended,
            )

    def _submit(self, job: Job) -> None:
        if self._is_draining:
            _request(job).settle(_request(job).refuse("draining", TEXTS["draining"]))
            return
        self._on_dropped(self._worker.add(job))

    def _forget(self, conversation: Conversation) -> None:
        left = self._worker.forget(conversation)
        if left is not None:
            request = _request(left)
            request.settle(request.refuse("failed", "the client has left", "gone"))

    def _on_dropped(self, dropped: Sequence[Dropped]) -> None:
        for drop in dropped:
            request = _request(drop.job)
            request.settle(request.refuse(drop.kind, TEXTS[drop.kind]))

    def _on_inferred(self, job: Job, reply: ClientReply) -> None:
        if reply.refused == "failed":
            self._failures += 1
        elif reply.times_s is not None:
            self._failures = 0
        if reply.refused is not None:
            self._events.write(
                "refused",
                client=getattr(job.client, "name", ""),
                kind=reply.detail or reply.refused,
                reason=reply.reason,
            )
        _request(job).settle(reply)

    def _on_worker_end(self, fault: BaseException | None) -> None:
        if fault is not None:  # whoever started the server starts it again
            self._on_bug(fault)
            self._is_draining = self._is_over = True
            self._stop.set()

    def _from_worker(self, call: Any, *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(call, *arguments)

    async def _sweep(self) -> None:
        """Cuts connections that take too long."""
        limits = self._settings.limits
        every_s = min(0.5, limits.message_timeout_s / 4, limits.idle_timeout_s / 4)
        while True:
            await asyncio.sleep(every_s)
            now_s = self._loop.time()
            for connection in list(self._guards.connections):
                if connection.protocol.state is not OPEN:
                    continue
                if connection.unfinished_s() > limits.message_timeout_s:
                    text = f"a message took longer than {limits.message_timeout_s:g} s"
                    connection.cut("slow_sender", 1008, text)
                elif now_s - connection.requested_s > limits.idle_timeout_s:
                    text = f"no request for {limits.idle_timeout_s:g} s"
                    connection.cut("idle", 1001, text)

    # What is counted and logged.

    def _on_refused(self, kind: str, client: str) -> None:
        self._metrics.handshake_refused(kind)
        self._events.write("connection_refused", client=client, kind=kind)

    def _on_cut(self, kind: str, client: str) -> None:
        self._metrics.cut(kind)
        self._events.write("connection_cut", client=client, kind=kind)

    def _on_bug(self, error: BaseException) -> None:
        self._events.write("internal_error", error=f"{type(error).__name__}: {error}")
        if self._settings.shows_tracebacks:
            logging.getLogger("flux.serve").error("internal error", exc_info=error)

    def _on_loop_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError):  # a connection ended in the middle of something
            return
        self._on_bug(error or RuntimeError(str(context.get("message"))))


def _request(job: Job) -> PendingRequest:
    return job.payload


def _subprotocol(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Takes our protocol if it is offered; otherwise it is openpi's, which has no name."""
    ours = Subprotocol(SUBPROTOCOL)
    return ours if ours in offered else None


def _authorization(headers: Headers) -> str:
    try:
        return headers.get("Authorization", "")
    except MultipleValuesError:
        return ""
