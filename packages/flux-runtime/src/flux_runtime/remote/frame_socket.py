"""One WebSocket connection, on the calling thread, in which everything has a deadline.

The bytes are those of `websockets`' protocol without I/O; the socket is ours, so that neither a
peer that stops reading nor one that sends a byte a second can keep the caller waiting, and what the
peer sends cannot fill the memory.
"""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..wire.libraries import load
from .access import Access
from .address import SocketAddress
from .errors import ServerError

POLL_S = 0.05
"""How often a wait looks whether anybody still wants its result."""
_READ_BYTES = 1 << 16
_WRITE_BYTES = 1 << 16
_MOST_MESSAGES = 64
"""Messages that may wait to be taken; a server sends one per request."""

_SILENT = logging.getLogger("flux.runtime.websockets")
"""At level DEBUG, `websockets` would log the token and what is sent."""
_SILENT.setLevel(logging.CRITICAL + 1)
_SILENT.propagate = False

Cancelled = Callable[[], bool]


def never() -> bool:
    """Nobody cancels."""
    return False


class FrameSocket:
    """A connection that is open; frames of bytes in both directions.

    Attributes:
        url: of the server, for messages.
    """

    def __init__(self, access: Access, subprotocol: str, max_bytes: int, deadline_s: float) -> None:
        """Connects.

        Args:
            access: how the server is reached.
            subprotocol: that it must speak.
            max_bytes: of one message that it may send.
            deadline_s: on the monotonic clock.

        Raises:
            ServerError: there is no such connection by then.
        """
        self.url = access.address.url
        self._messages: deque[bytes] = deque()
        self._partial: list[bytes] = []
        self._is_over = False
        self._socket = _connected(access, deadline_s)
        try:
            self._protocol = self._handshake(access, subprotocol, max_bytes, deadline_s)
        except BaseException:
            self.drop()
            raise

    def send(self, data: bytes, deadline_s: float, cancelled: Cancelled = never) -> None:
        """Sends one message.

        Raises:
            ServerError: the connection has ended, or the peer does not read; the connection is
                dropped.
        """
        if self._is_over:
            raise self._ended()
        self._protocol.send_binary(data)
        self._flush(deadline_s, cancelled)

    def receive(self, deadline_s: float, cancelled: Cancelled = never) -> bytes | None:
        """Returns the next message; None if none has come by the deadline, or nobody wants it.

        Raises:
            ServerError: the connection has ended.
        """
        while not self._messages:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 and not self._has_data():
                return None
            if cancelled():
                return None
            self._read(min(max(left_s, 0.0), POLL_S))
        return self._messages.popleft()

    def interrupt(self) -> None:
        """Ends what another thread waits for here."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def drop(self) -> None:
        """Ends the connection at once."""
        self._is_over = True
        self.interrupt()
        self._socket.close()

    def close(self) -> None:
        """Ends the connection after telling the server, if that takes no time."""
        with suppress(ServerError):
            if not self._is_over:
                self._protocol.send_close(1000)
                self._flush(time.monotonic() + POLL_S)
        self.drop()

    def _handshake(
        self, access: Access, subprotocol: str, max_bytes: int, deadline_s: float
    ) -> Any:
        client = load("websockets.client", "--remote")
        uri = load("websockets.uri", "--remote").parse_uri(self.url)
        protocol = client.ClientProtocol(
            uri, subprotocols=[subprotocol], max_size=max_bytes, logger=_SILENT
        )
        self._protocol = protocol
        request = protocol.connect()
        if access.token is not None:
            request.headers["Authorization"] = f"Bearer {access.token}"
        protocol.send_request(request)
        self._flush(deadline_s)
        response: Any = None
        while response is None and protocol.handshake_exc is None:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise ServerError(f"{self.url}: expected an answer to the connection, got none")
            response = self._read(min(left_s, POLL_S))
        if protocol.handshake_exc is not None:
            raise _refused(self.url, response, protocol.handshake_exc)
        if protocol.subprotocol != subprotocol:
            raise ServerError(
                f"{self.url}: expected a server of flux-runtime (protocol {subprotocol}), got "
                f"another one. Start it with 'flux-runtime serve'",
                "refused",
            )
        return protocol

    def _has_data(self) -> bool:
        """Whether bytes have arrived that nobody has read, as after a long pause."""
        before = len(self._messages)
        self._read(0.0)
        return len(self._messages) > before

    def _read(self, timeout_s: float) -> Any:
        """Takes what has arrived, waiting for it at most so long; returns the server's answer to
        the handshake, if that has come."""
        if self._is_over:
            raise self._ended()
        data = self._receive_bytes(timeout_s)
        if data is None:
            return None
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        response: Any = None
        for event in self._protocol.events_received():
            if hasattr(event, "status_code"):
                response = event
            else:
                self._take(event)
        with suppress(ServerError):  # an answer to a ping or to a close, which may go nowhere
            self._flush(time.monotonic() + POLL_S)
        self._is_over = not data or self._protocol.state.name not in ("OPEN", "CONNECTING")
        if self._is_over and response is None and not self._messages:
            raise self._ended()
        return response

    def _receive_bytes(self, timeout_s: float) -> bytes | None:
        try:
            self._socket.settimeout(max(timeout_s, 1e-4))  # 0 would not wait for TLS either
            return self._socket.recv(_READ_BYTES)
        except (TimeoutError, ssl.SSLWantReadError):
            return None
        except (OSError, ValueError) as error:
            raise self._lost(error) from error

    def _take(self, frame: Any) -> None:
        """Keeps a frame of data; `websockets` bounds a message's frames together."""
        if frame.opcode.name == "TEXT":
            text = " ".join(ascii(bytes(frame.data[:200]).decode("utf-8", "replace"))[1:-1].split())
            raise self._hostile(f"expected a message of bytes, got a text ({text})")
        if frame.opcode.name not in ("BINARY", "CONT"):
            return
        self._partial.append(bytes(frame.data))
        if not frame.fin:
            return
        if len(self._messages) >= _MOST_MESSAGES:
            raise self._hostile("expected one message per request, got many more")
        self._messages.append(b"".join(self._partial))
        self._partial.clear()

    def _hostile(self, what: str) -> ServerError:
        self.drop()
        return ServerError(f"{self.url}: {what}", "hostile")

    def _flush(self, deadline_s: float, cancelled: Cancelled = never) -> None:
        """Sends what the protocol has to send."""
        for data in self._protocol.data_to_send():
            view = memoryview(data)
            if not len(view):  # the end of what this side sends
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_WR)
            while len(view):
                view = view[self._send_some(view[:_WRITE_BYTES], deadline_s, cancelled) :]

    def _send_some(self, data: memoryview, deadline_s: float, cancelled: Cancelled) -> int:
        while True:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or cancelled():
                self.drop()  # what was sent of the message cannot be taken back
                raise ServerError(f"{self.url}: the server does not read what it is sent")
            try:
                self._socket.settimeout(min(left_s, POLL_S))
                return self._socket.send(data)
            except (TimeoutError, ssl.SSLWantWriteError):
                continue
            except (OSError, ValueError) as error:
                raise self._lost(error) from error

    def _lost(self, error: Exception) -> ServerError:
        self.drop()
        return ServerError(f"{self.url}: the connection was lost ({_reason(error)})")

    def _ended(self) -> ServerError:
        self.drop()
        fault, closed = self._protocol.parser_exc, self._protocol.close_rcvd
        if fault is not None and not isinstance(fault, EOFError):
            text = ascii(str(fault))[1:-1][:200]
            return ServerError(
                f"{self.url}: the server sent what is no message ({text})", "hostile"
            )
        if closed is None:
            return ServerError(f"{self.url}: the connection was lost (the server has gone)")
        reason = f": {ascii(closed.reason)[1:-1][:200]}" if closed.reason else ""
        return ServerError(
            f"{self.url}: the server closed the connection (code {closed.code}{reason})"
        )


