"""One client's WebSocket, watched before anything of it is parsed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.server import Server, ServerConnection
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import CloseCode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from .admission import ByteBudget, RequestRate, client_address
from .frames import FrameGate

READ_BYTES = 128 * 2**10
"""How much is read of one connection before the others have their turn."""
MAX_HEAD_BYTES = 16 * 2**10
"""Of the HTTP request that opens a connection."""
MAX_FRAGMENTS = 4096
"""Of one message; each takes memory of its own until the message is complete."""
BYTES_PER_COST = 2**20
"""So many bytes without an answer count as much as a request."""
CLOSING_S = 1.0
"""How long a client that is cut off may take to close the connection itself."""
NOTABLE_PAUSE_S = 0.1
_TLS_HANDSHAKE = 0x16


@dataclass(frozen=True, kw_only=True)
class Guards:
    """What all connections of a server share.

    Attributes:
        budget: of bytes.
        new_rate: makes the rate of one connection.
        on_refused: called with the kind and the address when a connection is refused unopened.
        on_cut: called with the kind and the address when the server ends an open connection.
        connections: those that exist, open or not.
        buffer: where all of them read into, one after the other.
    """

    budget: ByteBudget
    new_rate: Callable[[], RequestRate]
    on_refused: Callable[[str, str], None]
    on_cut: Callable[[str, str], None]
    connections: set[GuardedConnection] = field(default_factory=set["GuardedConnection"])
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(READ_BYTES)))


class GuardedConnection(ServerConnection, asyncio.BufferedProtocol):
    """A connection that is not read while it may not send.

    Attributes:
        owner: the client, for limits of all its connections together: its address, and after the
            handshake the number of its token.
        held: its bytes in the budget.
        peer: its address and port.
        name: its address and port, for the log.
        on_pause: called with the seconds when it has sent too many requests.
        requested_s: when its last message was complete, on the loop's clock.
        ended: why the server has refused or cut it, if it has.
    """

    def __init__(
        self, protocol: ServerProtocol, server: Server, *, guards: Guards, **settings: Any
    ) -> None:
        super().__init__(protocol, server, **settings)
        self._guards = guards
        self._rate = guards.new_rate()
        self._gate = FrameGate(self._rate.wait_s, self._rate.charge)
        self._holds: dict[str, float] = {}
        self._waiting = b""
        self._accounted = 0
        self._head: bytearray | None = bytearray()
        self.owner: tuple[str, int | None] = ("", None)
        self.held = 0
        self.peer = ("", 0)
        self.name = ""
        self.on_pause: Callable[[float], None] = lambda seconds: None
        self.requested_s = self.loop.time()
        self.ended: str | None = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Starts watching."""
        super().connection_made(transport)
        self.recv_messages.pause = lambda: self._hold("queue")
        self.recv_messages.resume = lambda: self._release("queue")
        peer = transport.get_extra_info("peername") or ("0.0.0.0", 0)
        self.peer = (str(peer[0]), int(peer[1]))
        host = f"[{self.peer[0]}]" if ":" in self.peer[0] else self.peer[0]
        self.owner, self.name = (client_address(self.peer[0]), None), f"{host}:{self.peer[1]}"
        self._guards.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Gives back what it held, and says why it ended if nobody has yet."""
        self._guards.connections.discard(self)
        self._guards.budget.give(self, self.held)
        self._waiting = b""
        if self.ended is None:
            fault, sent = self.protocol.parser_exc, self.protocol.close_sent
            # A text that is no UTF-8 is found when it is read, after the parser.
            is_invalid = sent is not None and sent.code == CloseCode.INVALID_DATA
            if self.response is None:
                self._guards.on_refused("incomplete", self.name)
            elif isinstance(fault, PayloadTooBig):
                self._guards.on_cut("oversized", self.name)
            elif isinstance(fault, ProtocolError) or (
                is_invalid and not self.protocol.close_rcvd_then_sent
            ):
                self._guards.on_cut("malformed", self.name)
        super().connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Returns where to read to."""
        return self._guards.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Takes what was read."""
        data = self._guards.buffer[:nbytes]
        if self._head is not None:
            data = self._opening(data)
        if self._holds:
            self._waiting += bytes(data)
        elif data:
            self._admit(data)

    def pause_writing(self) -> None:
        """Stops reading a client that does not read."""
        super().pause_writing()
        self._hold("write")

    def resume_writing(self) -> None:
        """Goes on."""
        super().resume_writing()
        self._release("write")

    # The HTTP request.

    def _opening(self, data: memoryview) -> memoryview:
        """Passes on the HTTP request that opens the connection; returns the bytes after it."""
        assert self._head is not None
        if self.ended is not None:
            return data[:0]
        before = len(self._head)
        self._head += data
        start = bytes(self._head[:4])
        if start[0] == _TLS_HANDSHAKE:
            self.refuse("tls_on_plain", "this port has no TLS: connect with ws://")
            return data[:0]
        if not b"GET ".startswith(start):
            self.refuse("not_http", "expected the GET request of a WebSocket")
            return data[:0]
        end = self._head.find(b"\r\n\r\n", max(0, before - 3))
        if end < 0 and len(self._head) <= MAX_HEAD_BYTES:
            super().data_received(bytes(data))
            return data[:0]
        if end < 0 or end > MAX_HEAD_BYTES:
            self.refuse("oversized", f"expected a request of at most {MAX_HEAD_BYTES} bytes")
            return data[:0]
        size = end + 4 - before
        self._head = None
        super().data_received(bytes(data[:size]))
        if size < len(data):  # a client has to wait for the response
            self.refuse("early", "expected no data before the response")
            return data[:0]
        return data[size:]

    def refuse(self, kind: str, text: str) -> None:
        """Ends a connection that is not open, with one line."""
        if self.ended is None:
            self.ended = kind
            self._guards.on_refused(kind, self.name)
            body = f"{text}\n".encode()
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            self.transport.close()

    # Frames.

    def _admit(self, data: memoryview) -> None:
        """Passes on what may be parsed now, and keeps the rest for later."""
        if self.protocol.state is not OPEN:
            if self.response is None:
                self.refuse("early", "expected no data before the response")
            else:  # it is closing
                super().data_received(bytes(data))
            return
        size, wait_s = self._gate.admit(data, self.loop.time())
        if self.ended is None and self._gate.payload > self._accounted:
            num_bytes, self._accounted = (
                self._gate.payload - self._accounted,
                self._gate.payload,
            )
            self._rate.charge(num_bytes / BYTES_PER_COST)
            self._guards.budget.take(self, num_bytes)
        if self._gate.fragments > MAX_FRAGMENTS:
            self.cut("malformed", 1009, f"a message has more than {MAX_FRAGMENTS} fragments")
        if self.ended is not None:
            return
        if size:
            super().data_received(bytes(data[:size]))
        if size < len(data):
            self._waiting = bytes(data[size:])
            if wait_s > 0:
                self._hold("rate")
                self.loop.call_later(wait_s, self._release, "rate")
            else:
                self._hold("turn")
                self.loop.call_soon(self._release, "turn")
            if wait_s > NOTABLE_PAUSE_S:
                self.on_pause(wait_s)

    def _hold(self, reason: str) -> None:
        """Reads nothing until all reasons not to are gone."""
        if not self._holds:
            self.transport.pause_reading()
        self._holds.setdefault(reason, self.loop.time())

    def _release(self, reason: str) -> None:
        since_s = self._holds.pop(reason, None)
        if since_s is None or self._holds or self.transport.is_closing():
            return
        if self._gate.began_s is not None:  # it could not go on meanwhile
            self._gate.began_s += self.loop.time() - since_s
        waiting, self._waiting = self._waiting, b""
        if waiting:
            self._admit(memoryview(waiting))
        if not self._holds:
            self.transport.resume_reading()

    @property
    def is_held(self) -> bool:
        """Whether the server does not read it now."""
        return bool(self._holds)

    def unfinished_s(self) -> float:
        """Returns how long ago the message began that is not complete yet; 0 if there is none."""
        began_s = self._gate.began_s
        return 0.0 if began_s is None or self._holds else self.loop.time() - began_s

    def release_bytes(self, num_bytes: int, *, is_answered: bool) -> None:
        """Says that a message has been dealt with, and whether it was answered with a chunk."""
        self._guards.budget.give(self, num_bytes)
        if is_answered:
            self._rate.give_back(1.0 + num_bytes / BYTES_PER_COST)

    # Its end.

    def shed(self) -> None:
        """Gives up the connection, because there is no room for its messages."""
        self.cut("no_room", 1013, "no room for messages of this size now")

    def cut(self, kind: str, code: int, reason: str) -> None:
        """Ends an open connection without waiting for the client."""
        if self.ended is not None:
            return
        self.ended = kind
        self._guards.on_cut(kind, self.name)
        self._waiting = b""
        if self.protocol.state is OPEN:
            self.protocol.fail(code, reason)
            self.send_data()
        self.loop.call_later(CLOSING_S, self.transport.abort)
