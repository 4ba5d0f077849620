"""Who may connect: tokens, and which addresses may be used without one."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
import stat
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from flux_core.errors import UsageError

TOKEN_VARIABLE = "FLUX_TOKEN"
SHORTEST_TOKEN = 16
MOST_TOKENS = 1000
SCHEMES = ("api-key", "bearer")
NEW_TOKEN = "python -c 'import secrets; print(secrets.token_urlsafe(32))'"


class Tokens:
    """The tokens that open the server. Only their digests are kept.

    Args:
        tokens: each of at least `SHORTEST_TOKEN` characters.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self._digests = tuple(dict.fromkeys(map(_digest, tokens)))

    def __len__(self) -> int:
        return len(self._digests)

    def find(self, authorization: str) -> int | None:
        """Returns which token an Authorization header carries; None for none of them.

        Takes the same time for every token of the same length.
        """
        scheme, _, token = authorization.strip().partition(" ")
        given, found = _digest(token.strip()), None
        for number, digest in enumerate(self._digests):
            if hmac.compare_digest(given, digest):
                found = number
        return found if scheme.lower() in SCHEMES else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def read_tokens(
    file: Path | None, environment: MutableMapping[str, str]
) -> tuple[Tokens | None, list[str]]:
    """Returns the tokens of a file or of the environment, None for none, and warnings.

    The variable is removed from the environment, so that no process started from here has it.

    Raises:
        UsageError: there is a file or a variable without a usable token.
        OSError: the file cannot be read.
    """
    of_environment = environment.pop(TOKEN_VARIABLE, None)
    if file is None:
        if of_environment is None:
            return None, []
        _check_token(of_environment.strip(), f"environment variable {TOKEN_VARIABLE}")
        return Tokens([of_environment.strip()]), []
    warnings = _file_warnings(file)
    if of_environment is not None:
        warnings.append(f"{TOKEN_VARIABLE}: not used, because --token-file {file} is given")
    return Tokens(_tokens_in(file)), warnings


def _tokens_in(file: Path) -> list[str]:
    tokens: list[str] = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{file}: expected a text file with one token per line, got other bytes. Make a token "
            f"with: {NEW_TOKEN}"
        ) from error
    for number, line in enumerate(lines, 1):
        token = line.strip()
        if token and not token.startswith("#"):
            _check_token(token, f"{file}: line {number}")
            tokens.append(token)
    if not 0 < len(tokens) <= MOST_TOKENS:
        raise UsageError(
            f"{file}: expected 1 to {MOST_TOKENS} tokens, one per line, got {len(tokens)}. Make a "
            f"token with: {NEW_TOKEN}"
        )
    return tokens


def _check_token(token: str, where: str) -> None:
    """Refuses a token that can be guessed or that no header can carry. Never shows it."""
    if len(token) < SHORTEST_TOKEN:
        raise UsageError(
            f"{where}: expected a token of at least {SHORTEST_TOKEN} characters, got "
            f"{len(token)}. Make one with: {NEW_TOKEN}"
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(
            f"{where}: expected a token of printable ASCII characters without spaces, got other "
            f"characters. Make one with: {NEW_TOKEN}"
        )


def _file_warnings(file: Path) -> list[str]:
    mode = file.stat().st_mode
    if stat.S_ISREG(mode) and mode & (stat.S_IRGRP | stat.S_IROTH):
        return [f"{file}: other users of this machine can read the tokens. Run: chmod 600 {file}"]
    return []


@dataclass(frozen=True, kw_only=True)
class ListenAddress:
    """Where the server listens.

    Attributes:
        host: a numeric address.
        port: 0 for any free one.
        family: of the address.
    """

    host: str
    port: int
    family: socket.AddressFamily

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.host.partition("%")[0]).is_loopback

    def text(self, port: int | None = None) -> str:
        """Returns HOST:PORT as a URL has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port if port is None else port}"


def resolve(listen: str) -> ListenAddress:
    """Returns the address of `--listen HOST:PORT`. A name is looked up once, here.

    Raises:
        UsageError: it is not HOST:PORT, or there is no such host.
    """
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise UsageError(
            f"--listen: expected HOST:PORT, such as 127.0.0.1:8000 or [::1]:8000, got {listen!r}"
        )
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"--listen: expected an address of this machine, got {host!r} ({error}). Give a "
            f"numeric address"
        ) from error
    # Any address that is not loopback counts: a name must not be half open.
    found.sort(key=lambda entry: (_is_loopback(entry), entry[0] != socket.AF_INET))
    family, address = found[0][0], found[0][4]
    return ListenAddress(host=str(address[0]), port=int(port), family=family)


def _is_loopback(entry: tuple[object, object, object, object, tuple[object, ...]]) -> bool:
    return ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback


def check_exposure(
    address: ListenAddress, *, has_token: bool, has_tls: bool, is_insecure: bool
) -> list[str]:
    """Refuses to listen beyond this machine without token and TLS; returns what is open.

    Raises:
        UsageError: it would be open to anyone, and `--insecure` is not given.
    """
    if address.is_loopback:
        return []
    missing: list[tuple[str, str, str]] = []
    if not has_token:
        missing.append(
            (
                "--token-file F",
                f"anyone who reaches {address.text()} may use the policy, because there is no "
                f"token",
                "a token",
            )
        )
    if not has_tls:
        missing.append(
            (
                "--tls-cert F --tls-key F ('flux-runtime serve --make-cert' makes both)",
                f"images, states{' and the token' if has_token else ''} pass the network in plain "
                f"text, because there is no TLS",
                "TLS",
            )
        )
    if missing and not is_insecure:
        raise UsageError(
            f"--listen {address.text()}: expected "
            f"{' and '.join(what for _, _, what in missing)} for an address that other machines "
            f"can reach, got none. Add {' and '.join(option for option, _, _ in missing)}, listen "
            f"at 127.0.0.1, or add --insecure to open it all the same"
        )
    return [f"INSECURE: {text}" for _, text, _ in missing]
