"""`flux-runtime doctor --remote URL`: how fast a policy server answers, and what that needs."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import FluxError, UsageError

from ..chunking import ChunkFacts
from ..control.policy_source import chunk_noise
from ..deployment import DeploymentFacts
from ..engines.core import load_core
from ..realtime.remote_options import RemoteOptions
from ..remote.access import Access, access_to
from ..remote.address import is_loopback
from ..remote.client import PolicyClient
from ..remote.connection import ClockReading, Reply, Request
from ..wire.facts import PolicyFacts
from .check import Check

SECTION = "policy server"
NUM_PINGS, NUM_INFERENCES = 40, 20
BETWEEN_PINGS_S = 0.02
"""Faster ones would be held up as a flood."""
SLOW_S = 0.1
"""A round trip that most networks of a building do not need."""
INFERENCE_S = 30.0
"""The longest that an inference is waited for."""


def diagnose_server(options: RemoteOptions, accept_versions: Collection[str] = ()) -> list[Check]:
    """Connects to a server, and measures it. No robot is needed, and none moves.

    Args:
        options: of the command line.
        accept_versions: see `PolicyFacts.from_data`.

    Raises:
        UsageError: the options do not fit the address.
    """
    checks: list[Check] = []
    try:
        access = access_to(options)
        client = PolicyClient(access, reconnect_for_s=1.0, accept_versions=accept_versions)
        try:
            checks += [_found(client.facts, client.url), _encryption(access)]
            readings = _readings(client)
            checks += [_round_trip(readings), _offset(readings)]
            checks += _inference(client)
        finally:
            client.close()
    except UsageError:
        raise
    except FluxError as error:
        found = " ".join(str(error).split())
        checks.append(_check("server", found, is_ok=False, required=True))
    return checks


def _readings(client: PolicyClient) -> list[ClockReading]:
    found: list[ClockReading] = []
    for _ in range(NUM_PINGS):
        found.append(client.read_clock())
        time.sleep(BETWEEN_PINGS_S)
    return found


def _check(
    name: str, found: str, *, is_ok: bool = True, fix: str = "", required: bool = False
) -> Check:
    return Check(name=name, ok=is_ok, found=found, fix=fix, required=required, section=SECTION)


def _found(facts: PolicyFacts, url: str) -> Check:
    cameras = ", ".join(facts.manifest.cameras)
    return _check(
        "server",
        f"{url}: flux-runtime {facts.server_version}, engine {facts.engine}, robot "
        f"{facts.spec.name}, {facts.manifest.control_hz:g} Hz, {cameras}, bundle "
        f"{facts.sha256[:16]}",
    )


def _encryption(access: Access) -> Check:
    if access.context is not None:
        how = "pinned" if access.pin is not None else "signed by a known authority"
        return _check("encryption", f"TLS, certificate {how}")
    is_here = is_loopback(access.places)
    return _check(
        "encryption",
        "none" + (", and the server is on this computer" if is_here else ""),
        is_ok=is_here,
        fix="Serve with --tls-cert, and connect with wss://; 'flux-runtime serve --make-cert' "
        "makes a certificate",
    )


def _round_trip(readings: Sequence[ClockReading]) -> Check:
    p50, p95 = _percentiles([reading.round_trip_s for reading in readings])
    return _check(
        "round trip",
        f"p50 {1e3 * p50:.1f} ms, p95 {1e3 * p95:.1f} ms, of {len(readings)}",
        is_ok=p95 <= SLOW_S,
        fix="Connect both computers by cable to the same network",
    )


def _offset(readings: Sequence[ClockReading]) -> Check:
    best = min(readings, key=lambda reading: reading.round_trip_s)
    return _check(
        "clock offset",
        f"{best.offset_s:+.6f} s, within {1e3 * best.uncertainty_s:.2f} ms (of the monotonic "
        f"clocks, which need not agree)",
    )


def _inference(client: PolicyClient) -> list[Check]:
    facts = client.facts
    prompt = facts.manifest.prompt or next(iter(facts.manifest.tasks.values()), "")
    if not prompt:
        return [_check("inference", "not measured: the policy names no task", is_ok=False)]
    replies, taken_s = [], []
    for index in range(1 + NUM_INFERENCES):  # the first one may be slower than any later one
        request = _request(facts, prompt, index)
        began_s = time.monotonic()
        replies.append(client.infer(request, began_s + INFERENCE_S))
        taken_s.append(time.monotonic() - began_s)
    p50, p95 = _percentiles(taken_s[1:])
    found = f"p50 {1e3 * p50:.0f} ms, p95 {1e3 * p95:.0f} ms, of {NUM_INFERENCES}"
    stages = ", ".join(f"{name} {ms:.1f}" for name, ms in _stages(replies[1:]).items())
    return [
        _check("inference", f"{found}" + (f" (on the server, ms: {stages})" if stages else "")),
        _rtc(facts, p95),
    ]


def _rtc(facts: PolicyFacts, latency_s: float) -> Check:
    """Says which delay real-time chunking would need."""
    chunks = ChunkFacts.of_bundle(facts, engine=facts.engine, can_continue=facts.can_continue)
    rows = math.ceil((latency_s + 1 / facts.manifest.control_hz) * facts.manifest.control_hz - 1e-9)
    needed = f"needs a delay of {rows} steps at {facts.manifest.control_hz:g} Hz"
    name, obstacle = "real-time chunking", chunks.obstacle()
    if obstacle is not None:
        return _check(name, f"{needed}; {obstacle}", is_ok=False, fix=chunks.remedy())
    settings = load_core().ContinuationSettings(
        method=chunks.rtc.method,
        prefix_len=chunks.rtc.prefix_len,
        delays=list(chunks.trained_delays),
    )
    delay = settings.usable_delay(
        rows, execution_horizon=chunks.execution_horizon, action_horizon=chunks.action_horizon
    )
    trained = ", ".join(map(str, chunks.trained_delays))
    if delay is None:
        return _check(
            name,
            f"{needed}; none fits (trained: {trained}; execution horizon "
            f"{chunks.execution_horizon} of {chunks.action_horizon} steps)",
            is_ok=False,
            fix="Use a faster server or network, a lower --speed, another --execution-horizon, or "
            "--mode async",
        )
    return _check(name, f"{needed}; {delay} is usable (trained: {trained})")


def _request(facts: PolicyFacts, prompt: str, index: int) -> Request:
    """Returns a request with pictures of noise, which is as large as a real one."""
    manifest, spec = facts.manifest, facts.spec
    generator = np.random.default_rng(index)
    known = DeploymentFacts.of(manifest, facts.config).cameras
    images: dict[str, NDArray[np.uint8]] = {}
    for camera in manifest.cameras:
        size = known[camera].size if camera in known else None
        height, width = size or (manifest.image_height, manifest.image_width)
        images[camera] = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    state = np.zeros(manifest.state_dim, np.float32)
    if not spec.is_commanded_by_differences:
        middle = (np.asarray(spec.lower) + np.asarray(spec.upper)) / 2
        state[: len(middle)] = middle[: len(state)]
    return Request(
        captured_ns={"state": time.monotonic_ns()},
        state=state,
        images=images,
        prompt=prompt,
        noise=chunk_noise(0, index, (manifest.action_horizon, manifest.action_dim)),
    )


def _stages(replies: Sequence[Reply]) -> Mapping[str, float]:
    """Returns the median of each stage that every reply has, in ms."""
    names = [name for name in replies[0].times_ms if all(name in r.times_ms for r in replies)]
    return {name: float(np.median([r.times_ms[name] for r in replies])) for name in names}


def _percentiles(values_s: Sequence[float]) -> tuple[float, float]:
    p50, p95 = np.percentile(values_s, [50, 95]).tolist()
    return p50, p95
