"""Our own protocol: deadlines, numbers, replacement, and chunks that continue each other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from websockets.sync.client import ClientConnection, connect

from flux_runtime.engines.core import load_core
from flux_runtime.serve.conversation import read_head
from flux_runtime.wire import METADATA_BOUNDS, Bounds, WireError, pack, unpack
from flux_runtime.wire.messages import (
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

from ...serving import Served, observation, serving
from .conftest import SEED, Local


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("serve"), "--max-rate", 50) as running:
        yield running


REPLAYED = 'flux_serve_refusals_total{kind="replayed"}'


class FluxClient:
    """Speaks our protocol."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.hello = Hello.from_data(unpack(_binary(connection), METADATA_BOUNDS))
        self._sequence = 0

    def request(self, number: int = 0, index: int = 0, **changes: Any) -> Infer:
        """Returns a request; each has a larger number than the last."""
        data = observation(number)
        self._sequence += 1
        request = Infer(
            session=self.hello.session,
            sequence=self._sequence,
            sent_ns=time.monotonic_ns(),
            captured_ns={"state": 5, "cam_high": 6},
            budget_ms=30_000.0,
            state=data["state"],
            images=data["images"],
            prompt=data["prompt"],
            seed=SEED,
            index=index,
        )
        return replace(request, **changes)

    def send(self, message: Infer | Ping) -> None:
        """Sends a message."""
        self.connection.send(pack(message.as_data()))

    def receive(self) -> Answer | Refusal | Pong:
        """Returns the next message of the server."""
        return server_message(unpack(_binary(self.connection), Bounds()), self.hello.facts)

    def ask(self, request: Infer) -> Answer | Refusal | Pong:
        """Sends a request and returns what comes next."""
        self.send(request)
        return self.receive()


def _refused(served: Served) -> float:
    """Returns how many requests were answered with a line."""
    return sum(
        number
        for name, number in served.metrics().items()
        if name.startswith("flux_serve_refusals_total")
    )


def _binary(connection: ClientConnection) -> bytes:
    found = connection.recv(timeout=30)
    assert isinstance(found, bytes)
    return found


@contextmanager
def flux(served: Served) -> Iterator[FluxClient]:
    names: Any = [SUBPROTOCOL]
    with connect(served.url, subprotocols=names, compression=None, open_timeout=30) as connection:
        assert connection.subprotocol == SUBPROTOCOL
        yield FluxClient(connection)


def test_hello_has_the_facts_and_a_session_of_its_own(served: Served) -> None:
    with flux(served) as one, flux(served) as other:
        assert one.hello.session != other.hello.session
        assert one.hello.facts.sha256 == served.report["sha256"]
        assert one.hello.limits.requests_per_s == 50


def test_answers_are_those_of_the_local_policy(served: Served, local: Local) -> None:
    with flux(served) as client:
        for index in range(4):
            before_ns = time.monotonic_ns()
            answer = client.ask(client.request(3, index))
            assert isinstance(answer, Answer), answer
            np.testing.assert_array_equal(answer.actions, local.chunk(3, index))
            assert answer.captured_ns == {"state": 5, "cam_high": 6}
            assert before_ns < answer.received_ns < answer.sent_ns < time.monotonic_ns()
            assert set(answer.times_ms) == {"queue", "decode", "encode", "infer", "total"}


def test_a_chunk_continues_the_running_one(served: Served, local: Local) -> None:
    settings = {
        "method": "guidance",
        "prefix_len": None,
        "decay_end": None,
        "schedule": "exp",
        "max_guidance_weight": 5.0,
        "use_vjp": False,
        "delays": [0],
    }
    previous = local.chunk(1, 0)[4:]
    with flux(served) as client:
        continued = Continued(previous=previous, prefix_len=4, settings=settings)
        answer = client.ask(client.request(2, 1, continued=continued))
    assert isinstance(answer, Answer), answer
    arguments = local.source.loop_arguments({})
    core, data = load_core(), observation(2)
    decoder, policy = arguments["decoder"], arguments["policy"]
    from flux_core.types import Observation

    seen = Observation(
        images=data["images"], state=data["state"], prompt=data["prompt"], timestamp_s=0.0
    )
    expected = policy.infer(
        local.source.encode(seen),
        local.source.noise(SEED, 1),
        previous=decoder.encode(previous, 14, seen.state),
        prefix_len=4,
        continuation=core.ContinuationSettings(**settings),
    )
    np.testing.assert_array_equal(answer.actions, decoder.decode(expected, seen.state))
    assert np.abs(answer.actions - local.chunk(2, 1)).max() > 1e-3


def test_a_prefix_that_the_policy_was_not_trained_with_is_refused(served: Served) -> None:
    settings = {
        "method": "prefix",
        "prefix_len": 31,
        "decay_end": None,
        "schedule": "exp",
        "max_guidance_weight": 5.0,
        "use_vjp": False,
        "delays": [5000],
    }
    continued = Continued(previous=np.zeros((32, 14), np.float32), prefix_len=31, settings=settings)
    with flux(served) as client:
        refusal = client.ask(client.request(continued=continued))
        assert isinstance(refusal, Refusal) and refusal.kind == "bad_request"
        assert isinstance(client.ask(client.request()), Answer)


