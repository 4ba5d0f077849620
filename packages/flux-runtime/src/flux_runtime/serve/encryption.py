"""TLS: the server's certificate, a certificate for a lab, and what is not TLS at all."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux_core.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    from cryptography import x509

CERTIFICATE_NAME, KEY_NAME = "flux-serve.crt", "flux-serve.key"
VALID_DAYS = 825
"""What Apple's systems accept at most of a certificate that the user has installed."""
LONGEST_NAME = 253


@dataclass(frozen=True, kw_only=True)
class MadeCertificate:
    """A new certificate and its key.

    Attributes:
        certificate, key: the files.
        fingerprint: SHA-256 of the certificate, in hexadecimal digits.
        names: that it is valid for: names and addresses.
    """

    certificate: Path
    key: Path
    fingerprint: str
    names: tuple[str, ...]


def server_context(
    certificate: Path, key: Path, on_failure: Callable[[str], None]
) -> ssl.SSLContext:
    """Returns the server's TLS settings: version 1.2 or newer.

    Args:
        certificate: PEM file with the certificate and what signed it.
        key: PEM file of its key, without a password.
        on_failure: called with a kind for each handshake that fails.

    Raises:
        UsageError: the files do not fit together, or the certificate is not valid now.
        OSError: a file cannot be read.
    """
    for file in (certificate, key):
        with file.open("rb"):  # ssl's own errors do not name the file
            pass
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except (ssl.SSLError, ValueError) as error:
        raise UsageError(
            f"--tls-cert {certificate} --tls-key {key}: expected a certificate and its key as PEM, "
            f"without a password, got another pair ({_reason(error)}). Make one with "
            f"'flux-runtime serve --make-cert'"
        ) from error
    _check_dates(certificate)
    context.sslobject_class = _counting(on_failure)
    return context


def _refuse_password() -> str:
    raise ValueError("the key has a password")


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or error).replace("_", " ").lower()


def _counting(on_failure: Callable[[str], None]) -> type[ssl.SSLObject]:
    class CountingObject(ssl.SSLObject):
        """A TLS connection whose failed handshake is counted."""

        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError as error:
                on_failure(failure_kind(error.reason))
                raise

    return CountingObject


def failure_kind(reason: str | None) -> str:
    """Returns a kind for OpenSSL's reason; few, because each is a time series of its own."""
    if reason in ("HTTP_REQUEST", "WRONG_VERSION_NUMBER", "HTTPS_PROXY_REQUEST"):
        return "plain_text_on_tls"
    if reason in ("UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW", "NO_SHARED_CIPHER"):
        return "tls_too_old"
    if reason is not None and reason.startswith(("TLSV1_ALERT", "SSLV3_ALERT", "TLSV13_ALERT")):
        return "certificate_refused"
    return "tls_failed"


def fingerprint(certificate: Path) -> str:
    """Returns the SHA-256 of a file's first certificate, in hexadecimal digits.

    Raises:
        UsageError: the file has none.
    """
    text = certificate.read_text(encoding="latin-1")
    end = "-----END CERTIFICATE-----"
    begin = text.find("-----BEGIN CERTIFICATE-----")
    try:
        der = ssl.PEM_cert_to_DER_cert(text[begin : text.index(end, begin) + len(end)])
    except ValueError as error:
        raise UsageError(
            f"{certificate}: expected a certificate as PEM, got none. Make one with 'flux-runtime "
            f"serve --make-cert'"
        ) from error
    return hashlib.sha256(der).hexdigest()


def _check_dates(certificate: Path) -> None:
    found = _x509().load_pem_x509_certificate(certificate.read_bytes())
    now = datetime.datetime.now(datetime.UTC)
    if not found.not_valid_before_utc <= now <= found.not_valid_after_utc:
        raise UsageError(
            f"{certificate}: expected a certificate that is valid today, got one from "
            f"{found.not_valid_before_utc:%Y-%m-%d} to {found.not_valid_after_utc:%Y-%m-%d}. Make "
            f"a new one, or correct this machine's clock"
        )


def make_certificate(names: Sequence[str], directory: Path) -> MadeCertificate:
    """Makes a key and a certificate that it has signed itself, as two files in a directory.

    It is valid for these names and addresses, and always for this machine's name and loopback.

    Raises:
        UsageError: a name or the directory cannot be used, or a file is already there.
        MissingDependencyError: `cryptography` is not installed.
    """
    x509 = _x509()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    host = socket.gethostname()
    own = [host] if _is_name(host) else []
    entries = tuple(dict.fromkeys([*names, *own, "localhost", "127.0.0.1", "::1"]))
    alternatives = [_alternative(name) for name in entries]
    paths = (directory / CERTIFICATE_NAME, directory / KEY_NAME)
    if not directory.is_dir():
        raise UsageError(f"{directory}: expected an existing folder to write to")
    for path in paths:
        if path.exists():
            raise UsageError(
                f"{path}: expected no such file, because --make-cert replaces none. Move it away, "
                f"or name another folder with --cert-dir DIR"
            )
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _signed(x509, key, entries[0], alternatives)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _write_new(paths[1], key_pem, 0o600)
    _write_new(paths[0], certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    return MadeCertificate(
        certificate=paths[0], key=paths[1], fingerprint=fingerprint(paths[0]), names=entries
    )


def _signed(
    x509: Any, key: Any, name: str, alternatives: list[x509.GeneralName]
) -> x509.Certificate:
    from cryptography.hazmat.primitives import hashes

    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"flux serve {name}"[:64])])
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,  # it signs itself, which OpenSSL wants to be told of
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # A robot's clock may be a little behind.
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS - 1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _alternative(name: str) -> x509.GeneralName:
    x509 = _x509()
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if not _is_name(name):
        raise UsageError(
            f"--make-cert: expected a host's name or address, such as gpu.lab or 192.168.1.5, got "
            f"{name!r}"
        )
    return x509.DNSName(name)


def _is_name(name: str) -> bool:
    labels = name.removesuffix(".").removeprefix("*.").split(".")
    return (
        name.isascii()
        and len(name) <= LONGEST_NAME
        and all(
            0 < len(label) <= 63
            and label.replace("-", "").replace("_", "").isalnum()
            and not label.startswith("-")
            for label in labels
        )
    )


def _write_new(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _x509() -> Any:
    try:
        from cryptography import x509
    except ImportError as error:
        raise MissingDependencyError(
            'cryptography: TLS needs this package. Install it with: pip install "flux-runtime'
            '[serve]"'
        ) from error
    return x509
