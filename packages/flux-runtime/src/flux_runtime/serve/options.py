"""The options of `flux-runtime serve`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..arguments import add_accept_version, add_engine, count, duration, natural, threads
from ..engines.names import AUTO
from .events import LogFormat

MIB = 2**20
DEFAULT_LISTEN = "127.0.0.1:8000"
"""The port of openpi's server."""
DEFAULT_METRICS_PORT = 9108

EXAMPLE = """  flux-runtime serve my_bundle
  flux-runtime serve --make-cert gpu.lab 192.168.1.20
  flux-runtime serve my_bundle --listen 0.0.0.0:8000 --token-file tokens.txt \\
    --tls-cert flux-serve.crt --tls-key flux-serve.key
on the robot's computer, with the fingerprint that the server prints:
  flux-runtime run --robot my-real-arm --remote wss://gpu.lab:8000 --token-file token.txt \\
    --pin FINGERPRINT"""


@dataclass(frozen=True, kw_only=True)
class ServeLimits:
    """What clients may take of the server.

    Attributes:
        max_connections: open at a time.
        max_connections_per_client: of one address and token.
        max_message_bytes: of one message.
        max_pixels: of one camera's picture, on average of a request's.
        max_bytes: of all messages that are arriving, waiting or being inferred.
        max_waiting: requests that wait, one of each client.
        max_rate: requests per second of one connection that get no chunk.
        handshake_timeout_s: for TLS, and again for the WebSocket's handshake.
        message_timeout_s: from the first to the last byte of a message.
        send_timeout_s: until a client has accepted an answer.
        idle_timeout_s: without any request.
    """

    max_connections: int = 64
    max_connections_per_client: int = 32
    max_message_bytes: int = 32 * MIB
    max_pixels: int = 2_100_000
    max_bytes: int = 512 * MIB
    max_waiting: int = 64
    max_rate: float = 100.0
    handshake_timeout_s: float = 5.0
    message_timeout_s: float = 10.0
    send_timeout_s: float = 5.0
    idle_timeout_s: float = 1800.0


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The options of the command line; see `flux-runtime serve --help`."""

    bundle: Path
    listen: str = DEFAULT_LISTEN
    token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure: bool = False
    engine: str = AUTO
    threads: int = 1
    accept_versions: Sequence[str] = ()
    tasks: Sequence[str] = ()
    keys: Path | None = None
    seed: int | None = None
    metrics_port: int = DEFAULT_METRICS_PORT
    log_format: LogFormat = "text"
    drain_for_s: float = 10.0
    limits: ServeLimits = field(default_factory=ServeLimits)
    json: bool = False
    debug: bool = False


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Adds the options; `serve_options_from` reads them."""
    add = parser.add_argument
    bundle = add("bundle", type=Path, metavar="BUNDLE", help="the bundle's directory")
    add(
        "--listen",
        default=DEFAULT_LISTEN,
        metavar="HOST:PORT",
        help=f"where to listen; port 0 for any free one (default: {DEFAULT_LISTEN}, which only "
        "this machine reaches; any other address needs --token-file and --tls-cert)",
    )
    _add_security(parser, bundle)
    add_engine(parser)
    add(
        "--threads",
        type=threads,
        default=1,
        metavar="N",
        help="CPU threads for the network (default: 1)",
    )
    add_accept_version(parser)
    add(
        "--task",
        action="append",
        default=[],
        metavar="T",
        dest="tasks",
        help="a task that will be asked for; may be repeated. With it, the network is opened for "
        "prompts no longer than these and the bundle's, which may be faster (default: any task)",
    )
    add(
        "--keys",
        type=Path,
        metavar="FILE",
        help="a .json or .yaml file that says which keys of an openpi client's observations are "
        "what: {state: [KEY, ...], images: {CAMERA: KEY}, prompt: KEY} (default: found by name)",
    )
    add(
        "--seed",
        type=natural,
        metavar="S",
        help="seed of the noise, so that answers can be repeated: request N of a connection gets "
        "the noise of (S, N), unless it brings its own (default: another one at each start)",
    )
    _add_operations(parser)
    _add_limits(parser)


