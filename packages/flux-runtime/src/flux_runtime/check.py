"""`flux-runtime check`: verifies a bundle and replays its golden on this machine."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from flux_core.bundle import Bundle

from .engines.golden_replay import GoldenResult, replay_golden
from .engines.names import AUTO
from .engines.opening import choose_engine, engine_tolerance, open_flow_policy


def check(
    directory: Path,
    *,
    engine: str = AUTO,
    num_threads: int = 1,
    accept_versions: Collection[str] = (),
) -> dict[str, object]:
    """Opens and verifies the bundle, replays its golden, and returns the JSON report.

    Replays every pair of graphs, including those for shorter prompts. `max_abs_error` and `cosine`
    come from the worst pair; `graphs` lists all pairs by their number of prompt tokens.

    Raises:
        BundleError: the bundle is damaged or its graphs cannot be loaded.
        MissingDependencyError: this machine lacks something that the engine needs.
    """
    bundle = Bundle.open(directory, accept_versions=accept_versions)
    choice = choose_engine(engine, bundle.manifest.precision, bundle)
    tolerance = engine_tolerance(bundle.manifest, choice.name)
    results: dict[int, GoldenResult] = {}
    for tokens in (None, *bundle.manifest.prompt_buckets):
        pair = bundle.with_bucket(tokens)
        policy = open_flow_policy(pair, engine=choice.name, num_threads=num_threads)
        results[pair.manifest.max_prompt_tokens] = replay_golden(pair, policy, tolerance=tolerance)
    worst = max(results.values(), key=lambda result: result.max_abs_error)
    return {
        "ok": worst.ok,
        "bundle": str(directory),
        "engine": choice.name,
        "engine_reason": choice.reason,
        **_figures(worst),
        "tolerance": worst.tolerance,
        "graphs": {tokens: _figures(result) for tokens, result in results.items()},
    }


def _figures(result: GoldenResult) -> dict[str, float | None]:
    # JSON has no infinity: null means that the answer was not finite.
    error = result.max_abs_error if math.isfinite(result.max_abs_error) else None
    return {"max_abs_error": error, "cosine": result.cosine}


def format_check(report: Mapping[str, Any]) -> str:
    """Returns the report as text."""
    verdict = (
        "ok: this machine reproduces the reference"
        if report["ok"]
        else "FAILED: do not drive a robot with this bundle on this machine"
    )
    error = report["max_abs_error"]
    return "\n".join(
        [
            f"bundle         {report['bundle']}",
            f"engine         {report['engine']} ({report['engine_reason']})",
            f"cosine         {report['cosine']:.9f}",
            f"max abs error  {'not finite' if error is None else f'{error:.3g}'} (allowed "
            f"{report['tolerance']:g})",
            verdict,
        ]
    )
