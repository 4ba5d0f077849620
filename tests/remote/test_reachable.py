"""What answers to another computer: nothing, without a token and TLS, unless it is spelled out."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import pytest

from flux_runtime.cli import main

from ..serving import SHIPPED, Served, serving
from .certificate import made_certificate
from .namespaces import Computer, listening_ports, two_computers

CONNECTS = """
import json, socket, sys
found = []
for address in sys.argv[1:]:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=20):
            found.append(address)
    except OSError:
        pass
print(json.dumps(found))
"""
ASKS = """
import json, ssl, sys
from websockets.exceptions import InvalidMessage, InvalidStatus
from websockets.sync.client import connect

def ask(url, ca, token):
    context = ssl.create_default_context(cafile=ca) if ca else None
    headers = {"Authorization": f"Bearer {token}"} if token else None
    try:
        with connect(url, ssl=context, additional_headers=headers, open_timeout=30) as one:
            return len(one.recv(timeout=30))
    except InvalidStatus as error:
        return error.response.status_code
    except (OSError, EOFError, InvalidMessage) as error:
        return type(error).__name__

words = sys.argv[1:]
print(json.dumps([ask(*words[i:i + 3]) for i in range(0, len(words), 3)]))
"""
UNAUTHORIZED = 401
PATIENT = ("--handshake-timeout", 60)
"""A stranger who has just been started may be slow."""


@pytest.fixture(scope="module")
def computers() -> Iterator[tuple[Computer, Computer]]:
    """The server's, and somebody else's."""
    with two_computers() as both:
        yield both


def reached(by: Computer, ports: Iterable[int], *hosts: str) -> set[tuple[str, int]]:
    """Returns which ports of some addresses a computer can connect to."""
    found = by.asked(CONNECTS, *(f"{host}:{port}" for host in hosts for port in ports))
    return {(host, int(port)) for host, _, port in (text.rpartition(":") for text in found)}


def port_of_metrics(server: Served) -> int:
    """Where the metrics are."""
    return int(server.report["metrics_url"].rpartition(":")[2].partition("/")[0])


def test_by_default_nothing_answers_to_another_computer(
    computers: tuple[Computer, Computer], tmp_path: Path
) -> None:
    own, stranger = computers
    with serving(tmp_path, inside=own.inside) as server:
        ports = listening_ports(server.process.pid)
        assert set(ports) == {server.port, port_of_metrics(server)}
        assert reached(stranger, ports, own.address) == set()
        here = {("127.0.0.1", port) for port in ports}
        assert reached(own, ports, own.address, "127.0.0.1") == here


def test_another_address_is_refused_without_a_token_and_tls(
    computers: tuple[Computer, Computer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own, _ = computers
    certificate, key = made_certificate(tmp_path, own.address)
    (tmp_path / "tokens").write_text(secrets.token_urlsafe(24))
    (tmp_path / "tokens").chmod(0o600)
    tls = ("--tls-cert", certificate, "--tls-key", key)
    token = ("--token-file", tmp_path / "tokens")
    capsys.readouterr()
    monkeypatch.delenv("FLUX_TOKEN", raising=False)
    for listen, options in (
        (f"{own.address}:0", tls),
        (f"{own.address}:0", token),
        ("0.0.0.0:0", token),
        ("[::]:0", ()),
    ):
        assert main(["serve", str(SHIPPED), "--listen", listen, *map(str, options)]) == 2
        output, errors = capsys.readouterr()
        assert not output
        (line,) = errors.splitlines()
        assert "--insecure" in line, line


def test_with_insecure_spelled_out_the_serving_port_alone_answers(
    computers: tuple[Computer, Computer], tmp_path: Path
) -> None:
    own, stranger = computers
    options = ("--listen", "0.0.0.0:0", "--insecure", *PATIENT)
    with serving(tmp_path, *options, inside=own.inside) as server:
        ports = listening_ports(server.process.pid)
        assert set(ports) == {server.port, port_of_metrics(server)}
        assert reached(stranger, ports, own.address) == {(own.address, server.port)}
        (answer,) = stranger.asked(ASKS, f"ws://{own.address}:{server.port}", "", "")
        assert answer > UNAUTHORIZED
        assert "anyone who reaches" in server.log.read_text()


def test_with_a_token_and_tls_only_who_has_the_token_is_answered(
    computers: tuple[Computer, Computer], tmp_path: Path
) -> None:
    own, stranger = computers
    certificate, key = made_certificate(tmp_path, own.address)
    token = secrets.token_urlsafe(24)
    (tmp_path / "tokens").write_text(token)
    options = ("--listen", f"{own.address}:0", "--token-file", tmp_path / "tokens")
    tls = ("--tls-cert", certificate, "--tls-key", key)
    with serving(tmp_path, *options, *tls, *PATIENT, inside=own.inside) as server:
        ports = listening_ports(server.process.pid)
        assert reached(stranger, ports, own.address) == {(own.address, server.port)}
        trusted = (f"wss://{own.address}:{server.port}", str(certificate))
        plain = (f"ws://{own.address}:{server.port}", "")
        asked = [(*trusted, token), (*trusted, ""), (*trusted, secrets.token_urlsafe(24))]
        well, *refused, unencrypted = stranger.asked(ASKS, *chain(*asked, (*plain, token)))
        assert well > UNAUTHORIZED
        assert refused == [UNAUTHORIZED, UNAUTHORIZED]
        assert unencrypted in ("InvalidMessage", "ConnectionResetError")
