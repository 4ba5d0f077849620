"""A policy server for as long as a run lasts: connects again when the connection is lost, and makes
sure that the server that comes back is the one that was there."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Collection

from ..wire.facts import PolicyFacts
from .access import Access
from .connection import ClockReading, Connection, Reply, Request, same_policy
from .errors import ServerError
from .frame_socket import Cancelled, never

logger = logging.getLogger("flux.runtime")

OPEN_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 1.0
"""Of a new connection during a run."""
RETRY_S = 0.05
SLOW_S = 1.0
"""A request that has waited for longer may be why a robot holds."""
LEAST_LEFT_S = 0.1
"""With less time left, a request is not tried again."""
_KEPT = 10_000
"""Round trips that are kept for the report."""


class PolicyClient:
    """Asks a server for chunks. One request at a time, on any thread.

    Attributes:
        url: of the server.
        facts: of its policy, when the run began.
        reconnects: how often the connection was made again.
        stop_reason: why nothing that the server says may be used any more; None if it may.
        clock: the comparison of both clocks with the shortest round trip.
    """

    def __init__(
        self,
        access: Access,
        *,
        reconnect_for_s: float,
        accept_versions: Collection[str] = (),
    ) -> None:
        """Connects.

        Args:
            access: how the server is reached.
            reconnect_for_s: how long the server may be away during one request.
            accept_versions: see `PolicyFacts.from_data`.

        Raises:
            ServerError: there is no such server.
        """
        self.url = access.address.url
        self.reconnects = 0
        self.stop_reason: str | None = None
        self.clock: ClockReading | None = None
        self._access = access
        self._reconnect_for_s = reconnect_for_s
        self._accept_versions = accept_versions
        self._round_trips_ms: deque[float] = deque(maxlen=_KEPT)
        self._late_answers = 0
        self._is_closed = threading.Event()
        self._error: str | None = None
        self._waits_since_s: float | None = None
        self._connection: Connection | None = self._connected(time.monotonic() + OPEN_TIMEOUT_S)
        self.facts: PolicyFacts = self._connection.facts

    @property
    def late_answers(self) -> int:
        """How many answers came when nobody waited for them any more."""
        connection = self._connection
        return self._late_answers + (connection.late_answers if connection else 0)

    @property
    def round_trips_ms(self) -> list[float]:
        """Of the last requests, without the time that the server took."""
        return list(self._round_trips_ms)

    @property
    def trouble(self) -> str | None:
        """What is wrong with the server now, in one line; None if nothing is."""
        error, since_s = self._error, self._waits_since_s
        if error is not None:
            return error
        if since_s is None or (waited_s := time.monotonic() - since_s) < SLOW_S:
            return None
        return f"{self.url}: no answer for {waited_s:.1f} s"

    def infer(self, request: Request, deadline_s: float, cancelled: Cancelled = never) -> Reply:
        """Returns a chunk; asks again while the server is away or busy.

        Args:
            request: what to ask for.
            deadline_s: on the monotonic clock.
            cancelled: whether nobody wants the chunk any more.

        Raises:
            ServerError: there is no chunk by then.
        """
        self._waits_since_s = time.monotonic()
        try:
            reply = self._answered(request, deadline_s, cancelled)
        finally:
            self._waits_since_s = None
        self._error = None
        self._keep(reply)
        return reply

    def _answered(self, request: Request, deadline_s: float, cancelled: Cancelled) -> Reply:
        away_since_s: float | None = None
        while True:
            try:
                return self._ask(request, deadline_s, cancelled)
            except ServerError as error:
                self._error = self.trouble if cancelled() else str(error)
                now_s = time.monotonic()
                away_since_s = now_s if away_since_s is None else away_since_s
                is_over = deadline_s - now_s < LEAST_LEFT_S or cancelled()
                is_gone = now_s - away_since_s > self._reconnect_for_s
                is_final = error.cause in ("refused", "hostile") or self.stop_reason is not None
                if is_final or is_over or is_gone or self._is_closed.wait(RETRY_S):
                    raise

    def read_clock(self, timeout_s: float = CONNECT_TIMEOUT_S) -> ClockReading:
        """Compares the clocks once.

        Raises:
            ServerError: the server does not answer.
        """
        deadline_s = time.monotonic() + timeout_s
        return self._open(deadline_s).read_clock(deadline_s)

    def close(self) -> None:
        """Ends the connection, and whatever another thread waits for."""
        self._is_closed.set()
        connection = self._connection
        if connection is not None:
            connection.interrupt()

    def _ask(self, request: Request, deadline_s: float, cancelled: Cancelled) -> Reply:
        connection = self._open(deadline_s)
        try:
            return connection.infer(request, deadline_s, cancelled)
        except ServerError as error:
            if error.cause in ("away", "hostile"):
                self._forget()
            raise

    def _open(self, deadline_s: float) -> Connection:
        """Returns the connection, made again if it was lost."""
        if self.stop_reason is not None:
            raise ServerError(self.stop_reason, "refused")
        if self._is_closed.is_set():
            raise ServerError(f"{self.url}: the run is over", "refused")
        if self._connection is not None:
            return self._connection
        soon_s = min(deadline_s, time.monotonic() + CONNECT_TIMEOUT_S)
        connection = self._connected(soon_s)
        change = same_policy(self.facts, connection.facts)
        if change is not None:
            connection.close()
            self.stop_reason = (
                f"{self.url}: expected the policy with which the run began, got another one after "
                f"a reconnect ({change}). Begin a new run with it"
            )
            raise ServerError(self.stop_reason, "refused")
        self.reconnects += 1
        logger.info("%s: connected again", self.url)
        self._connection = connection
        return connection

    def _connected(self, deadline_s: float) -> Connection:
        return Connection(self._access, deadline_s, self._accept_versions)

    def _forget(self) -> None:
        if self._connection is not None:
            self._late_answers += self._connection.late_answers
            self._connection.close()
        self._connection = None

    def _keep(self, reply: Reply) -> None:
        self._round_trips_ms.append(1e3 * reply.clock.round_trip_s)
        best = self.clock
        if best is None or reply.clock.round_trip_s < best.round_trip_s:
            self.clock = reply.clock
