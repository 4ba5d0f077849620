"""What is said on one connection: openpi's protocol, or our own."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from websockets.exceptions import ConnectionClosed

from flux_core.errors import FluxError
from flux_core.types import Observation

from ..wire.bounds import Bounds, WireError
from ..wire.facts import PolicyFacts
from ..wire.libraries import load
from ..wire.messages import (
    Answer,
    Hello,
    Infer,
    Limits,
    Ping,
    Pong,
    Refusal,
    RefusalKind,
    client_message,
)
from ..wire.openpi import KeyMap, observation_of
from ..wire.packing import pack, unpack
from .connection import GuardedConnection
from .metrics import Metrics
from .policy import ServedPolicy, StageClock
from .scheduler import Job

ProtocolName = Literal["openpi", "flux"]
MOST_REPLIES = 32
"""Replies that one client may have outstanding; it is not read meanwhile."""
OPENPI_DEADLINE_S = 1.0
"""After which a request without a deadline of its own would like to be answered."""
HEAD_BYTES = 4096
SHORT_BYTES = 1024
TEXTS: Mapping[str, str] = {
    "replaced": "a newer request of the same client replaces it",
    "busy": "too many requests are waiting. Ask again later",
    "late": "its deadline passed before it was inferred",
    "draining": "the server is shutting down",
}


@dataclass(frozen=True, kw_only=True)
class ClientReply:
    """The answer to one request, or its refusal.

    Attributes:
        data: bytes for a binary frame, a text for a text frame.
        is_notice: whether it is no reply to a message.
        refused: the kind of refusal; None for a chunk.
        detail: of a refusal, for the metrics.
        reason: of a refusal, for the log.
        times_s: stage -> its time, of a chunk.
    """

    data: bytes | str
    is_notice: bool = False
    refused: str | None = None
    detail: str = ""
    reason: str = ""
    times_s: Mapping[str, float] | None = None


class PendingRequest(Protocol):
    """A job's payload."""

    size: int

    def infer(self) -> ClientReply:
        """Infers it, on the worker's thread; raises nothing."""
        ...

    def refuse(self, kind: RefusalKind, text: str, detail: str = "") -> ClientReply:
        """Returns what to tell the client instead of a chunk."""
        ...

    def settle(self, reply: ClientReply) -> None:
        """Tells the client, on the event loop."""
        ...


@dataclass(frozen=True, kw_only=True)
class House:
    """What all conversations of a server share.

    Attributes:
        policy: that is served.
        greeting: the first message of openpi's protocol.
        hello: the data of the first message of ours, but for session and time.
        metrics: that they count in.
        bounds: of a message.
        max_rate: see `options.ServeLimits`.
        max_pixels: of the pictures of a request together.
        keys: of openpi's observations.
        seed: of the noise of requests that bring none.
        send_timeout_s: how long a client may take to accept an answer.
        submit: hands a request to the scheduler.
        forget: called when a conversation has ended.
        on_bug: called with an exception that should not exist.
    """

    policy: ServedPolicy
    greeting: bytes
    hello: Mapping[str, Any]
    metrics: Metrics
    bounds: Bounds
    max_rate: float
    max_pixels: int
    keys: KeyMap
    seed: int
    send_timeout_s: float
    submit: Callable[[Job], None]
    forget: Callable[[Conversation], None]
    on_bug: Callable[[BaseException], None]


