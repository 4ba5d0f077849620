"""Clients that misbehave: each is refused or cut, counted, and not noticed by a robot beside it."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from statistics import median

import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import CloseCode
from websockets.sync.client import connect

from flux_runtime.wire import pack

from ...serving import Served, observation, serving
from .conftest import SEED, Local, Robot, openpi, wait_until

HANDSHAKE_S, TIMEOUT_S = 2.0, 1.0
"""Of the server under test: for opening a connection, which takes a busy machine a while, and for
messages and answers."""
FLOOD_S = 0.5
"""Long enough for a server that reads it to take hundreds of megabytes."""
MESSAGE_BYTES = 2**20
HEAD = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    timeouts = [
        *("--handshake-timeout", HANDSHAKE_S),
        *("--message-timeout", TIMEOUT_S, "--send-timeout", TIMEOUT_S),
    ]
    folder = tmp_path_factory.mktemp("serve")
    limits = ("--max-message-mb", 1, "--max-bytes-mb", 16, "--max-connections", 70)
    per_client = ("--max-connections-per-client", 66)
    with serving(folder, "--seed", SEED, *timeouts, *limits, *per_client) as running:
        yield running


@pytest.fixture(scope="module")
def running_robot(served: Served, local: Local) -> Iterator[Robot]:
    found = Robot(partial(openpi, served), local)
    yield found
    found.stop()


Slow = dict[str, Future[bytes]]


@pytest.fixture(scope="module")
def slow(served: Served) -> Iterator[Slow]:
    """Clients that are slow from the first test on: what each got until it was cut."""
    with ThreadPoolExecutor() as pool:
        yield {
            act.__name__: pool.submit(act, served)
            for act in (_handshake_bytewise, _message_bytewise, _ping_without_end)
        }


@pytest.fixture(autouse=True)
def robot(running_robot: Robot, served: Served, slow: Slow) -> Iterator[None]:
    """Every test ends with a robot that still works, and a log without tracebacks."""
    running_robot.check(1)
    yield
    running_robot.check()
    assert "Traceback" not in served.log.read_text()


@contextlib.contextmanager
def counted(served: Served, kind: str, of: str, least: int = 1) -> Iterator[None]:
    """Requires that this is counted."""
    name = f'flux_serve_{of}_total{{kind="{kind}"}}'
    before = served.metrics().get(name, 0.0)
    yield
    wait_until(lambda: served.metrics().get(name, 0.0) >= before + least, f"{name}: {before}")


def _raw(served: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.port), timeout=30)


def _opened(served: Served, *, receive_buffer: int | None = None) -> socket.socket:
    """Returns a socket past the handshake and the metadata."""
    one = socket.socket()
    if receive_buffer is not None:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    one.settimeout(30)
    one.connect(("127.0.0.1", served.port))
    one.sendall(HEAD)
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(one)
    head, _, data = data.partition(b"\r\n\r\n")
    assert b" 101 " in head.splitlines()[0]
    while len(data) < 4:
        data += _some(one)
    (size,) = struct.unpack("!H", data[2:4])
    while len(data) < 4 + size:
        data += _some(one)
    return one


def _some(one: socket.socket) -> bytes:
    """Returns what comes next; that nothing does any more is an error, not a wait without end."""
    data = one.recv(65_536)
    if not data:
        raise ConnectionResetError("the connection was ended")
    return data


def _frame(payload: bytes, opcode: int = 2, *, claimed: int | None = None) -> bytes:
    size = len(payload) if claimed is None else claimed
    return struct.pack("!BBQ", 0x80 | opcode, 0xFF, size) + bytes(4) + payload


def _rest(one: socket.socket) -> bytes:
    """Returns what comes until the server closes the connection."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := one.recv(65_536):
            data += part
    return data


def _request() -> bytes:
    return pack(observation(0))


# The handshake.


@pytest.mark.parametrize(
    ("sent", "kind", "text"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "tls_on_plain", b"ws://"),
        (b"\x00" * 50, "not_http", b"expected the GET request"),
        (b"POST /stop HTTP/1.1\r\n\r\n", "not_http", b"expected the GET request"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000, "oversized", b"at most 16384 bytes"),
        (HEAD + _frame(b"x"), "early", b"before the response"),
    ],
)
def test_what_opens_no_connection_is_refused_in_one_line(
    served: Served, sent: bytes, kind: str, text: bytes
) -> None:
    with counted(served, kind, "handshakes_refused"), _raw(served) as one:
        one.sendall(sent)
        answer = _rest(one)
    assert answer.startswith(b"HTTP/1.1 400 ") and text in answer
    assert len(answer.partition(b"\r\n\r\n")[2].splitlines()) == 1


