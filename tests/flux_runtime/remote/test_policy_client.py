"""The robot's side of the connection, against a server that may be anything."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flux_runtime.remote.client import PolicyClient
from flux_runtime.remote.connection import Request
from flux_runtime.remote.errors import ServerError
from flux_runtime.wire.messages import Continued, Infer, Refusal
from flux_runtime.wire.packing import pack

from .conftest import MakeClient
from .fake_server import FakeServer, Sent, answer_to, chunk_for, renamed, well

MakeRequest = Callable[..., Request]
CONTINUATION = {
    "method": "prefix",
    "prefix_len": None,
    "decay_end": None,
    "schedule": "exp",
    "max_guidance_weight": 5.0,
    "use_vjp": False,
    "delays": [0, 2],
}


def ask(client: PolicyClient, request: Request, within_s: float = 30.0) -> np.ndarray:
    return client.infer(request, time.monotonic() + within_s).actions


def test_a_request_arrives_as_it_was_sent_and_its_chunk_comes_back_bit_for_bit(
    server: FakeServer, connect: MakeClient, request_of: MakeRequest
) -> None:
    client = connect()
    rows = np.random.default_rng(5).standard_normal((4, 3), np.float32)
    continued = Continued(previous=rows, prefix_len=2, settings=CONTINUATION)
    for number in range(3):
        request = request_of(number)
        request = replace(request, continued=continued) if number else request
        actions = ask(client, request)
        got = server.seen.requests[-1]
        assert got.state.tobytes() == request.state.tobytes()
        assert got.noise is not None and got.noise.tobytes() == request.noise.tobytes()
        pictures = got.pictures()
        assert all(np.array_equal(pictures[name], request.images[name]) for name in pictures)
        assert (got.prompt, dict(got.captured_ns)) == ("wave", request.captured_ns)
        assert 20_000 < got.budget_ms <= 30_000
        assert (got.continued is None) == (number == 0)
        assert actions.tobytes() == chunk_for(server, got).tobytes()
    assert [got.sequence for got in server.seen.requests] == [1, 2, 3]
    assert (client.reconnects, client.late_answers, server.seen.connections) == (0, 0, 1)
    assert len(client.round_trips_ms) == 3 and client.trouble is None
    reading = client.read_clock()  # both clocks are the same one
    assert abs(reading.offset_s) <= reading.uncertainty_s


def nested(depth: int) -> bytes:
    return b"\x81\xa1x" + b"\x91" * depth + b"\xc0"


HOSTILE: dict[str, Callable[[FakeServer, Infer], Sent]] = {
    "NaN": lambda s, r: answer_to(s, r, actions=np.full((6, 3), np.nan, np.float32)),
    "infinity": lambda s, r: answer_to(s, r, actions=np.full((6, 3), np.inf, np.float32)),
    "huge numbers": lambda s, r: answer_to(s, r, actions=np.full((6, 3), 3e38, np.float32)),
    "too few rows": lambda s, r: answer_to(s, r, actions=np.zeros((5, 3), np.float32)),
    "too many joints": lambda s, r: answer_to(s, r, actions=np.zeros((6, 4), np.float32)),
    "integers": lambda s, r: answer_to(s, r, actions=np.zeros((6, 3), np.int32)),
    "a list": lambda s, r: answer_to(s, r, actions=[[0.0] * 3] * 6),
    "a later number": lambda s, r: answer_to(s, r, sequence=r.sequence + 1),
    "another observation": lambda s, r: answer_to(s, r, captured_ns={"state": 5}),
    "an unknown stage": lambda s, r: answer_to(s, r, times_ms={"nap": 1.0}),
    "another type": lambda s, r: answer_to(s, r, type="infer"),
    "one more key": lambda s, r: answer_to(s, r, more=1),
    "a text": lambda s, r: "Traceback (most recent call last)",
    "no msgpack": lambda s, r: b"\xc1" * 100,
    "nothing": lambda s, r: b"",
    "depth": lambda s, r: nested(2000),
    "a large frame": lambda s, r: answer_to(s, r, more=b"x" * 200_000),
    "an enormous frame": lambda s, r: b"\x80" + b"x" * (17 << 20),
    "a million values": lambda s, r: b"\x81\xa1x\xdd\x00\x0f\xff\xff" + b"\x00" * 1000,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_cannot_be_used_is_refused_in_one_line_and_the_next_answer_counts(
    server: FakeServer, connect: MakeClient, request_of: MakeRequest, what: str
) -> None:
    client = connect()
    server.script = lambda s, r: [HOSTILE[what](s, r)]
    began_s = time.monotonic()
    with pytest.raises(ServerError) as refused:
        ask(client, request_of(), within_s=60.0)
    assert time.monotonic() - began_s < 30
    line = str(refused.value)
    assert line.startswith(f"{server.url}: ") and "\n" not in line and len(line) < 600
    assert client.trouble == line
    server.script = well
    assert ask(client, request_of(1)).shape == (6, 3)
    assert (client.reconnects, client.trouble, client.stop_reason) == (1, None, None)


def test_a_late_answer_is_dropped_and_counted(
    server: FakeServer, connect: MakeClient, request_of: MakeRequest
) -> None:
    client = connect()

    def late(s: FakeServer, r: Infer) -> Iterable[Sent]:
        yield from ([0.9] if r.sequence == 1 else [])
        yield answer_to(s, r)

    server.script = late
    with pytest.raises(ServerError, match="did not answer in time"):
        ask(client, request_of(0), within_s=0.2)
    actions = ask(client, request_of(1))
    assert actions.tobytes() == chunk_for(server, server.seen.requests[1]).tobytes()
    # It was heard of meanwhile, so there was no reason to connect again.
    assert (client.late_answers, client.reconnects) == (1, 0)


def test_a_server_that_shows_no_sign_of_life_is_connected_again(
    server: FakeServer, connect: MakeClient, request_of: MakeRequest
) -> None:
    client = connect()
    server.script, server.answers_pings = (lambda s, r: []), False
    with pytest.raises(ServerError, match="no sign of life"):
        ask(client, request_of(), within_s=0.4)
    server.script, server.answers_pings = well, True
    ask(client, request_of())
    assert client.reconnects == 1


def test_a_server_that_is_killed_and_comes_back_answers_the_same_request(
    server: FakeServer, connect: MakeClient, request_of: MakeRequest
) -> None:
    client = connect()
    ask(client, request_of(0))
    server.kill()
    began_s = time.monotonic()
    with pytest.raises(ServerError, match="cannot be reached .*refused"):
        ask(client, request_of(1), within_s=0.5)
    assert time.monotonic() - began_s < 5
    timer = threading.Timer(0.2, server.start)
    timer.start()
    ask(client, request_of(1))
    timer.join()
    assert (client.reconnects, client.late_answers, client.stop_reason) == (1, 0, None)


def test_a_server_that_is_away_for_too_long_is_given_up(
    server: FakeServer, connect: MakeClient, request_of: MakeRequest
) -> None:
    client = connect(reconnect_for_s=0.2)
    server.kill()
    began_s = time.monotonic()
    with pytest.raises(ServerError, match="cannot be reached"):
        ask(client, request_of(), within_s=30.0)
    assert 0.2 <= time.monotonic() - began_s < 15


def test_another_bundle_after_a_reconnect_is_never_used(
    server: FakeServer, connect: MakeClient, request_of: MakeRequest
) -> None:
    client, first = connect(), server.facts
    server.kill()
    server.facts = renamed(first)
    server.start()
    message = r"expected the policy with which the run began, got another one .*sha256: aaaa.*bbbb"
    with pytest.raises(ServerError, match=message):
        ask(client, request_of())
    server.kill()
    server.facts = first  # too late
    server.start()
    with pytest.raises(ServerError, match=message):
        ask(client, request_of())
    assert client.stop_reason is not None and client.stop_reason.startswith(server.url)
    assert server.seen.requests == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"can_continue": False}, "can_continue: True -> False"),
        ({"engine": "other"}, "engine: fake -> other"),
    ],
)
def test_other_facts_after_a_reconnect_are_no_resume_either(
    server: FakeServer,
    connect: MakeClient,
    request_of: MakeRequest,
    changes: dict[str, Any],
    what: str,
) -> None:
    client = connect()
    server.kill()
    server.facts = replace(server.facts, **changes)
    server.start()
    with pytest.raises(ServerError, match=what):
        ask(client, request_of())


def test_a_busy_server_is_asked_again_and_one_that_declines_is_not(
    server: FakeServer, connect: MakeClient, request_of: MakeRequest
) -> None:
    client = connect()
    kind = ["busy", "rate", "late", "replaced", "bad_request"]

    def refuse(s: FakeServer, r: Infer) -> Iterable[Sent]:
        if r.sequence > len(kind) - 1:
            yield answer_to(s, r)
        else:
            why: Any = kind[r.sequence - 1]
            yield pack(Refusal(sequence=r.sequence, kind=why, text="for\nnow").as_data())

    server.script = refuse
    ask(client, request_of())
    assert len(server.seen.requests) == 5
    notice = pack(Refusal(sequence=None, kind="rate", text="slower").as_data())
    server.script = lambda s, r: [notice, answer_to(s, r)]
    ask(client, request_of())
    server.script = lambda s, r: [
        pack(Refusal(sequence=r.sequence, kind="bad_request", text="too many tokens").as_data())
    ]
    with pytest.raises(ServerError, match=r"refused \(bad_request\): too many tokens$"):
        ask(client, request_of())
    assert len(server.seen.requests) == 7
    assert client.reconnects == 0


def test_a_flood_of_notices_costs_no_more_than_the_deadline(
    server: FakeServer, connect: MakeClient, request_of: MakeRequest
) -> None:
    notice = pack(Refusal(sequence=None, kind="rate", text="slower").as_data())

    def flood(s: FakeServer, r: Infer) -> Iterable[Sent]:
        for _ in range(2000):
            yield notice

    client = connect()
    server.script = flood
    with pytest.raises(ServerError, match="expected one answer, got many other messages|per req"):
        ask(client, request_of())
    server.script = lambda s, r: [notice, 0.005] * 50
    began_s = time.monotonic()
    with pytest.raises(ServerError):
        ask(client, request_of(), within_s=0.15)
    assert time.monotonic() - began_s < 5


def test_nobody_waits_for_a_cancelled_request(
    server: FakeServer, connect: MakeClient, request_of: MakeRequest
) -> None:
    client = connect()
    server.script = lambda s, r: []
    began_s = time.monotonic()
    with pytest.raises(ServerError, match="nobody waits"):
        client.infer(request_of(), began_s + 60, lambda: time.monotonic() > began_s + 0.1)
    assert time.monotonic() - began_s < 30


def test_closing_the_client_ends_what_another_thread_waits_for(
    server: FakeServer, connect: MakeClient, request_of: MakeRequest
) -> None:
    client = connect()
    server.script = lambda s, r: []
    errors: list[ServerError] = []

    def wait() -> None:
        try:
            ask(client, request_of(), within_s=90.0)
        except ServerError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    while not server.seen.requests:
        assert thread.is_alive()
        time.sleep(0.01)
    client.close()
    thread.join(30)
    assert not thread.is_alive() and len(errors) == 1


@contextmanager
def plain_peer(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A peer that accepts one connection after another and says whatever it likes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer:
                try:
                    talk(peer)
                except OSError:
                    continue

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def http(status: str, body: str = "") -> Callable[[socket.socket], None]:
    def talk(peer: socket.socket) -> None:
        peer.recv(4096)
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n"
        peer.sendall((head + body).encode())

    return talk


@pytest.mark.parametrize(
    ("talk", "message"),
    [
        (http("401 Unauthorized", "no token\n"), r"refused the token, or there is none"),
        (http("503 Service Unavailable", "full\nup"), r"refused the connection \(503: full.*up\)"),
        (http("200 OK", "<html>"), r"refused the connection \(200: <html>\)"),
        (lambda peer: peer.sendall(b"220 mail ESMTP\r\n"), r"expected a policy server, got some"),
        (lambda peer: peer.recv(10), r"connection was lost|expected a policy server"),
    ],
)
def test_what_is_no_policy_server_is_named(
    connect: MakeClient, talk: Callable[[socket.socket], None], message: str
) -> None:
    with plain_peer(talk) as url, pytest.raises(ServerError, match=message) as refused:
        connect(url)
    assert "\n" not in str(refused.value) and str(refused.value).startswith(url)


def test_a_server_of_another_protocol_is_named(connect: MakeClient, server: FakeServer) -> None:
    other = FakeServer(server.facts, subprotocol=None)
    with pytest.raises(ServerError, match=r"expected a server of flux-runtime \(protocol flux\.v1"):
        connect(other.url)
    other.kill()


@pytest.mark.parametrize(
    ("hello", "message"),
    [
        (b"\x80", "expected protocol 1"),
        (b"\xc1", "message: "),
        ("hello", "got a text"),
        (pack({"type": "hello", "protocol": 2}), "expected protocol 1"),
        (pack({"type": "hello", "protocol": 1}), "the key session is missing"),
    ],
)
def test_a_greeting_that_cannot_be_used_is_refused(
    connect: MakeClient, server: FakeServer, hello: bytes | str, message: str
) -> None:
    server.hello = hello
    with pytest.raises(ServerError, match=message):
        connect()


def test_a_manifest_that_a_bundle_could_not_have_is_refused(
    connect: MakeClient, server: FakeServer
) -> None:
    broken = replace(server.facts.manifest, action_horizon=10**9)
    server.facts = replace(server.facts, manifest=broken)
    with pytest.raises(ServerError, match=r"action_horizon: expected"):
        connect()


def test_a_peer_that_reads_nothing_costs_no_more_than_the_deadline(
    connect: MakeClient, request_of: MakeRequest, server: FakeServer, monkeypatch: Any
) -> None:
    """The request is larger than what the sockets hold."""
    client = connect()
    held = threading.Event()
    monkeypatch.setattr(FakeServer, "_take", lambda *_: held.wait(30))
    large = np.zeros((2048, 2048, 3), np.uint8)
    request = replace(request_of(), images=dict.fromkeys(request_of().images, large))
    began_s = time.monotonic()
    with pytest.raises(ServerError, match="does not read|did not answer|no sign of life"):
        ask(client, request, within_s=0.4)
    assert time.monotonic() - began_s < 10
    held.set()


def test_an_answer_of_a_byte_a_moment_costs_no_more_than_the_deadline(
    server: FakeServer, connect: MakeClient, request_of: MakeRequest
) -> None:
    client = connect()

    def drip(s: FakeServer, r: Infer) -> Iterable[Sent]:
        frame = b"\x82\x7e\x10\x00" + b"x" * 4096  # a header that promises 4096 bytes
        (connection,) = s._connections
        for at in range(1000):
            connection.socket.sendall(frame[at : at + 1])
            yield 0.02

    server.script = drip
    began_s = time.monotonic()
    with pytest.raises(ServerError):
        ask(client, request_of(), within_s=0.3)
    assert time.monotonic() - began_s < 10
