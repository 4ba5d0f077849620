"""One connection to a policy server: its greeting, requests with answers, and its clock."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..wire.bounds import METADATA_BOUNDS, Bounds, WireError
from ..wire.facts import PolicyFacts
from ..wire.messages import (
    SUBPROTOCOL,
    Answer,
    Continued,
    Hello,
    Infer,
    Ping,
    Pong,
    Refusal,
    server_message,
)
from ..wire.packing import pack, unpack
from .access import Access
from .errors import Cause, ServerError
from .frame_socket import Cancelled, FrameSocket, never

_ANSWER_ROOM = 64 * 2**10
"""Bytes of an answer beside its actions."""
PROBE_AFTER_S = 0.25
"""After so long without an answer, the server is asked for a sign of life."""
SIGN_OF_LIFE_S = 2.0
"""It must come by then; a server gives one while it infers, too."""
MOST_UNASKED = 64
"""Late answers, notices and signs of life that may come beside one answer."""
_CAUSES: Mapping[str, Cause] = {
    "busy": "busy",
    "rate": "busy",
    "late": "busy",
    "replaced": "busy",
    "draining": "away",
    "replayed": "away",
}
"""What a kind of refusal means for the next request; the others: that it is not taken."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a chunk is asked for with.

    Attributes:
        captured_ns: when the state ('state') and each picture were taken, on the monotonic clock.
        state: (state_dim,) float32 in robot units.
        images: camera -> (H, W, 3) uint8, or a JPEG file.
        prompt: the task in words.
        noise: (action_horizon, action_dim of the network) float32.
        continued: the running chunk, if the new one continues it.
    """

    captured_ns: Mapping[str, int]
    state: NDArray[np.float32]
    images: Mapping[str, NDArray[np.uint8] | bytes]
    prompt: str
    noise: NDArray[np.float32]
    continued: Continued | None = None


@dataclass(frozen=True, kw_only=True)
class ClockReading:
    """One comparison of this computer's clock with the server's.

    Attributes:
        round_trip_s: without the time that the server took.
        offset_s: what the server's clock is ahead; both have origins of their own.
    """

    round_trip_s: float
    offset_s: float

    @property
    def uncertainty_s(self) -> float:
        """The offset is within so much of the truth, however the delays of the two ways differ."""
        return self.round_trip_s / 2


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A chunk, and how long it took.

    Attributes:
        actions: (action_horizon, action_dim) float32 in robot units, finite.
        clock: what its times say.
        server_s: from the request's arrival to the answer's sending, as the server says.
        times_ms: stage -> its time on the server.
    """

    actions: NDArray[np.float32]
    clock: ClockReading
    server_s: float
    times_ms: Mapping[str, float]


