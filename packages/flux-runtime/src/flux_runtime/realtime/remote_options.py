"""What a user may choose about a policy on another computer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_RECONNECT_FOR_S = 10.0


@dataclass(frozen=True, kw_only=True)
class RemoteOptions:
    """The options of `flux-runtime run` beside `--remote`.

    Attributes:
        url: of the server, as ws://HOST:PORT or wss://HOST:PORT.
        token_file: holds the token; None for the environment's, or none.
        pin: the SHA-256 of the server's certificate, in hexadecimal digits; None: not pinned.
        ca_file: the certificates that may have signed the server's; None for those of the system.
        insecure: whether a connection to another computer may be unencrypted.
        jpeg: the quality, 1 to 100, of pictures sent as JPEG; None: they are sent as they are.
        reconnect_for_s: how long the server may be away before the robot is stopped.
    """

    url: str
    token_file: Path | None = None
    pin: str | None = None
    ca_file: Path | None = None
    insecure: bool = False
    jpeg: int | None = None
    reconnect_for_s: float = DEFAULT_RECONNECT_FOR_S
