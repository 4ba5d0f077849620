"""`flux-runtime check`: verifies a bundle and replays its golden on this machine and engine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flux_core.bundle import Bundle

from .engine import choose_engine, engine_tolerance, open_flow_policy
from .engine_names import AUTO
from .golden import replay_golden


def check(directory: Path, *, engine: str = AUTO, num_threads: int = 1) -> dict[str, object]:
    """Opens the bundle with all its checks, replays the golden, and returns the JSON report.

    Raises:
        BundleError: the bundle is damaged or its graphs cannot be loaded.
        MissingDependencyError: this machine lacks something that the engine needs.
    """
    bundle = Bundle.open(directory)
    choice = choose_engine(engine, bundle.manifest.precision)
    policy = open_flow_policy(bundle, engine=choice.name, num_threads=num_threads)
    tolerance = engine_tolerance(bundle.manifest, choice.name)
    result = replay_golden(bundle, policy, tolerance=tolerance)
    return {
        "ok": result.ok,
        "bundle": str(directory),
        "engine": choice.name,
        "engine_reason": choice.reason,
        # JSON has no infinity: null says that the answer was not finite.
        "max_abs_error": result.max_abs_error if math.isfinite(result.max_abs_error) else None,
        "cosine": result.cosine,
        "tolerance": result.tolerance,
    }


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
