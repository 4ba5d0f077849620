"""Where a policy server is."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from flux_core.errors import UsageError

DEFAULT_PORT = 8000
OPTION = "--remote"
SocketAddress = tuple[int, tuple[object, ...]]
"""A family of addresses, and an address of it."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """The address of a policy server.

    Attributes:
        host: its name or address.
        port: of TCP.
        is_encrypted: whether the connection uses TLS.
    """

    host: str
    port: int
    is_encrypted: bool

    @property
    def authority(self) -> str:
        """HOST:PORT."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as the user writes it."""
        return f"{'wss' if self.is_encrypted else 'ws'}://{self.authority}"

    def resolved(self) -> tuple[SocketAddress, ...]:
        """Looks the host up, which may take long.

        Raises:
            OSError: it is unknown.
        """
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        return tuple((family, address) for family, _, _, _, address in found)


def parse_address(text: str) -> Address:
    """Reads ws://HOST[:PORT] or wss://HOST[:PORT].

    Raises:
        UsageError: it is something else.
    """
    expected = f"{OPTION}: expected ws://HOST:PORT or wss://HOST:PORT"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{expected}, got {_shown(text)} ({error})") from error
    if parts.username is not None or parts.password is not None:  # and it is not shown
        raise UsageError(
            f"{expected}, got one with a name or a password. Give the token with --token-file F"
        )
    has_more = parts.path not in ("", "/") or parts.query or parts.fragment
    if parts.scheme not in ("ws", "wss") or not host or has_more:
        hint = "" if "://" in text else f". Write ws://{text} or wss://{text}"
        raise UsageError(f"{expected}, got {_shown(text)}{hint}")
    return Address(host=host, port=port or DEFAULT_PORT, is_encrypted=parts.scheme == "wss")


def is_loopback(found: tuple[SocketAddress, ...]) -> bool:
    """Whether all addresses of a host are of this computer alone."""
    return all(ipaddress.ip_address(str(address[0])).is_loopback for _, address in found)


def _shown(text: str) -> str:
    return ascii(text[:100])
