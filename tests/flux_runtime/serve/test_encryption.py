"""Certificates: made here, checked by OpenSSL."""

from __future__ import annotations

import hashlib
import socket
import ssl
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from flux_core.errors import UsageError
from flux_runtime.serve import encryption
from flux_runtime.serve.encryption import (
    MadeCertificate,
    fingerprint,
    make_certificate,
    server_context,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeCertificate:
    folder = tmp_path_factory.mktemp("certificate")
    return make_certificate(["gpu.lab", "192.168.7.5"], folder)


def _handshake(made: MadeCertificate, name: str, client: ssl.SSLContext) -> bytes:
    """Connects through the certificate; returns it as the client got it."""
    server = server_context(made.certificate, made.key, lambda kind: None)
    ends = socket.socketpair()
    for end in ends:
        end.settimeout(30)

    def accept() -> None:
        try:
            with server.wrap_socket(ends[0], server_side=True) as one:
                one.recv(1)
        except OSError:
            ends[0].close()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        with client.wrap_socket(ends[1], server_hostname=name) as one:
            found = one.getpeercert(binary_form=True)
            assert found is not None
            one.send(b"x")
            return found
    finally:
        ends[1].close()
        thread.join()


def _trusting(made: MadeCertificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(made.certificate))


@pytest.mark.parametrize("name", ["gpu.lab", "192.168.7.5", "localhost", "127.0.0.1", "::1"])
def test_a_client_that_trusts_it_connects_by_every_name(made: MadeCertificate, name: str) -> None:
    der = _handshake(made, name, _trusting(made))
    assert hashlib.sha256(der).hexdigest() == made.fingerprint == fingerprint(made.certificate)


def test_another_name_or_a_client_that_does_not_trust_it_is_refused(made: MadeCertificate) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(made, "other.lab", _trusting(made))
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(made, "gpu.lab", ssl.create_default_context())


@pytest.mark.filterwarnings("ignore:.*TLSv1_1 is deprecated")
def test_old_tls_is_refused(made: MadeCertificate) -> None:
    old = _trusting(made)
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        _handshake(made, "gpu.lab", old)


def test_openssl_finds_nothing_wrong_with_it(made: MadeCertificate) -> None:
    done = subprocess.run(
        [
            *("openssl", "verify", "-x509_strict", "-purpose", "sslserver"),
            *("-verify_ip", "192.168.7.5", "-CAfile", str(made.certificate)),
            str(made.certificate),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_key_is_readable_by_its_owner_alone(made: MadeCertificate) -> None:
    assert stat.S_IMODE(made.key.stat().st_mode) == 0o600


def test_nothing_is_overwritten(made: MadeCertificate) -> None:
    before = made.key.read_bytes()
    with pytest.raises(UsageError, match="flux-serve.crt: expected no such file"):
        make_certificate([], made.key.parent)
    assert made.key.read_bytes() == before


@pytest.mark.parametrize(
    "name", ["", "two words", "https://gpu.lab", "a..b", "x" * 300, "grün.lab"]
)
def test_what_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="--make-cert: expected a host's name or address"):
        make_certificate([name], tmp_path)
    assert not list(tmp_path.iterdir())


def test_files_that_do_not_fit_are_refused(made: MadeCertificate, tmp_path: Path) -> None:
    other = make_certificate([], tmp_path)
    for certificate, key in (
        (made.certificate, other.key),
        (made.key, made.key),
        (made.certificate, made.certificate),
    ):
        with pytest.raises(UsageError, match="expected a certificate and its key as PEM"):
            server_context(certificate, key, lambda kind: None)
    with pytest.raises(OSError, match="none.crt"):
        server_context(tmp_path / "none.crt", made.key, lambda kind: None)


def test_a_key_with_a_password_is_refused_and_not_asked_for(
    made: MadeCertificate, tmp_path: Path
) -> None:
    locked = tmp_path / "locked.key"
    subprocess.run(
        [
            *("openssl", "pkey", "-in", str(made.key), "-aes256", "-passout", "pass:secret"),
            *("-out", str(locked)),
        ],
        check=True,
        capture_output=True,
    )
    with pytest.raises(UsageError, match="without a password"):
        server_context(made.certificate, locked, lambda kind: None)


def test_a_certificate_that_has_expired_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encryption, "VALID_DAYS", 0.5)  # from yesterday on
    old = make_certificate([], tmp_path)
    with pytest.raises(UsageError, match="expected a certificate that is valid today"):
        server_context(old.certificate, old.key, lambda kind: None)