class Connection:
    """An open connection whose server has introduced itself. One request at a time.

    Attributes:
        facts: what the server says of its policy.
        late_answers: that came when nobody waited for them any more.
    """

    def __init__(
        self, access: Access, deadline_s: float, accept_versions: Collection[str] = ()
    ) -> None:
        """Connects, and reads the server's greeting.

        Args:
            access: how the server is reached.
            deadline_s: on the monotonic clock.
            accept_versions: see `PolicyFacts.from_data`.

        Raises:
            ServerError: there is no server by then, or what it says cannot be used.
        """
        self._socket = FrameSocket(access, SUBPROTOCOL, METADATA_BOUNDS.max_bytes, deadline_s)
        self.url = self._socket.url
        self.late_answers = 0
        self._sequence = 0
        self._num_unasked = 0
        self._has_heard = True
        try:
            frame = self._socket.receive(deadline_s)
            if frame is None:
                raise ServerError(f"{self.url}: expected the server's greeting, got none in time")
            hello = Hello.from_data(unpack(frame, METADATA_BOUNDS), accept_versions)
        except WireError as error:
            self._socket.drop()
            raise ServerError(f"{self.url}: {error}", "hostile") from error
        except BaseException:
            self._socket.drop()
            raise
        self.facts: PolicyFacts = hello.facts
        self._session, self._limits = hello.session, hello.limits
        rows, columns = self.facts.manifest.action_horizon, self.facts.action_dim
        most = 8 * rows * columns + _ANSWER_ROOM
        self._bounds = Bounds(max_bytes=most, max_array_bytes=most, max_items=256)

    def infer(self, request: Request, deadline_s: float, cancelled: Cancelled = never) -> Reply:
        """Sends a request, and waits for its answer.

        Args:
            request: what to ask for.
            deadline_s: on the monotonic clock.
            cancelled: whether nobody wants the answer any more.

        Raises:
            ServerError: there is no answer by then, or none that can be used.
        """
        self._num_unasked = 0
        self._drain()
        self._sequence += 1
        sent_ns = time.monotonic_ns()
        data = self._packed(request, sent_ns, deadline_s)
        self._socket.send(data, deadline_s, cancelled)
        answer = self._answer_by(min(deadline_s, time.monotonic() + PROBE_AFTER_S), cancelled)
        is_probed = answer is None and not cancelled() and time.monotonic() < deadline_s
        if is_probed:
            self._ping(deadline_s)
            answer = self._answer_by(min(deadline_s, time.monotonic() + SIGN_OF_LIFE_S), cancelled)
            if answer is None and self._has_heard:
                answer = self._answer_by(deadline_s, cancelled)
        if answer is not None:
            return self._reply(answer, request, sent_ns)
        if cancelled():
            raise ServerError(f"{self.url}: nobody waits for the answer any more", "busy")
        if is_probed and not self._has_heard:  # another connection may be better
            self._socket.drop()
            raise ServerError(f"{self.url}: no sign of life from the server")
        raise ServerError(f"{self.url}: the server did not answer in time", "busy")

    def _answer_by(self, deadline_s: float, cancelled: Cancelled) -> Answer | None:
        """Returns the answer to the last request; None if there is none by then."""
        while (message := self._next(deadline_s, cancelled)) is not None:
            if isinstance(message, Refusal) and self._is_of_this(message):
                raise self._refused(message)
            if isinstance(message, Answer) and message.sequence == self._sequence:
                return message
            self._count_late(message)
            if time.monotonic() >= deadline_s:
                break
        return None

    def read_clock(self, deadline_s: float) -> ClockReading:
        """Asks for the server's clock.

        Raises:
            ServerError: there is no answer by then.
        """
        self._num_unasked = 0
        sent_ns = self._ping(deadline_s)
        while (message := self._next(deadline_s, never)) is not None:
            if isinstance(message, Pong) and message.client_ns == sent_ns:
                now_ns = time.monotonic_ns()
                middle_ns = (sent_ns + now_ns) / 2
                return ClockReading(
                    round_trip_s=(now_ns - sent_ns) * 1e-9,
                    offset_s=(message.server_ns - middle_ns) * 1e-9,
                )
            self._count_late(message)
        raise ServerError(f"{self.url}: the server did not answer a ping in time")

    def interrupt(self) -> None:
        """Ends what another thread waits for here."""
        self._socket.interrupt()

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()

    def _is_of_this(self, refusal: Refusal) -> bool:
        """Whether a refusal ends the wait; that the server reads more slowly is only a notice."""
        if refusal.sequence is None:
            return refusal.kind != "rate"
        return refusal.sequence == self._sequence

    def _packed(self, request: Request, sent_ns: int, deadline_s: float) -> bytes:
        budget_ms = max(0.0, 1e3 * (deadline_s - sent_ns * 1e-9))
        infer = Infer(
            session=self._session,
            sequence=self._sequence,
            sent_ns=sent_ns,
            captured_ns=request.captured_ns,
            budget_ms=budget_ms,
            state=request.state,
            images=request.images,
            prompt=request.prompt,
            noise=request.noise,
            continued=request.continued,
        )
        data = pack(infer.as_data())
        if len(data) > self._limits.max_bytes:
            raise ServerError(
                f"{self.url}: expected a request of at most {self._limits.max_bytes} bytes, which "
                f"the server takes, got {len(data)}. Send pictures with --jpeg QUALITY",
                "refused",
            )
        return data

    def _ping(self, deadline_s: float) -> int:
        """Asks for a sign of life, which comes while the server infers, too."""
        sent_ns = time.monotonic_ns()
        self._has_heard = False
        self._socket.send(pack(Ping(client_ns=sent_ns).as_data()), deadline_s)
        return sent_ns

    def _drain(self) -> None:
        """Takes what has come since the last request."""
        while (message := self._next(time.monotonic(), never)) is not None:
            self._count_late(message)

    def _next(self, deadline_s: float, cancelled: Cancelled) -> Answer | Refusal | Pong | None:
        frame = self._socket.receive(deadline_s, cancelled)
        if frame is None:
            return None
        self._has_heard = True
        try:
            return server_message(unpack(frame, self._bounds), self.facts)
        except WireError as error:
            self._socket.drop()
            raise ServerError(f"{self.url}: {error}", "hostile") from error

    def _count_late(self, message: Answer | Refusal | Pong) -> None:
        self._num_unasked += 1
        if self._num_unasked > MOST_UNASKED:
            self._socket.drop()
            raise ServerError(
                f"{self.url}: expected one answer, got many other messages", "hostile"
            )
        if not isinstance(message, Answer):
            return
        if message.sequence > self._sequence:
            self._socket.drop()
            raise ServerError(
                f"{self.url}: answer.sequence: expected at most {self._sequence}, got "
                f"{message.sequence}",
                "hostile",
            )
        self.late_answers += 1

    def _reply(self, answer: Answer, request: Request, sent_ns: int) -> Reply:
        if dict(answer.captured_ns) != dict(request.captured_ns):
            self._socket.drop()
            raise ServerError(
                f"{self.url}: answer.captured_ns: expected those of the request, got others",
                "hostile",
            )
        took_ns = time.monotonic_ns() - sent_ns
        # The server's own time is at most what has passed here, whatever it says.
        server_ns = min(max(answer.sent_ns - answer.received_ns, 0), took_ns)
        middle_ns = sent_ns + took_ns / 2
        offset_ns = (answer.received_ns + answer.sent_ns) / 2 - middle_ns
        clock = ClockReading(round_trip_s=(took_ns - server_ns) * 1e-9, offset_s=offset_ns * 1e-9)
        return Reply(
            actions=answer.actions,
            clock=clock,
            server_s=server_ns * 1e-9,
            times_ms=answer.times_ms,
        )

    def _refused(self, refusal: Refusal) -> ServerError:
        cause = _CAUSES.get(refusal.kind, "refused")
        text = f"{self.url}: refused ({refusal.kind}): {refusal.text}"
        if cause == "away":
            self._socket.close()
        return ServerError(text, cause)


def same_policy(first: PolicyFacts, now: PolicyFacts) -> str | None:
    """Returns what is different at a server that has come back, as 'what: then -> now'; None if it
    is the same policy, on the same engine."""
    if first.sha256 != now.sha256:
        return f"the bundle's sha256: {first.sha256[:16]}... -> {now.sha256[:16]}..."
    then, again = _compared(first), _compared(now)
    for name, value in then.items():
        if value != again.get(name):
            is_short = isinstance(value, str | int | float)
            return f"{name}: {value} -> {again.get(name)}" if is_short else name
    return None


def _compared(facts: PolicyFacts) -> dict[str, Any]:
    return {name: value for name, value in facts.as_data().items() if name != "server"}