class Conversation:
    """One client, from the first message to the last; a robot, for the scheduler."""

    protocol: ProtocolName

    def __init__(self, connection: GuardedConnection, house: House) -> None:
        self._connection, self._house = connection, house
        self._replies: asyncio.Queue[asyncio.Future[ClientReply]] = asyncio.Queue()
        self._room = asyncio.Semaphore(MOST_REPLIES)
        self._loop = asyncio.get_running_loop()
        self.number = 0
        self.outstanding = 0
        connection.on_pause = self._on_pause

    @property
    def name(self) -> str:
        """The client's address, for the log."""
        return self._connection.name

    async def run(self) -> None:
        """Talks until the connection is closed."""
        sender = self._loop.create_task(self._send_replies())
        try:
            await self._connection.send(self._greeting())
            while True:
                await self._room.acquire()
                message = await self._connection.recv()
                self._connection.requested_s = self._loop.time()
                self.outstanding += 1
                self._take(message)
        except ConnectionClosed:
            return
        finally:
            self._house.forget(self)
            sender.cancel()

    def _take(self, message: bytes | str) -> None:
        """Answers a message, or hands it to the scheduler."""
        size = len(message.encode() if isinstance(message, str) else message)
        try:
            if isinstance(message, str):
                raise WireError("message: expected a binary frame, got a text", "malformed")
            self._on_message(message)
        except WireError as error:
            self._refuse_unread(size, error)

    def _greeting(self) -> bytes:
        raise NotImplementedError

    def _on_message(self, message: bytes) -> None:
        raise NotImplementedError

    def _refusal(self, sequence: int | None, kind: RefusalKind, text: str) -> bytes | str:
        raise NotImplementedError

    def _refuse_unread(self, size: int, error: WireError) -> None:
        data = self._refusal(None, _refusal_kind(error), str(error))
        self.queue(size)(ClientReply(data=data, refused="bad_request", detail=error.kind))

    def _on_pause(self, seconds: float) -> None:
        """Counts that the client sends too much."""
        self._house.metrics.refusal("rate")

    def queue(self, size: int) -> Callable[[ClientReply], None]:
        """Keeps the place of a reply; returns what to call with the reply.

        Args:
            size: bytes of the message.
        """
        future: asyncio.Future[ClientReply] = self._loop.create_future()
        self._replies.put_nowait(future)
        return lambda reply: self._settle(future, size, reply)

    def _settle(self, future: asyncio.Future[ClientReply], size: int, reply: ClientReply) -> None:
        self._connection.release_bytes(size, is_answered=reply.times_s is not None)
        if reply.refused is not None:
            self._house.metrics.refusal(reply.detail or reply.refused)
        elif reply.times_s is not None:
            self._house.metrics.answer(self.protocol, reply.times_s)
        if not future.done():
            future.set_result(reply)

    async def _send_replies(self) -> None:
        """Sends the replies, each in its turn."""
        try:
            while True:
                reply = await (await self._replies.get())
                began_s = self._loop.time()
                async with asyncio.timeout(self._house.send_timeout_s):
                    await self._connection.send(reply.data)
                if reply.times_s is not None:
                    self._house.metrics.sent(self._loop.time() - began_s)
                if not reply.is_notice:
                    self.outstanding -= 1
                    self._room.release()
        except TimeoutError:
            self._connection.cut("slow_reader", 1008, "an answer was not read in time")
        except ConnectionClosed:
            return
        except Exception as error:  # noqa: BLE001 - the client must not wait for ever
            self._house.on_bug(error)
            self._connection.cut("internal_error", 1011, "the server failed")


def hello_data(facts: PolicyFacts, limits: Limits) -> dict[str, Any]:
    """Returns what is the same in each first message of our protocol."""
    return Hello(session="", facts=facts, limits=limits, server_ns=0).as_data()


def _refusal_kind(error: WireError) -> RefusalKind:
    return "oversized" if error.kind == "oversized" else "bad_request"


class _InferringRequest:
    """What the requests of both protocols have in common."""

    def __init__(self, conversation: Conversation, house: House, message: bytes) -> None:
        self.size = len(message)
        self._message: bytes | None = message
        self._conversation, self._house = conversation, house
        self._arrived_s = time.monotonic()
        self._settle = conversation.queue(self.size)

    def settle(self, reply: ClientReply) -> None:
        self._message = None
        self._settle(reply)

    def refuse(self, kind: RefusalKind, text: str, detail: str = "") -> ClientReply:
        raise NotImplementedError

    def _answer(self, message: bytes, clock: StageClock) -> ClientReply:
        raise NotImplementedError

    def infer(self) -> ClientReply:
        message, clock = self._message, StageClock()
        if message is None:
            return self.refuse("failed", "the request is gone")
        clock.times_s["queue"] = time.monotonic() - self._arrived_s
        try:
            return self._answer(message, clock)
        except WireError as error:
            return self.refuse(_refusal_kind(error), str(error), error.kind)
        except FluxError as error:
            return self.refuse("bad_request", str(error))
        except (RuntimeError, ValueError) as error:
            self._house.on_bug(error)
            return self.refuse("failed", f"inference: {error}")
        except Exception as error:  # noqa: BLE001 - no request may end the thread
            self._house.on_bug(error)
            return self.refuse("failed", "the server failed; its log says why")

    def _total(self, clock: StageClock) -> dict[str, float]:
        return {**clock.times_s, "total": time.monotonic() - self._arrived_s}