def test_tls_on_the_plain_port_fails_at_once(served: Served) -> None:
    context = ssl.create_default_context()
    plain = counted(served, "tls_on_plain", "handshakes_refused")
    with plain, _raw(served) as one, pytest.raises(ssl.SSLError):  # and no TimeoutError
        context.wrap_socket(one, server_hostname="localhost")


def test_a_browser_is_refused(served: Served) -> None:
    with counted(served, "origin", "handshakes_refused"), pytest.raises(InvalidStatus) as error:
        connect(served.url, origin="https://evil.example").close()  # type: ignore[arg-type]
    assert error.value.response.status_code == 403


@pytest.mark.parametrize("path", ["/metrics", "/stop", "/healthz/x", "/../healthz"])
def test_there_is_no_other_path(served: Served, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    connection.request("GET", path)
    response = connection.getresponse()
    assert response.status == 404
    assert response.read() == b"expected the path /, got another one\n"
    connection.close()


def test_a_plain_request_is_told_what_to_use(served: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    connection.request("GET", "/")
    assert connection.getresponse().status == 426
    connection.close()


def test_health_needs_nothing(served: Served) -> None:
    assert served.health() == (200, "OK\n")


def test_a_handshake_of_ten_bytes_per_second_is_cut(served: Served, slow: Slow) -> None:
    slow["_handshake_bytewise"].result()
    _counted_since_the_start(served, "incomplete", "handshakes_refused")


def _handshake_bytewise(served: Served) -> bytes:
    with _raw(served) as one:
        assert _sent_bytewise(one, HEAD) < len(HEAD)
        return _rest(one)


def _counted_since_the_start(served: Served, kind: str, of: str, least: int = 1) -> None:
    name = f'flux_serve_{of}_total{{kind="{kind}"}}'
    wait_until(lambda: served.metrics().get(name, 0.0) >= least, name)


def _sent_bytewise(one: socket.socket, data: bytes) -> int:
    """Sends a byte a moment; returns how many were sent before the server had enough of it."""
    for place in range(len(data)):
        try:
            one.sendall(data[place : place + 1])
        except OSError:
            return place
        time.sleep(0.1)
    return len(data)


# Messages.


def test_a_message_of_ten_bytes_per_second_is_cut_and_a_ping_that_never_ends_too(
    served: Served, slow: Slow
) -> None:
    assert b"a message took longer than 1 s" in slow["_message_bytewise"].result()
    assert b"a message took longer than 1 s" in slow["_ping_without_end"].result()
    _counted_since_the_start(served, "slow_sender", "connections_cut", least=2)


def _message_bytewise(served: Served) -> bytes:
    with _opened(served) as one:
        _sent_bytewise(one, _frame(_request())[:30])
        return _rest(one)


def _ping_without_end(served: Served) -> bytes:
    with _opened(served) as one:
        one.sendall(bytes([0x89, 0x84]))
        return _rest(one)


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (_frame(b"", claimed=MESSAGE_BYTES + 1), "oversized"),
        (_frame(b"", claimed=2**62), "oversized"),
        (b"\x82\x05hello", "malformed"),  # not masked
        (b"\xf2\x80\x00\x00\x00\x00", "malformed"),  # reserved bits
        (b"\x83\x80\x00\x00\x00\x00", "malformed"),  # no such opcode
        (b"\x80\x80\x00\x00\x00\x00", "malformed"),  # continues nothing
        (bytes([0x81, 0x82]) + bytes(4) + b"\xff\xfe", "malformed"),  # no UTF-8
    ],
)
def test_frames_that_break_the_protocol_end_the_connection(
    served: Served, sent: bytes, kind: str
) -> None:
    with counted(served, kind, "connections_cut"), _opened(served) as one:
        one.sendall(sent)
        one.shutdown(socket.SHUT_WR)
        assert _rest(one)[:1] == b"\x88"  # a close frame


def test_a_client_that_could_not_read_what_it_got_is_not_malformed_itself(served: Served) -> None:
    name = 'flux_serve_connections_cut_total{kind="malformed"}'
    before = served.metrics().get(name, 0.0)
    with openpi(served) as client:
        client.connection.close(CloseCode.INVALID_DATA)
    assert served.metrics().get(name, 0.0) == before


def test_an_oversized_message_is_refused_before_it_is_sent(served: Served) -> None:
    with openpi(served) as client, pytest.raises(ConnectionClosed) as error:
        client.ask(bytes(MESSAGE_BYTES + 1))
    assert error.value.rcvd is not None and error.value.rcvd.code == 1009


def test_a_message_that_fills_the_limit_is_taken(served: Served) -> None:
    with openpi(served) as client:
        line = client.ask(bytes(MESSAGE_BYTES))
    assert isinstance(line, str) and line.startswith("bad_request: message: expected a map")


