"""Which servers may be asked, how, and what they are told."""

from __future__ import annotations

import hashlib
import logging
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flux_core.errors import UsageError
from flux_runtime.realtime.remote_options import RemoteOptions
from flux_runtime.remote.access import access_to, parse_pin
from flux_runtime.remote.address import parse_address
from flux_runtime.remote.client import PolicyClient
from flux_runtime.remote.errors import ServerError

from .fake_server import FakeServer

TOKEN = "0123456789abcdefTOKEN"
ELSEWHERE = "192.0.2.7"  # of no network (RFC 5737); nothing is sent to it here


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ws://gpu:9000", ("gpu", 9000, False)),
        ("wss://gpu.lab", ("gpu.lab", 8000, True)),
        ("wss://[::1]:7/", ("::1", 7, True)),
        ("ws://127.0.0.1:65535", ("127.0.0.1", 65535, False)),
    ],
)
def test_an_address_is_read(text: str, found: tuple[str, int, bool]) -> None:
    address = parse_address(text)
    assert (address.host, address.port, address.is_encrypted) == found
    assert parse_address(address.url) == address


@pytest.mark.parametrize(
    "text",
    ["gpu:8000", "http://gpu:8000", "ws://", "ws://gpu:99999", "ws://gpu:x", "ws://gpu/path", ""],
)
def test_another_text_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--remote: expected ws://HOST:PORT or wss://HOST:PORT"):
        parse_address(text)


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(UsageError) as refused:
        parse_address("wss://me:secret@gpu:8000")
    assert "secret" not in str(refused.value) and "--token-file" in str(refused.value)


def access(url: str, environment: dict[str, str] | None = None, **options: Any) -> Any:
    return access_to(RemoteOptions(url=url, **options), {} if environment is None else environment)


def test_a_plain_connection_leaves_this_computer_only_if_that_is_asked_for() -> None:
    with pytest.raises(UsageError, match=r"expected wss://, .* or add --insecure"):
        access(f"ws://{ELSEWHERE}:8000")
    assert access(f"ws://{ELSEWHERE}:8000", insecure=True).context is None
    assert access("ws://localhost:8000").context is None


def test_a_token_never_leaves_this_computer_unencrypted(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    for given in ({"token_file": file}, {"environment": {"FLUX_TOKEN": TOKEN}}):
        with pytest.raises(UsageError, match="expected wss:// with a token") as refused:
            access(f"ws://{ELSEWHERE}:8000", insecure=True, **given)
        assert TOKEN not in str(refused.value)
    assert access("ws://127.0.0.1:8000", token_file=file).token == TOKEN


def test_the_token_is_read_from_a_file_or_the_environment_and_kept_from_other_processes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# of the lab\n\n  {TOKEN}  \nanother-token-entirely\n")
    file.chmod(0o644)
    environment = {"FLUX_TOKEN": "of-the-environment", "HOME": "/"}
    found = access("ws://127.0.0.1", environment, token_file=file)
    assert found.token == TOKEN and environment == {"HOME": "/"}
    assert TOKEN not in repr(found)
    assert f"--token-file {file}: other users of this computer can read it" in caplog.text
    environment = {"FLUX_TOKEN": f" {TOKEN}\n"}
    assert access("ws://127.0.0.1", environment).token == TOKEN and environment == {}
    for content, message in (("# none\n", "expected a token, got none"), ("a b", "without spaces")):
        file.write_text(content)
        with pytest.raises(UsageError, match=message):
            access("ws://127.0.0.1", token_file=file)
    with pytest.raises(UsageError, match=r"cannot be read \(No such file"):
        access("ws://127.0.0.1", token_file=tmp_path / "missing")


def test_options_of_an_encrypted_connection_need_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--pin: expected a wss:// address"):
        access("ws://127.0.0.1", pin="0" * 64)
    with pytest.raises(UsageError, match="--ca-file: expected a wss:// address"):
        access("ws://127.0.0.1", ca_file=tmp_path / "ca.crt")
    with pytest.raises(UsageError, match=r"--ca-file .*: expected certificates in PEM form"):
        access("wss://127.0.0.1", ca_file=tmp_path / "ca.crt")


def test_a_fingerprint_is_read_as_it_is_printed() -> None:
    digits = hashlib.sha256(b"x").hexdigest()
    colons = ":".join(digits[at : at + 2] for at in range(0, 64, 2)).upper()
    for text in (digits, colons, f"sha256:{digits}", f"SHA256:{colons}"):
        assert parse_pin(text).hex() == digits
    for text in ("", "ab", digits + "0", "g" * 64):
        with pytest.raises(UsageError, match="--pin: expected the 64 hexadecimal digits"):
            parse_pin(text)


def test_an_unknown_host_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ServerError, match=r"wss://nowhere:8000: the host cannot be found"):
        access("wss://nowhere")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """The files of a certificate of 127.0.0.1 and its key, and its fingerprint."""
    x509 = pytest.importorskip("cryptography.x509", reason="no cryptography")
    import datetime
    import ipaddress

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "lab")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("certificate")
    pem = serialization.Encoding.PEM
    (folder / "c").write_bytes(made.public_bytes(pem))
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "k").write_bytes(secret)
    digest = hashlib.sha256(made.public_bytes(serialization.Encoding.DER)).hexdigest()
    return folder / "c", folder / "k", digest


