"""The command `flux-runtime serve`."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import ssl
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from flux_core.command_line import print_json
from flux_core.errors import MissingDependencyError, UsageError

from ..wire.openpi import KeyMap
from .access import ListenAddress, Tokens, check_exposure, read_tokens, resolve
from .encryption import fingerprint, make_certificate, server_context
from .events import EventLog
from .metrics import Metrics
from .options import ANY_PORT, ServeOptions
from .policy import PolicyRequest, ServedPolicy

SWITCH_S = 0.001
"""After so long, Python code of the inference thread lets the network's thread go on."""
NEEDED = ("websockets", "msgpack")
PROMPT_LOGGER = "flux.prompts"


def make_cert(names: Sequence[str], directory: Path, *, is_json: bool) -> None:
    """Makes a certificate and prints how to use it.

    Raises:
        FluxError: it cannot be made.
    """
    made = make_certificate(names, directory)
    if is_json:
        print_json(
            {
                "certificate": str(made.certificate),
                "key": str(made.key),
                "fingerprint": made.fingerprint,
                "names": list(made.names),
            }
        )
        return
    print(f"certificate  {made.certificate}")
    print(f"key          {made.key} (keep it secret)")
    print(f"valid for    {', '.join(made.names)}")
    print(f"fingerprint  {made.fingerprint}")
    print(f"on the robot: flux-runtime run --remote wss://HOST:PORT --pin {made.fingerprint}")
    print(f"openpi-client: SSL_CERT_FILE={made.certificate.name} with a copy of the certificate")


def serve(options: ServeOptions) -> bool:
    """Serves a policy until SIGTERM or SIGINT; returns whether everything asked was answered.

    Raises:
        FluxError: it cannot be served; nothing was opened.
    """
    for package in NEEDED:
        if find_spec(package) is None:
            raise MissingDependencyError(
                f"serve: expected {package}, got none. Install it with: pip install "
                f'"flux-runtime[serve]"'
            )
    events = EventLog(sys.stderr, options.log_format)
    metrics = Metrics()
    address = resolve(options.listen)
    tokens, warnings = read_tokens(options.token_file, os.environ)
    if (options.tls_cert is None) != (options.tls_key is None):
        raise UsageError("expected --tls-cert and --tls-key together, got one of them")
    warnings += check_exposure(
        address,
        has_token=tokens is not None,
        has_tls=options.tls_cert is not None,
        is_insecure=options.insecure,
    )
    tls = None
    if options.tls_cert is not None and options.tls_key is not None:

        def on_failure(kind: str) -> None:
            metrics.handshake_refused(kind)
            events.write("connection_refused", kind=kind)

        tls = server_context(options.tls_cert, options.tls_key, on_failure)
    for warning in warnings:
        print(f"flux-runtime serve: warning: {warning}", file=sys.stderr)
    try:
        return asyncio.run(_serve(options, address, tokens, tls, metrics, events))
    finally:
        events.close()


async def _serve(
    options: ServeOptions,
    address: ListenAddress,
    tokens: Tokens | None,
    tls: ssl.SSLContext | None,
    metrics: Metrics,
    events: EventLog,
) -> bool:
    from .server import InferenceServer, ServerSettings

    policy = ServedPolicy.open(
        PolicyRequest(
            bundle=options.bundle,
            engine=options.engine,
            threads=options.threads,
            accept_versions=options.accept_versions,
            tasks=options.tasks,
        )
    )
    manifest = policy.facts.manifest
    keys = KeyMap.default(manifest) if options.keys is None else KeyMap.read(options.keys, manifest)
    settings = ServerSettings(
        address=address,
        tokens=tokens,
        tls=tls,
        limits=options.limits,
        keys=keys,
        seed=secrets.randbits(63) if options.seed is None else options.seed,
        drain_for_s=options.drain_for_s,
        shows_tracebacks=options.debug,
    )
    server = InferenceServer(policy, settings, metrics, events)
    try:
        listener = server.listen()
    except OSError as error:
        raise UsageError(
            f"--listen: expected a free address of this machine, got {address.text()} "
            f"({error.strerror}). Name another one"
        ) from error
    port = int(listener.getsockname()[1])
    metrics_url = None
    if options.metrics_port:
        wanted = 0 if options.metrics_port == ANY_PORT else options.metrics_port
        metrics_url = f"http://127.0.0.1:{metrics.publish(wanted)}/metrics"
    sys.setswitchinterval(SWITCH_S)
    # A prompt that would be cut is refused; its text does not belong in the log.
    logging.getLogger(PROMPT_LOGGER).setLevel(logging.ERROR)
    gc.collect()
    gc.freeze()  # what is there now stays: later collections need not look at it
    report = _report(options, address, port, policy, metrics_url, tokens is not None)

    def on_ready() -> None:
        print_json(report) if options.json else _print(report, policy)
        sys.stdout.flush()

    return await server.run(listener, on_ready)


def _report(
    options: ServeOptions,
    address: ListenAddress,
    port: int,
    policy: ServedPolicy,
    metrics_url: str | None,
    has_token: bool,
) -> dict[str, object]:
    facts, certificate = policy.facts, options.tls_cert
    return {
        "url": f"{'ws' if certificate is None else 'wss'}://{address.text(port)}",
        "needs_token": has_token,
        "only_this_machine": address.is_loopback,
        "fingerprint": None if certificate is None else fingerprint(certificate),
        "metrics_url": metrics_url,
        "bundle": str(options.bundle),
        "sha256": facts.sha256,
        "robot": facts.spec.name,
        "engine": facts.engine,
        "engine_reason": policy.reason,
        "can_continue": facts.can_continue,
        "golden_max_abs_error": policy.golden.max_abs_error,
        "pid": os.getpid(),
    }


def _print(report: dict[str, object], policy: ServedPolicy) -> None:
    who = "this machine" if report["only_this_machine"] else "any machine"
    with_token = " with a token" if report["needs_token"] else " without a token"
    print(
        f"policy       {report['bundle']} for {report['robot']}, golden reproduced within "
        f"{policy.golden.max_abs_error:.2g}"
    )
    print(f"engine       {report['engine']} ({report['engine_reason']})")
    print(f"address      {report['url']}, openpi's protocol and flux.v1")
    print(f"who          {who}{with_token}")
    if report["fingerprint"]:
        print(f"fingerprint  {report['fingerprint']}")
    print(f"metrics      {report['metrics_url'] or 'none'}")
