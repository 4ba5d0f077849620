"""What one client may take of the server: connections, requests per second, bytes."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

FIRST_BURST = 10.0
"""Requests that a new connection may send at once."""
LONGEST_PAUSE_S = 8.0
FORGIVEN_AFTER_S = 10.0
"""After so long within its rate, a client's next pause is a short one again."""
OPENINGS_PER_S, OPENINGS_AT_ONCE = 50.0, 200.0
"""Connections that one address may open: on average, and at once. Handshakes take time, too."""
MOST_ADDRESSES = 1024
SEND_BUFFER_BYTES = 16 * 2**10
"""Of a socket: some answers. A client that does not read is noticed when it is full."""


class RequestRate:
    """Says when a connection may send on: up to a rate on average, else not for a while.

    Requests that are answered with a chunk do not count, so that a client which waits for each
    answer before it asks again may be as fast as the policy is.

    A connection that exceeds its rate is not read for a second; if it goes on like that, for two,
    four and eight seconds. So a flood costs the server a burst every eight seconds, and not a share
    of the network.

    Args:
        per_second: requests per second on average that get no chunk.
        pause_s: the first pause.
    """

    def __init__(self, per_second: float, *, pause_s: float = 1.0) -> None:
        self._per_second = per_second
        self._burst = max(FIRST_BURST, per_second / 2)
        self._tokens = FIRST_BURST  # who connects again and again gains nothing
        self._first_pause_s = self._pause_s = pause_s
        self._counted_s: float | None = None
        self._until_s = float("-inf")

    def wait_s(self, cost: float, now_s: float) -> float:
        """Takes a request of this cost, and returns 0; or returns how long it has to wait.

        Args:
            cost: 1 for a request, and later, with `charge`, what its size costs.
            now_s: on a monotonic clock.
        """
        if now_s < self._until_s:
            return self._until_s - now_s
        elapsed_s = 0.0 if self._counted_s is None else now_s - self._counted_s
        self._counted_s = now_s
        self._tokens = min(self._burst, self._tokens + elapsed_s * self._per_second)
        if self._tokens >= cost:
            self._tokens -= cost
            return 0.0
        is_new = now_s - self._until_s > FORGIVEN_AFTER_S
        longer_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._pause_s = self._first_pause_s if is_new else max(longer_s, self._first_pause_s)
        self._until_s = now_s + self._pause_s
        return self._pause_s

    def charge(self, cost: float) -> None:
        """Takes what was not known when a request began: its size."""
        self._tokens -= cost

    def give_back(self, cost: float) -> None:
        """Says that a request of this cost in all was answered with a chunk."""
        self._tokens = min(self._burst, self._tokens + cost)


class Holder(Protocol):
    """What holds bytes of messages: a connection.

    Attributes:
        owner: the client; see `ByteBudget`.
        held: its bytes.
    """

    owner: Any
    held: int

    def shed(self) -> None:
        """Gives up the connection, because there is no room."""
        ...


class ByteBudget:
    """The bytes of all messages that are arriving, waiting or being inferred.

    If there is no room for more, the connection that holds most is given up. So a client that fills
    the memory is hit itself, and one with small messages never.

    Args:
        total: bytes of all connections.
        per_client: bytes of all connections of one client.
    """

    def __init__(self, total: int, per_client: int) -> None:
        self._total, self._per_client = total, per_client
        self._holders: set[Holder] = set()
        self.held = 0

    def take(self, holder: Holder, num_bytes: int) -> None:
        """Adds bytes that a connection has received."""
        self._holders.add(holder)
        holder.held += num_bytes
        self.held += num_bytes
        self._make_room(holder)

    def give(self, holder: Holder, num_bytes: int) -> None:
        """Takes them off again."""
        num_bytes = min(num_bytes, holder.held)
        holder.held -= num_bytes
        self.held -= num_bytes
        if holder.held == 0:
            self._holders.discard(holder)

    def _make_room(self, newest: Holder) -> None:
        if self.held > self._total:
            self._shed_largest(self._holders)
        own = [holder for holder in self._holders if holder.owner == newest.owner]
        if sum(holder.held for holder in own) > self._per_client:
            self._shed_largest(own)

    def _shed_largest(self, holders: Iterable[Holder]) -> None:
        largest = max(holders, key=lambda holder: holder.held)
        self.give(largest, largest.held)
        largest.shed()