def _add_security(parser: argparse.ArgumentParser, bundle: argparse.Action) -> None:
    add = parser.add_argument
    add(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="tokens that open the server, one per line; the variable FLUX_TOKEN holds one, too",
    )
    add("--tls-cert", type=Path, metavar="FILE", help="the server's certificate (PEM)")
    add("--tls-key", type=Path, metavar="FILE", help="its key (PEM)")
    add(
        "--insecure",
        action="store_true",
        help="listen beyond this machine without a token or without TLS",
    )

    class MakeCertificate(argparse.Action):
        """Makes BUNDLE optional; with nargs='?' it would have to come before the options."""

        def __call__(self, _: Any, namespace: argparse.Namespace, values: Any, __: Any = None):
            bundle.required = False
            setattr(namespace, self.dest, values)

    add(
        "--make-cert",
        nargs="*",
        action=MakeCertificate,
        metavar="NAME",
        help="make a certificate for these names and addresses of this machine, as "
        "flux-serve.crt and flux-serve.key, print its fingerprint, and exit",
    )
    add(
        "--cert-dir",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where --make-cert writes to (default: the current folder)",
    )


def _add_operations(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--metrics-port",
        type=_port,
        default=DEFAULT_METRICS_PORT,
        metavar="PORT",
        help=f"answer Prometheus at http://127.0.0.1:PORT/metrics; 0 for no metrics, 'any' for any "
        f"free port (default: {DEFAULT_METRICS_PORT})",
    )
    add(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="of the log on stderr: one line per event (default: text)",
    )
    add(
        "--drain-for",
        type=duration,
        default=10.0,
        metavar="SECONDS",
        dest="drain_for_s",
        help="after SIGTERM or Ctrl-C, how long to go on answering what was asked (default: 10)",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    default = ServeLimits()
    group = parser.add_argument_group("limits")

    def add(name: str, kind: Any, value: float, text: str, dest: str = "") -> None:
        group.add_argument(
            name,
            type=kind,
            default=value,
            metavar={count: "N", duration: "SECONDS", _rate: "HZ"}.get(kind, "X"),
            help=f"{text} (default: {value:g})",
            dest=dest or name.removeprefix("--").replace("-", "_"),
        )

    add("--max-connections", count, default.max_connections, "open at a time")
    add(
        "--max-connections-per-client",
        count,
        default.max_connections_per_client,
        "open at a time with the same address and token",
    )
    add("--max-message-mb", count, default.max_message_bytes // MIB, "MiB of one message")
    add(
        "--max-megapixels",
        _megapixels,
        default.max_pixels / 1e6,
        "million pixels of a camera's picture; the inference of others waits while it is decoded "
        "and scaled down",
    )
    add(
        "--max-bytes-mb",
        count,
        default.max_bytes // MIB,
        "MiB of all messages that are arriving or waiting; half of it per client",
    )
    add("--max-waiting", count, default.max_waiting, "requests that may wait, one per client")
    add(
        "--max-rate",
        _rate,
        default.max_rate,
        "requests per second of one connection that get no chunk, because they are wrong or do "
        "not wait for the last answer; one that sends more is not read for a while",
    )
    for name, value, text in (
        ("handshake", default.handshake_timeout_s, "for a client to open a connection"),
        ("message", default.message_timeout_s, "for a message that has begun to be complete"),
        ("send", default.send_timeout_s, "for a client to accept an answer"),
        ("idle", default.idle_timeout_s, "without a request until a connection is closed"),
    ):
        add(f"--{name}-timeout", duration, value, text, f"{name}_timeout_s")


def serve_options_from(args: argparse.Namespace) -> ServeOptions:
    """Returns the options of a parsed command line."""
    limits = ServeLimits(
        max_connections=args.max_connections,
        max_connections_per_client=args.max_connections_per_client,
        max_message_bytes=args.max_message_mb * MIB,
        max_pixels=round(args.max_megapixels * 1e6),
        max_bytes=args.max_bytes_mb * MIB,
        max_waiting=args.max_waiting,
        max_rate=args.max_rate,
        handshake_timeout_s=args.handshake_timeout_s,
        message_timeout_s=args.message_timeout_s,
        send_timeout_s=args.send_timeout_s,
        idle_timeout_s=args.idle_timeout_s,
    )
    names = set(ServeOptions.__dataclass_fields__) - {"limits", "debug"}
    given = {name: getattr(args, name) for name in names}
    return ServeOptions(**given, limits=limits, debug=getattr(args, "debug", False))


def _rate(value: str) -> float:
    rate = float(value)
    if not 0.1 <= rate <= 1e6:
        raise argparse.ArgumentTypeError(f"expected 0.1 to 1000000 per second, got {value}")
    return rate


def _megapixels(value: str) -> float:
    number = float(value)
    if not 0.01 <= number <= 16.7:
        raise argparse.ArgumentTypeError(f"expected 0.01 to 16.7 million, got {value}")
    return number


ANY_PORT = -1


def _port(value: str) -> int:
    if value == "any":
        return ANY_PORT
    port = natural(value)
    if port > 65535:
        raise argparse.ArgumentTypeError(f"expected a port of at most 65535, got {port}")
    return port