class OpenPIConversation(Conversation):
    """openpi's protocol: observations in, chunks out, in the same order; a text is an error."""

    protocol = "openpi"

    def _greeting(self) -> bytes:
        return self._house.greeting

    def _on_message(self, message: bytes) -> None:
        self._house.metrics.request(self.protocol)
        request = _OpenPIRequest(self, self._house, message, self.number)
        self.number += 1
        self._house.submit(
            Job(
                client=self,
                owner=self._connection.owner,
                deadline_s=time.monotonic() + OPENPI_DEADLINE_S,
                payload=request,
            )
        )

    def _refusal(self, sequence: int | None, kind: RefusalKind, text: str) -> str:
        return error_line(kind, text)


def error_line(kind: str, text: str) -> str:
    """Returns an error for a client of openpi: one line of text."""
    return " ".join(f"{kind}: {text}".split())[:1000]


class _OpenPIRequest(_InferringRequest):
    def __init__(
        self, conversation: Conversation, house: House, message: bytes, number: int
    ) -> None:
        super().__init__(conversation, house, message)
        self._number = number

    def refuse(self, kind: RefusalKind, text: str, detail: str = "") -> ClientReply:
        return ClientReply(data=error_line(kind, text), refused=kind, detail=detail, reason=text)

    def _answer(self, message: bytes, clock: StageClock) -> ClientReply:
        house = self._house
        policy = house.policy
        data = unpack(message, house.bounds)
        observation, noise = observation_of(
            data, house.keys, policy.facts, max_pixels=house.max_pixels
        )
        clock.end("decode")
        inputs = policy.encode(observation)
        clock.end("encode")
        if noise is None:
            noise = policy.noise(house.seed, self._number)
        actions = policy.infer(inputs, observation.state, noise)
        clock.end("infer")
        times_s = self._total(clock)
        timing = {f"{stage}_ms": time_s * 1e3 for stage, time_s in times_s.items()}
        return ClientReply(
            data=pack({"actions": actions, "server_timing": timing}), times_s=times_s
        )


class FluxConversation(Conversation):
    """Our own protocol: deadlines, numbered requests, and chunks that continue each other."""

    protocol = "flux"

    def __init__(self, connection: GuardedConnection, house: House) -> None:
        super().__init__(connection, house)
        self._session = secrets.token_hex(16)
        self._newest = -1

    def _greeting(self) -> bytes:
        own = {"session": self._session, "server_ns": time.monotonic_ns()}
        return pack({**self._house.hello, **own})

    def _on_message(self, message: bytes) -> None:
        received_ns = time.monotonic_ns()
        if len(message) <= SHORT_BYTES:
            data = unpack(message, self._house.bounds)
            if data.get("type") == "ping":
                self._pong(data, received_ns, len(message))
                return
        head = read_head(message)
        self._house.metrics.request(self.protocol)
        if head.session != self._session or head.sequence <= self._newest:
            text = (
                f"expected the session of this connection and a sequence number above "
                f"{self._newest}, got an old request"
            )
            reply = self._refusal(head.sequence, "replayed", text)
            self.queue(len(message))(ClientReply(data=reply, refused="replayed"))
            return
        self._newest = head.sequence
        self.number += 1
        request = _FluxRequest(self, self._house, message, head, received_ns)
        deadline_s = time.monotonic() + head.budget_ms / 1e3
        request.deadline_s = deadline_s
        self._house.submit(
            Job(
                client=self,
                owner=self._connection.owner,
                deadline_s=deadline_s,
                expires=True,
                payload=request,
            )
        )

    def _pong(self, data: Mapping[str, Any], received_ns: int, size: int) -> None:
        ping = Ping.from_data(data)
        pong = Pong(client_ns=ping.client_ns, server_ns=received_ns)
        self.queue(size)(ClientReply(data=pack(pong.as_data())))

    def queue(self, size: int) -> Callable[[ClientReply], None]:
        """Keeps no place: a reply says which request it is for."""

        def settle(reply: ClientReply) -> None:
            future: asyncio.Future[ClientReply] = self._loop.create_future()
            self._replies.put_nowait(future)
            self._settle(future, size, reply)

        return settle

    def _on_pause(self, seconds: float) -> None:
        super()._on_pause(seconds)
        text = (
            f"expected at most {self._house.max_rate:g} requests per second without "
            f"an answer, got more. This connection is not read for {seconds:.0f} s"
        )
        future: asyncio.Future[ClientReply] = self._loop.create_future()
        future.set_result(ClientReply(data=self._refusal(None, "rate", text), is_notice=True))
        self._replies.put_nowait(future)

    def _refusal(self, sequence: int | None, kind: RefusalKind, text: str) -> bytes:
        return pack(Refusal(sequence=sequence, kind=kind, text=text).as_data())