def _connected(access: Access, deadline_s: float) -> socket.socket:
    """Returns a socket to the first place that answers."""
    error = ServerError(f"{access.address.url}: the host has no address")
    for place in access.places:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            break
        try:
            return _connected_to(access, place, left_s)
        except (OSError, ValueError) as cause:
            error = _unreachable(access, cause)
    raise error


def _connected_to(access: Access, place: SocketAddress, timeout_s: float) -> socket.socket:
    family, address = place
    plain = socket.socket(family, socket.SOCK_STREAM)
    try:
        plain.settimeout(timeout_s)
        plain.connect(address)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if access.context is None:
            return plain
        encrypted = access.context.wrap_socket(plain, server_hostname=access.address.host)
    except BaseException:
        plain.close()
        raise
    try:
        access.check_certificate(encrypted.getpeercert(binary_form=True))
    except BaseException:
        encrypted.close()
        raise
    return encrypted


def _unreachable(access: Access, cause: Exception) -> ServerError:
    url = access.address.url
    if isinstance(cause, ssl.SSLCertVerificationError):
        return ServerError(
            f"{url}: the server's certificate is refused ({cause.verify_message}). Name the "
            f"certificate of a lab with --ca-file F, or its fingerprint with --pin SHA256",
            "refused",
        )
    if isinstance(cause, ssl.SSLError):
        return ServerError(f"{url}: no encrypted connection ({_reason(cause)}). Is it ws://?")
    return ServerError(f"{url}: cannot be reached ({_reason(cause)})")


def _refused(url: str, response: Any, error: Exception) -> ServerError:
    status = getattr(response, "status_code", None)
    if status is None:
        return ServerError(f"{url}: expected a policy server, got something else. Is it wss://?")
    body = " ".join(ascii((response.body or b"")[:200].decode("utf-8", "replace"))[1:-1].split())
    if status == 401:
        return ServerError(
            f"{url}: the server refused the token, or there is none. Give it with --token-file F",
            "refused",
        )
    if status == 101:
        return ServerError(f"{url}: the handshake failed ({ascii(str(error))[1:-1][:200]})")
    text = f": {body}" if body else ""
    return ServerError(f"{url}: the server refused the connection ({status}{text})", "busy")


def _reason(error: Exception) -> str:
    """Returns a few words, without a path or an address."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "TLS failed").replace("_", " ").lower()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