@pytest.fixture
def encrypted(server: FakeServer, certificate: tuple[Path, Path, str]) -> Iterator[FakeServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate[:2])
    running = FakeServer(server.facts, context=context)
    yield running
    running.kill()


def connected(server: FakeServer, environment: dict[str, str] | None = None, **options: Any) -> Any:
    found = access(server.url, environment, **options)
    return closing(PolicyClient(found, reconnect_for_s=1.0))


def test_a_pinned_certificate_or_one_of_a_lab_is_accepted_and_the_token_sent(
    encrypted: FakeServer, certificate: tuple[Path, Path, str]
) -> None:
    for options in (
        {"pin": certificate[2]},
        {"ca_file": certificate[0]},
        {"pin": certificate[2], "ca_file": certificate[0]},
    ):
        with connected(encrypted, {"FLUX_TOKEN": TOKEN}, **options) as client:
            assert client.facts.sha256 == encrypted.facts.sha256
        assert encrypted.seen.headers[-1]["Authorization"] == f"Bearer {TOKEN}"
        assert "Origin" not in encrypted.seen.headers[-1]


def test_the_token_is_in_no_log(server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with connected(server, {"FLUX_TOKEN": TOKEN}) as client:
        client.read_clock()
    assert server.seen.headers[-1]["Authorization"] == f"Bearer {TOKEN}"
    of_client = [r for r in caplog.records if not r.name.startswith("websockets.server")]
    assert TOKEN not in "".join(record.getMessage() for record in of_client)


def test_another_certificate_gets_no_token(
    encrypted: FakeServer, certificate: tuple[Path, Path, str]
) -> None:
    environment = {"FLUX_TOKEN": TOKEN}
    with pytest.raises(ServerError, match=r"--pin: expected the certificate 0000.*, got [0-9a-f]"):
        connected(encrypted, environment, pin="0" * 64)
    with pytest.raises(ServerError, match=r"certificate is refused .* --pin SHA256"):
        connected(encrypted, {"FLUX_TOKEN": TOKEN})
    assert encrypted.seen.headers == []


def test_plain_on_an_encrypted_port_and_the_other_way_round_are_named(
    server: FakeServer, encrypted: FakeServer
) -> None:
    plain = f"wss://127.0.0.1:{server.port}"
    with pytest.raises(ServerError, match=r"no encrypted connection \(.*\)\. Is it ws://\?"):
        PolicyClient(access(plain, pin="0" * 64), reconnect_for_s=1.0)
    swapped = f"ws://127.0.0.1:{encrypted.port}"
    with pytest.raises(ServerError, match=r"expected a policy server|connection was lost"):
        PolicyClient(access(swapped), reconnect_for_s=1.0)
