"""A server with TLS and tokens, reached as another machine would reach it."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from flux_runtime.cli import main
from flux_runtime.wire import pack

from ...serving import Served, observation, serving
from .conftest import SEED, Local, OpenPIClient, Robot, wait_until

TOKEN, OTHER = "a-token-for-the-left-arm", "a-token-for-the-right-arm"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secured")
    (folder / "tokens").write_text(f"# arms\n{OTHER}\n{TOKEN}\n")
    (folder / "tokens").chmod(0o600)
    assert main(["serve", "--make-cert", "gpu.lab", "--cert-dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    with serving(
        folder,
        *("--listen", "0.0.0.0:0", "--seed", SEED, "--token-file", folder / "tokens"),
        *("--tls-cert", folder / "flux-serve.crt", "--tls-key", folder / "flux-serve.key"),
        *("--log-format", "json", "--idle-timeout", 3, "--handshake-timeout", 2),
        *("--send-timeout", 1),
    ) as running:
        yield running


@pytest.fixture(scope="module")
def running_robot(served: Served, folder: Path, local: Local) -> Iterator[Robot]:
    @contextlib.contextmanager
    def connected() -> Iterator[OpenPIClient]:
        with _connect(served, folder, f"Bearer {TOKEN}") as connection:
            yield OpenPIClient(connection)

    found = Robot(connected, local)
    yield found
    found.stop()


@pytest.fixture(scope="module")
def idle(served: Served, folder: Path) -> Iterator[ClientConnection]:
    """Has a token, and asks nothing from the first test on."""
    with _connect(served, folder, f"Bearer {TOKEN}") as connection:
        OpenPIClient(connection)
        yield connection


@pytest.fixture(scope="module")
def unfinished(served: Served) -> Iterator[socket.socket]:
    """Begins a TLS handshake with the first test, and never ends it."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as one:
        one.sendall(b"\x16\x03\x01")
        yield one


@pytest.fixture(autouse=True)
def robot(
    running_robot: Robot, idle: ClientConnection, unfinished: socket.socket
) -> Iterator[None]:
    """A robot gets its answers before, during and after every test."""
    running_robot.check(1)
    yield
    running_robot.check()


def _trusting(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(folder / "flux-serve.crt"))


def _connect(served: Served, folder: Path, authorization: str | None) -> ClientConnection:
    headers = {} if authorization is None else {"Authorization": authorization}
    return connect(
        f"wss://127.0.0.1:{served.port}",
        ssl=_trusting(folder),
        additional_headers=headers,
        compression=None,
        open_timeout=30,
    )


def _count(served: Served, name: str) -> float:
    return served.metrics().get(name, 0.0)


@pytest.mark.parametrize("authorization", [f"Api-Key {TOKEN}", f"Bearer {OTHER}"])
def test_answers_are_those_of_the_local_policy(
    served: Served, folder: Path, local: Local, authorization: str
) -> None:
    with _connect(served, folder, authorization) as connection:
        client = OpenPIClient(connection)
        for index in range(3):
            answer = client.ask(observation(index))
            assert isinstance(answer, dict), answer
            np.testing.assert_array_equal(answer["actions"], local.chunk(index, index))


@pytest.mark.parametrize(
    ("authorization", "kind"),
    [
        (None, "no_token"),
        ("", "wrong_token"),
        (f"Api-Key {TOKEN}x", "wrong_token"),
        (f"Basic {TOKEN}", "wrong_token"),
        (TOKEN, "wrong_token"),
    ],
)
def test_without_a_token_nothing_opens(
    served: Served, folder: Path, authorization: str | None, kind: str
) -> None:
    name = f'flux_serve_handshakes_refused_total{{kind="{kind}"}}'
    before = _count(served, name)
    with pytest.raises(InvalidStatus) as error:
        _connect(served, folder, authorization)
    response = error.value.response
    assert response.status_code == 401 and response.headers["WWW-Authenticate"].startswith("Bearer")
    assert response.body is not None and response.body.count(b"\n") == 1
    assert _count(served, name) == before + 1


