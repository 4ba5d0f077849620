"""How a server is reached: the token that opens it, and the certificate that it must have."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import ssl
import stat
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

from flux_core.errors import UsageError

from ..realtime.remote_options import RemoteOptions
from .address import Address, SocketAddress, is_loopback, parse_address
from .errors import ServerError

logger = logging.getLogger("flux.runtime")

TOKEN_VARIABLE = "FLUX_TOKEN"
_PIN_DIGITS = 64


@dataclass(frozen=True, kw_only=True)
class Access:
    """How a server is reached.

    Attributes:
        address: of the server.
        places: where that is; looked up once, because the network may be down later.
        token: opens it; None without one.
        context: of TLS; None without.
        pin: the SHA-256 of the certificate that the server must have; None for any that `context`
            accepts.
    """

    address: Address
    places: tuple[SocketAddress, ...]
    token: str | None = field(default=None, repr=False)
    context: ssl.SSLContext | None = field(default=None, repr=False)
    pin: bytes | None = None

    def check_certificate(self, certificate: bytes | None) -> None:
        """Refuses a server that does not have the pinned certificate.

        Args:
            certificate: of the server, as DER.

        Raises:
            ServerError: it is another one.
        """
        if self.pin is None:
            return
        found = hashlib.sha256(certificate or b"").digest()
        if found != self.pin:
            raise ServerError(
                f"{self.address.url}: --pin: expected the certificate {self.pin.hex()}, got "
                f"{found.hex()}. If the server has a new one, ask its operator for the fingerprint",
                "refused",
            )


def access_to(options: RemoteOptions, environment: MutableMapping[str, str] = os.environ) -> Access:
    """Returns how the server of the options is reached.

    Args:
        options: of the command line.
        environment: may hold the token; it is removed, so that no process started from here has it.

    Raises:
        UsageError: the options do not fit the address, or would show the token to others.
        ServerError: the host is unknown.
    """
    address = parse_address(options.url)
    token = _token(options.token_file, environment)
    context, pin = None, None
    if address.is_encrypted:
        pin = None if options.pin is None else parse_pin(options.pin)
        context = _context(options.ca_file, has_pin=pin is not None)
    elif options.pin is not None or options.ca_file is not None:
        option = "--pin" if options.pin is not None else "--ca-file"
        raise UsageError(f"{option}: expected a wss:// address, got {address.url}. Leave it out")
    try:
        places = address.resolved()
    except (OSError, UnicodeError) as error:
        raise ServerError(f"{address.url}: the host cannot be found ({error})") from error
    if not address.is_encrypted and not is_loopback(places):
        _check_plain(address, token, is_allowed=options.insecure)
    return Access(address=address, places=places, token=token, context=context, pin=pin)


def parse_pin(text: str) -> bytes:
    """Reads a fingerprint: hexadecimal digits, also with colons between them or 'sha256:' before.

    Raises:
        UsageError: it is something else.
    """
    digits = re.sub(r"^sha-?256[:=]", "", text.strip().lower()).replace(":", "")
    if not re.fullmatch(rf"[0-9a-f]{{{_PIN_DIGITS}}}", digits):
        raise UsageError(
            f"--pin: expected the {_PIN_DIGITS} hexadecimal digits of a SHA-256, got "
            f"{text[:100]!a}. 'flux-runtime serve' prints the fingerprint of its certificate"
        )
    return bytes.fromhex(digits)


def _check_plain(address: Address, token: str | None, *, is_allowed: bool) -> None:
    """Refuses an unencrypted connection to another computer."""
    if not is_allowed:
        raise UsageError(
            f"--remote {address.url}: expected wss://, because anybody on the way could read the "
            f"pictures and answer for the policy. Encrypt the connection, or add --insecure in a "
            f"network where nobody else is"
        )
    if token is not None:
        raise UsageError(
            f"--remote {address.url}: expected wss:// with a token, because anybody on the way "
            f"could read it. Encrypt the connection, or leave out the token (--token-file, "
            f"{TOKEN_VARIABLE})"
        )


def _context(ca_file: Path | None, *, has_pin: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"--ca-file {ca_file}: expected certificates in PEM form, got none ({error})"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if has_pin and ca_file is None:  # the pin says more than any authority
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _token(file: Path | None, environment: MutableMapping[str, str]) -> str | None:
    """Returns the first token of a file, or that of the environment."""
    of_environment = environment.pop(TOKEN_VARIABLE, None)
    if file is None:
        return None if of_environment is None else _checked(of_environment, TOKEN_VARIABLE)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        mode = file.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"--token-file {file}: cannot be read ({reason})") from error
    if stat.S_ISREG(mode) and mode & (stat.S_IRGRP | stat.S_IROTH):
        logger.warning(
            "--token-file %s: other users of this computer can read it. Run: chmod 600 %s",
            file,
            file,
        )
    tokens = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    if not tokens:
        raise UsageError(f"--token-file {file}: expected a token, got none")
    return _checked(tokens[0], f"--token-file {file}")


def _checked(token: str, where: str) -> str:
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(
            f"{where}: expected a token of printable ASCII characters without spaces, got another "
            f"text"
        )
    return token