Peer = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class _Unopened:
    address: str
    close: Callable[[], None]


class ConnectionPlaces:
    """Counts connections from the moment they are accepted until they are open, or closed.

    Nobody needs a token to get so far. So if all places are taken, a new connection is not refused:
    the oldest one is closed, of the address that has most. A client that goes on to open its
    connection finds a place, however many others never do.

    Args:
        most: unopened connections in all.
        on_closed: called with a kind and the address when a connection is closed here.
        now_s: a monotonic clock.
    """

    def __init__(
        self,
        most: int,
        on_closed: Callable[[str, str], None],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most, self._on_closed, self._now_s = most, on_closed, now_s
        self._unopened: dict[Peer, _Unopened] = {}
        # Address -> how many more connections it may begin at once, and when that was so.
        self._begun: dict[str, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._unopened)

    def take(self, peer: Peer, close: Callable[[], None]) -> bool:
        """Takes a place for a new connection; returns False if its address connects too fast.

        Args:
            peer: its address and port.
            close: closes it.
        """
        address = client_address(peer[0])
        if not self._may_begin(address):
            self._on_closed("connecting_too_fast", address)
            return False
        if len(self) >= self._most:
            self._close_oldest()
        self._unopened[peer] = _Unopened(address=address, close=close)
        return True

    def give(self, peer: Peer) -> None:
        """Gives a place back, because the connection is open or closed."""
        self._unopened.pop(peer, None)

    def _close_oldest(self) -> None:
        counts = Counter(one.address for one in self._unopened.values())
        ((most, _),) = counts.most_common(1)
        peer = next(peer for peer, one in self._unopened.items() if one.address == most)
        self._on_closed("crowded", most)
        self._unopened.pop(peer).close()

    def _may_begin(self, address: str) -> bool:
        now_s = self._now_s()
        if len(self._begun) >= MOST_ADDRESSES:
            del self._begun[next(iter(self._begun))]
        left, at_s = self._begun.pop(address, (OPENINGS_AT_ONCE, now_s))
        left = min(OPENINGS_AT_ONCE, left + (now_s - at_s) * OPENINGS_PER_S)
        self._begun[address] = (max(0.0, left - 1), now_s)
        return left >= 1


def client_address(host: str) -> str:
    """Returns an address as the limits count it: of IPv6, the network that one client may have."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


class CountedSocket(socket.socket):
    """A connection that gives its place back when it is closed."""

    give_back: Callable[[], None] | None = None

    def hang_up(self) -> None:
        """Ends the connection; whoever reads the socket then closes it."""
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the socket."""
        if self.give_back is not None:
            self.give_back, give_back = None, self.give_back
            give_back()
        super().close()


class CountedListener(socket.socket):
    """A listening socket that closes connections for which there is no place."""

    places: ConnectionPlaces

    def accept(self) -> tuple[socket.socket, Any]:
        """Accepts a connection.

        Raises:
            ConnectionAbortedError: there was no place for it; it is closed.
        """
        connection, address = super().accept()
        peer = (str(address[0]), int(address[1]))
        counted = CountedSocket(
            connection.family, connection.type, connection.proto, fileno=connection.detach()
        )
        if not self.places.take(peer, counted.hang_up):
            counted.close()
            raise ConnectionAbortedError("no place for another connection")
        counted.give_back = lambda: self.places.give(peer)
        return counted, address


def listen(
    address: tuple[str, int], family: socket.AddressFamily, places: ConnectionPlaces
) -> CountedListener:
    """Returns a listening socket at an address.

    Raises:
        OSError: the address cannot be used.
    """
    listener = CountedListener(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)  # inherited
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(128)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    listener.places = places
    return listener