def test_two_authorizations_are_none(served: Served, folder: Path) -> None:
    connection = http.client.HTTPSConnection("127.0.0.1", served.port, context=_trusting(folder))
    connection.putrequest("GET", "/")
    for _ in range(2):
        connection.putheader("Authorization", f"Bearer {TOKEN}")
    connection.endheaders()
    assert connection.getresponse().status == 401
    connection.close()


def test_health_needs_no_token_and_other_paths_do(served: Served, folder: Path) -> None:
    for path, status in (("/healthz", 200), ("/metrics", 401), ("/", 401)):
        connection = http.client.HTTPSConnection(
            "127.0.0.1", served.port, context=_trusting(folder)
        )
        connection.request("GET", path)
        assert connection.getresponse().status == status
        connection.close()


def test_a_client_can_pin_the_fingerprint(served: Served) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", served.port), timeout=30) as one,
        context.wrap_socket(one) as secured,
    ):
        der = secured.getpeercert(binary_form=True)
        assert der is not None
        assert hashlib.sha256(der).hexdigest() == served.report["fingerprint"]
        assert secured.version() == "TLSv1.3"


def test_plain_text_is_refused_and_counted(served: Served) -> None:
    name = 'flux_serve_handshakes_refused_total{kind="plain_text_on_tls"}'
    before = _count(served, name)
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as one:
        one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert TOKEN.encode() not in one.recv(4096)
    with pytest.raises((OSError, InvalidHandshake)):
        connect(f"ws://127.0.0.1:{served.port}", open_timeout=30)
    wait_until(lambda: _count(served, name) == before + 2, name)


def test_a_client_that_does_not_trust_it_is_counted(served: Served) -> None:
    name = 'flux_serve_handshakes_refused_total{kind="certificate_refused"}'
    before = _count(served, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(f"wss://127.0.0.1:{served.port}", open_timeout=30)
    wait_until(lambda: _count(served, name) == before + 1, name)


def test_a_tls_handshake_that_never_ends_is_cut(unfinished: socket.socket) -> None:
    with contextlib.suppress(ConnectionResetError):
        while unfinished.recv(4096):  # a TimeoutError if it is not cut
            pass


def test_who_asks_nothing_is_cut_after_a_while(served: Served, idle: ClientConnection) -> None:
    with pytest.raises(ConnectionClosed) as error:
        idle.recv(timeout=30)
    assert error.value.rcvd is not None and error.value.rcvd.code == 1001
    assert _count(served, 'flux_serve_connections_cut_total{kind="idle"}') == 1


def test_a_slow_reader_is_cut(served: Served, folder: Path) -> None:
    name = 'flux_serve_connections_cut_total{kind="slow_reader"}'
    payload, until_s = pack(observation(0)), time.monotonic() + 60
    head = (
        "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
        f"Authorization: Bearer {TOKEN}\r\n\r\n"
    )
    with socket.socket() as plain, contextlib.suppress(OSError):
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        plain.settimeout(30)
        plain.connect(("127.0.0.1", served.port))
        with _trusting(folder).wrap_socket(plain, server_hostname="127.0.0.1") as one:
            one.sendall(head.encode())
            one.recv(64)  # the beginning of the response, and nothing after it
            while time.monotonic() < until_s and not _count(served, name):
                one.sendall(struct.pack("!BBQ", 0x82, 0xFF, len(payload)) + bytes(4) + payload)
                time.sleep(0.02)
    wait_until(lambda: _count(served, name) == 1, name)


def test_metrics_are_on_loopback_alone(served: Served) -> None:
    url = served.report["metrics_url"]
    assert url.startswith("http://127.0.0.1:")
    port = int(url.split(":")[2].partition("/")[0])
    listening = [
        line.split()[1]
        for file in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(file).read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
    ]
    assert listening == [f"0100007F:{port:04X}"]


def test_the_log_is_json_and_has_no_token_image_or_state(served: Served) -> None:
    text = served.log.read_text()
    assert TOKEN not in text and OTHER not in text and "Traceback" not in text
    events = [json.loads(line) for line in text.splitlines()]
    assert {"connected", "connection_refused", "disconnected"} <= {e["event"] for e in events}
    assert {event.get("token") for event in events if event["event"] == "connected"} <= {0, 1}