@dataclass(frozen=True, kw_only=True)
class Head:
    """The part of an Infer that is read before it is its turn."""

    session: str
    sequence: int
    budget_ms: float


def read_head(message: bytes) -> Head:
    """Reads the first values of an Infer, without its pictures.

    Raises:
        WireError: it does not begin as `Infer.as_data` does.
    """
    msgpack = load("msgpack", "remote inference")
    unpacker = msgpack.Unpacker(raw=False, max_buffer_size=HEAD_BYTES)
    unpacker.feed(memoryview(message)[:HEAD_BYTES])
    found: dict[str, Any] = {}
    try:
        for _ in range(min(unpacker.read_map_header(), 8)):
            key = unpacker.unpack()
            if key in ("type", "session", "sequence", "budget_ms"):
                found[key] = unpacker.unpack()
            elif key in ("sent_ns", "captured_ns"):
                unpacker.skip()
            else:
                break
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise WireError("infer: not valid msgpack", "malformed") from error
    session, sequence, budget_ms = (found.get(k) for k in ("session", "sequence", "budget_ms"))
    if (
        found.get("type") != "infer"
        or not isinstance(session, str)
        or type(sequence) is not int
        or not isinstance(budget_ms, int | float)
        or not 0 <= budget_ms < float("inf")
    ):
        raise WireError(
            "infer: expected type, session, sequence and budget_ms before all pictures", "malformed"
        )
    return Head(session=session, sequence=sequence, budget_ms=float(budget_ms))


class _FluxRequest(_InferringRequest):
    deadline_s = 0.0

    def __init__(
        self,
        conversation: FluxConversation,
        house: House,
        message: bytes,
        head: Head,
        received_ns: int,
    ) -> None:
        super().__init__(conversation, house, message)
        self._sequence, self._received_ns = head.sequence, received_ns

    def refuse(self, kind: RefusalKind, text: str, detail: str = "") -> ClientReply:
        refusal = Refusal(sequence=self._sequence, kind=kind, text=text)
        return ClientReply(data=pack(refusal.as_data()), refused=kind, detail=detail, reason=text)

    def _answer(self, message: bytes, clock: StageClock) -> ClientReply:
        house = self._house
        policy = house.policy
        asked = client_message(unpack(message, house.bounds), policy.facts)
        if not isinstance(asked, Infer):
            raise WireError("message: expected type infer, got another one", "malformed")
        observation = Observation(
            images=asked.pictures(house.max_pixels),
            state=asked.state,
            prompt=asked.prompt,
            timestamp_s=0.0,
        )
        clock.end("decode")
        inputs = policy.encode(observation)
        clock.end("encode")
        noise = asked.noise
        if noise is None:
            assert asked.seed is not None and asked.index is not None
            noise = policy.noise(asked.seed, asked.index)
        actions = policy.infer(inputs, asked.state, noise, asked.continued)
        clock.end("infer")
        if time.monotonic() > self.deadline_s:
            return self.refuse("late", "its deadline passed while it was inferred")
        times_s = self._total(clock)
        answer = Answer(
            sequence=asked.sequence,
            actions=actions,
            captured_ns=asked.captured_ns,
            received_ns=self._received_ns,
            sent_ns=time.monotonic_ns(),
            times_ms={stage: time_s * 1e3 for stage, time_s in times_s.items()},
        )
        return ClientReply(data=pack(answer.as_data()), times_s=times_s)