@pytest.mark.parametrize(
    "change", [{"session": "0" * 32}, {"sequence": 0}, {"sequence": 1}, {"session": "x" * 16}]
)
def test_a_recorded_request_is_refused(served: Served, change: dict[str, Any]) -> None:
    with flux(served) as client:
        assert isinstance(client.ask(client.request()), Answer)
        before = served.metrics().get(REPLAYED, 0.0)
        refusal = client.ask(client.request(**change))
        assert isinstance(refusal, Refusal) and refusal.kind == "replayed"
        assert served.metrics()[REPLAYED] == before + 1
        assert isinstance(client.ask(client.request()), Answer)


def test_a_newer_request_replaces_the_waiting_one_at_once(served: Served, local: Local) -> None:
    with flux(served) as client:
        requests = [client.request(number, number) for number in range(8)]
        frames = [pack(request.as_data()) for request in requests]
        for frame in frames:
            client.connection.send(frame)
        answers = {}
        for _ in requests:
            answer = client.receive()
            assert isinstance(answer, Answer | Refusal)
            answers[answer.sequence] = answer
    newest = answers[requests[-1].sequence]
    assert isinstance(newest, Answer)
    np.testing.assert_array_equal(newest.actions, local.chunk(7, 7))
    refused = [answer for answer in answers.values() if isinstance(answer, Refusal)]
    assert refused and {refusal.kind for refusal in refused} == {"replaced"}


def test_a_request_whose_time_is_over_is_not_inferred(served: Served) -> None:
    name = 'flux_serve_stage_seconds_count{stage="infer"}'
    before = served.metrics()[name]
    with flux(served) as client:
        refusal = client.ask(client.request(budget_ms=0.0))
        assert isinstance(refusal, Refusal) and refusal.kind == "late"
    assert served.metrics()[name] == before


def test_a_request_that_takes_longer_than_its_time_is_late(served: Served) -> None:
    with flux(served) as client:
        refusal = client.ask(client.request(budget_ms=1.5))
        assert isinstance(refusal, Refusal) and refusal.kind == "late"


def test_the_clock_is_told_during_inference(served: Served) -> None:
    with flux(served) as client:
        client.send(client.request())
        client.send(Ping(client_ns=123))
        found = [client.receive(), client.receive()]
    pong = next(message for message in found if isinstance(message, Pong))
    assert pong.client_ns == 123
    assert abs(pong.server_ns - time.monotonic_ns()) < 10e9


def test_who_sends_too_much_is_told_once(served: Served) -> None:
    with flux(served) as client:
        for number in range(20):
            client.send(Ping(client_ns=number))
        refusals = []
        for _ in range(21):
            message = client.receive()
            if isinstance(message, Refusal):
                refusals.append(message)
    (refusal,) = refusals
    assert (refusal.kind, refusal.sequence) == ("rate", None)
    assert "not read for" in refusal.text


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x80",
        pack({"type": "infer"}),
        pack({"type": "stop"}),
        pack({"type": "ping"}),
        pack({"state": np.zeros(14)}),
        pack({"type": "infer", "session": "x" * 32, "sequence": "1", "budget_ms": 1.0}),
        pack({"type": "infer", "session": "x" * 32, "sequence": 1, "budget_ms": float("nan")}),
        pack({"type": "infer", "images": {"cam_high": np.zeros(5000, np.uint8)}}),
        b"\x84" + b"\xa4type" * 2000,
        b"\xc1" * 2000,
        b"\x83\xa4type\x91" + b"\x91" * 2000,
    ],
)
def test_what_is_no_request_is_refused_in_a_line(served: Served, message: bytes) -> None:
    with flux(served) as client:
        before = _refused(served)
        client.connection.send(message)
        refusal = client.receive()
        assert isinstance(refusal, Refusal) and refusal.kind in ("bad_request", "oversized")
        assert _refused(served) == before + 1
        assert isinstance(client.ask(client.request()), Answer)
    assert "Traceback" not in served.log.read_text()


def test_wrong_content_is_refused_with_its_number(served: Served) -> None:
    with flux(served) as client:
        request = client.request(state=np.zeros(3, np.float32))
        refusal = client.ask(request)
        assert isinstance(refusal, Refusal)
        assert (refusal.sequence, refusal.kind) == (request.sequence, "bad_request")


def test_only_the_head_of_a_request_is_read_before_its_turn() -> None:
    data = {
        "type": "infer",
        "session": "x" * 32,
        "sequence": 7,
        "sent_ns": 1,
        "captured_ns": {"state": 1},
        "budget_ms": 20,
        "state": np.zeros(14),
    }
    message = pack(data)
    head = read_head(message[: message.index(b"state", 100) + 5] + b"\xc1 anything")
    assert (head.session, head.sequence, head.budget_ms) == ("x" * 32, 7, 20.0)
    with pytest.raises(WireError, match="before all pictures"):
        read_head(pack(dict(reversed(data.items()))))


def test_other_subprotocols_are_openpis(served: Served) -> None:
    with connect(served.url, subprotocols=["soap"], compression=None) as connection:  # type: ignore[list-item]
        assert connection.subprotocol is None
        assert unpack(_binary(connection), METADATA_BOUNDS)["robot"] == "aloha-sim"