def test_a_slow_reader_is_cut(served: Served) -> None:
    request, until_s = _frame(_request()), time.monotonic() + 60
    with (
        counted(served, "slow_reader", "connections_cut"),
        _opened(served, receive_buffer=2048) as one,
        contextlib.suppress(OSError),
    ):
        while time.monotonic() < until_s:
            one.sendall(request)
            time.sleep(0.02)
    assert time.monotonic() < until_s


@pytest.mark.parametrize("reads", [True, False])
def test_a_flood_is_not_read_and_costs_the_robot_little(
    served: Served, running_robot: Robot, reads: bool
) -> None:
    request = _frame(_request()) * 4
    calm_s = median(running_robot.waits_s)
    running_robot.waits_s.clear()
    with counted(served, "rate", "refusals"), _opened(served) as one:
        one.setblocking(False)
        sent, until_s = 0, time.monotonic() + FLOOD_S
        while time.monotonic() < until_s:
            try:
                sent += one.send(request)
                if reads:
                    one.recv(65_536)
            except BlockingIOError:
                time.sleep(0.002)
            except ConnectionError:
                break
    assert sent < 12e6  # the kernel's buffers, and a burst
    assert median(running_robot.waits_s) < max(0.25, 10 * calm_s)


def test_a_flood_of_pings_and_empty_frames_is_not_read(served: Served) -> None:
    for opcode in (0x89, 0x82):
        with _opened(served) as one, counted(served, "rate", "refusals"):
            one.setblocking(False)
            frames, until_s = (
                bytes([opcode, 0x80, 0, 0, 0, 0]) * 10_000,
                time.monotonic() + FLOOD_S / 2,
            )
            while time.monotonic() < until_s:
                try:
                    one.send(frames)
                except BlockingIOError:
                    time.sleep(0.002)
                except ConnectionError:
                    break


def test_very_many_fragments_are_not_read(served: Served) -> None:
    with (
        _opened(served) as one,
        counted(served, "rate", "refusals"),
        contextlib.suppress(ConnectionError),
    ):
        one.sendall(b"\x02\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 30_000)


def test_a_message_in_pieces_of_4_kib_is_a_message(served: Served) -> None:
    data = _request()
    pieces = [data[place : place + 4096] for place in range(0, len(data), 4096)]
    with openpi(served) as client:
        client.connection.send(pieces)
        assert isinstance(client.answer(), dict)


# Connections and memory.


def _each_connection_open(served: Served, count: int, act: Callable[[socket.socket], None]) -> None:
    with contextlib.ExitStack() as stack:
        for one in [stack.enter_context(_opened(served)) for _ in range(count)]:
            act(one)


def test_memory_stays_when_many_announce_much_and_send_nothing(served: Served) -> None:
    process = psutil.Process(served.process.pid)
    before = process.memory_info().rss
    grown = 0

    def announce(one: socket.socket) -> None:
        nonlocal grown
        one.sendall(_frame(b"", claimed=MESSAGE_BYTES))
        grown = max(grown, process.memory_info().rss - before)

    _each_connection_open(served, 56, announce)
    assert grown < 24e6


def test_those_that_hold_much_memory_are_cut_and_the_robot_is_not(served: Served) -> None:
    process = psutil.Process(served.process.pid)
    before = process.memory_info().rss
    largest = 0

    sent = 0

    def send(one: socket.socket) -> None:
        nonlocal largest, sent
        with contextlib.suppress(ConnectionError):
            one.sendall(_frame(bytes(MESSAGE_BYTES - 1), claimed=MESSAGE_BYTES))
        sent += 1
        if sent > 6:
            largest = max(largest, int(served.metrics()["flux_serve_bytes_in_flight"]))

    with counted(served, "no_room", "connections_cut", least=4):
        _each_connection_open(served, 14, send)
    assert 0 < largest <= 8 * 2**20  # half of --max-bytes-mb: they are one client
    assert process.memory_info().rss - before < 60e6


def test_one_connection_more_than_permitted_is_told(served: Served) -> None:
    with (
        counted(served, "connections_per_client", "handshakes_refused"),
        contextlib.ExitStack() as stack,
        pytest.raises(InvalidStatus) as error,
    ):
        for _ in range(64):
            with contextlib.suppress(AssertionError):  # some may be left of other tests
                stack.enter_context(_opened(served))
        for _ in range(3):
            stack.enter_context(connect(served.url, open_timeout=30))
    response = error.value.response
    assert response.status_code == 503 and response.headers["Retry-After"] == "1"
    assert re.fullmatch(rb"expected at most 66 connections of one client.*\n", response.body or b"")
