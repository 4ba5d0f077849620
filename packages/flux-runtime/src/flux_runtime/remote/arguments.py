"""The command-line arguments of a policy on another computer."""

from __future__ import annotations

import argparse
from pathlib import Path

from flux_core.errors import UsageError

from ..realtime.remote_options import DEFAULT_RECONNECT_FOR_S, RemoteOptions
from .address import DEFAULT_PORT

_LONGEST_S = 600.0
_BESIDE = {
    "token_file": "--token-file",
    "pin": "--pin",
    "ca_file": "--ca-file",
    "insecure": "--insecure",
    "jpeg": "--jpeg",
    "reconnect_for_s": "--reconnect-for",
}


def add_remote_options(parser: argparse.ArgumentParser, *, is_run: bool = True) -> None:
    """Adds the options that `remote_options_from` reads.

    Args:
        parser: of a command.
        is_run: whether the command drives a robot.
    """
    group = parser.add_argument_group("a policy on another computer")
    add = group.add_argument
    add(
        "--remote",
        metavar="URL",
        help="the policy of a 'flux-runtime serve' on another computer, instead of a bundle: "
        f"ws://HOST:PORT or wss://HOST:PORT (default port: {DEFAULT_PORT}). The robot holds while "
        "the server is away",
    )
    add(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="a file whose first line, apart from comments (#), is the server's token (default: "
        "the environment variable FLUX_TOKEN)",
    )
    add(
        "--pin",
        metavar="SHA256",
        help="the fingerprint of the server's certificate, as 'flux-runtime serve' prints it; any "
        "other certificate is refused",
    )
    add(
        "--ca-file",
        type=Path,
        metavar="FILE",
        help="certificates, one of which must have signed the server's (default: the system's)",
    )
    add(
        "--insecure",
        action="store_true",
        help="allow an unencrypted connection to another computer: everybody on the way can read "
        "the pictures, and answer for the policy",
    )
    if not is_run:
        return
    add(
        "--jpeg",
        type=quality,
        metavar="QUALITY",
        help="send pictures as JPEG of this quality, 1 to 100, over a slow network (default: as "
        "they are, so that chunks are the same as on this computer)",
    )
    add(
        "--reconnect-for",
        type=patience,
        metavar="SECONDS",
        dest="reconnect_for_s",
        help="how long the robot holds while the server is away, and goes on by itself if it comes "
        f"back; after that it is stopped (default: {DEFAULT_RECONNECT_FOR_S:g})",
    )


def remote_options_from(args: argparse.Namespace) -> RemoteOptions | None:
    """Returns what the options ask for; None without `--remote`.

    Raises:
        UsageError: an option is for a server, and there is none.
    """
    given = {name: getattr(args, name, None) for name in _BESIDE}
    found = {name: value for name, value in given.items() if value not in (None, False)}
    if args.remote is None:
        for name in found:
            raise UsageError(f"{_BESIDE[name]}: expected --remote URL beside it, got none. Add it")
        return None
    return RemoteOptions(url=args.remote, **found)


def quality(text: str) -> int:
    """Parses the quality of a JPEG file."""
    value = int(text)
    if not 1 <= value <= 100:
        raise argparse.ArgumentTypeError(f"expected 1 to 100, got {value}")
    return value


def patience(text: str) -> float:
    """Parses for how long a server may be away."""
    value = float(text)
    if not 0 < value <= _LONGEST_S:
        raise argparse.ArgumentTypeError(f"expected above 0 and at most {_LONGEST_S:g}, got {text}")
    return value
