"""A network as bad as it is asked to be, between a robot and a policy server: a TCP proxy.

Every byte is delayed, half of the time in each direction. Some messages stall, and what comes
after them in their direction waits for them, as behind a lost packet. A link can be taken down, so
that nothing comes through and nobody is told, or cut, so that connections end. Plain sockets and
threads; it knows nothing of flux. Messages are found by the headers of WebSocket's frames
(RFC 6455).
"""

from __future__ import annotations

import contextlib
import queue
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

CHUNK_BYTES = 1 << 16
ROOM_BYTES = 64 << 20
"""What one direction may hold, so that a delay costs no throughput."""
_DATA, _TEXT, _MORE = 2, 1, 0

Direction = Literal["requests", "answers"]
Waiting = queue.Queue[tuple[float, bytes, int] | None]
"""When what is due, and how many messages begin in it; None at the end."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """What a proxy does to what passes.

    Attributes:
        delay_s: of a request and its answer together.
        stalled: the share of the messages that stall.
        stall_s: how long these wait.
        seed: decides which ones do, by the number of the connection and of the message.
    """

    delay_s: float = 0.0
    stalled: float = 0.0
    stall_s: float = 0.2
    seed: int = 0


@dataclass
class Passed:
    """What has come through so far."""

    connections: int = 0
    messages: dict[Direction, int] = field(default_factory=lambda: {"requests": 0, "answers": 0})
    stalls: int = 0
    bytes: int = 0


class Proxy:
    """Accepts connections at `address` and passes them on to a port of `host`."""

    def __init__(self, host: str, port: int, network: Network, listen: str = "127.0.0.1") -> None:
        self.network = network
        self.passed = Passed()
        self._target = (host, port)
        self._lock = threading.Condition()
        self._is_up, self._is_open = True, True
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server((listen, 0))
        self.address = f"{listen}:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def take_down(self) -> None:
        """From now on nothing comes through, and nobody is told."""
        with self._lock:
            self._is_up = False

    def bring_up(self) -> None:
        """What was waiting comes through, and what follows."""
        with self._lock:
            self._is_up = True
            self._lock.notify_all()

    def cut(self) -> None:
        """Ends all connections at once; new ones are accepted."""
        with self._lock:
            ended, self._sockets = self._sockets, []
        for one in ended:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        """Ends everything."""
        self._is_open = False
        self._listener.close()
        self.bring_up()
        self.cut()

    def wait_for(self, direction: Direction, count: int, limit_s: float) -> None:
        """Waits until so many messages have come through in all.

        Raises:
            TimeoutError: there were fewer after `limit_s`.
        """
        with self._lock:
            if not self._lock.wait_for(lambda: self.passed.messages[direction] >= count, limit_s):
                found = self.passed.messages[direction]
                raise TimeoutError(f"expected {count} {direction} within {limit_s} s, got {found}")

    def _accept(self) -> None:
        while self._is_open:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target, timeout=30)
            except OSError:
                near.close()  # nobody is there
                continue
            far.settimeout(None)
            with self._lock:
                number = self.passed.connections
                self.passed.connections += 1
                self._sockets += [near, far]
            self._join(near, far, number, "requests")
            self._join(far, near, number, "answers")

    def _join(
        self, source: socket.socket, sink: socket.socket, number: int, way: Direction
    ) -> None:
        source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        chance = random.Random(f"{self.network.seed}, {number}, {way}")
        waiting: Waiting = queue.Queue(ROOM_BYTES // CHUNK_BYTES)
        threads = (
            threading.Thread(target=self._read, args=(source, waiting, chance), daemon=True),
            threading.Thread(target=self._write, args=(sink, waiting, way), daemon=True),
        )
        for thread in threads:
            thread.start()

    def _read(self, source: socket.socket, waiting: Waiting, chance: random.Random) -> None:
        frames, due = FrameCounter(), 0.0
        try:
            while data := source.recv(CHUNK_BYTES):
                begun = frames.take(data)
                stalls = sum(chance.random() < self.network.stalled for _ in range(begun))
                self.passed.stalls += stalls
                # Nothing overtakes.
                wait_s = self.network.delay_s / 2 + stalls * self.network.stall_s
                due = max(due, time.monotonic() + wait_s)
                waiting.put((due, data, begun))
        except OSError:
            pass
        finally:
            waiting.put(None)

    def _write(self, sink: socket.socket, waiting: Waiting, way: Direction) -> None:
        with contextlib.suppress(OSError):
            while (entry := waiting.get()) is not None:
                due, data, begun = entry
                time.sleep(max(0.0, due - time.monotonic()))
                with self._lock:
                    self._lock.wait_for(lambda: self._is_up or not self._is_open)
                sink.sendall(data)
                with self._lock:
                    self.passed.messages[way] += begun
                    self.passed.bytes += len(data)
                    self._lock.notify_all()
            sink.shutdown(socket.SHUT_WR)


class FrameCounter:
    """Counts the messages that begin in one direction of a WebSocket connection.

    Control frames are none, and neither are the rest of a message in several frames, or the HTTP
    before the first one.
    """

    def __init__(self) -> None:
        self._head = b""
        self._is_http = True
        self._left = 0

    def take(self, data: bytes) -> int:
        """Returns how many messages begin in the next bytes of the stream."""
        if self._is_http:
            self._head += data
            _, blank, data = self._head.partition(b"\r\n\r\n")
            if not blank:
                return 0
            self._head, self._is_http = b"", False
        begun = 0
        while data:
            if self._left:
                skipped = min(self._left, len(data))
                self._left -= skipped
                data = data[skipped:]
                continue
            self._head += data[:1]
            data = data[1:]
            if (size := _frame_bytes(self._head)) is not None:
                begun += self._head[0] & 0x0F in (_DATA, _TEXT)
                self._head, self._left = b"", size
        return begun


def _frame_bytes(head: bytes) -> int | None:
    """Returns how many bytes follow a frame's header, or None while it is incomplete."""
    if len(head) < 2:
        return None
    length, mask = head[1] & 0x7F, 4 if head[1] & 0x80 else 0
    extra = {126: 2, 127: 8}.get(length, 0)
    if len(head) < 2 + extra:
        return None
    return mask + (int.from_bytes(head[2 : 2 + extra], "big") if extra else length)


@contextmanager
def proxied(url_address: str, network: Network | None = None) -> Iterator[Proxy]:
    """Yields a proxy before the server at HOST:PORT."""
    host, _, port = url_address.rpartition(":")
    proxy = Proxy(host, int(port), network or Network())
    try:
        yield proxy
    finally:
        proxy.close()
