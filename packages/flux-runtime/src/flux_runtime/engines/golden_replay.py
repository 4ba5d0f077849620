"""Replays a bundle's golden on this machine: its inputs must reproduce the reference's actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from flux_core.bundle import Bundle
from flux_core.errors import BundleError

from .graph_inputs import user_inputs


class InferencePolicy(Protocol):
    """The part of `flux_runtime._core.FlowPolicy` that a replay uses."""

    def infer(
        self, inputs: dict[str, NDArray[Any]], noise: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Returns (H, A) normalised actions."""
        ...


@dataclass(frozen=True, kw_only=True)
class GoldenResult:
    """How far this machine's actions are from the reference's.

    Attributes:
        max_abs_error: largest error of the normalised actions; infinite if any is not finite.
        cosine: cosine similarity of the two sets of actions.
        tolerance: largest error that passes.
    """

    max_abs_error: float
    cosine: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether the bundle may drive a robot from this machine."""
        return self.max_abs_error <= self.tolerance


def replay_golden(
    bundle: Bundle,
    policy: InferencePolicy,
    *,
    tolerance: float | None = None,
) -> GoldenResult:
    """Runs the golden's inputs through `policy` and compares the actions.

    Args:
        bundle: the bundle that the policy was opened from.
        policy: an engine that runs the bundle's graphs.
        tolerance: largest error that passes; None for the bundle's own.

    Raises:
        BundleError: the policy rejects the golden's inputs.
    """
    tensors = bundle.golden()
    inputs = {name: tensors[f"input.{name}"] for name in user_inputs(bundle.manifest)}
    noise = cast(NDArray[np.float32], tensors["input.noise"])  # `infer` refuses any other
    try:
        actions = policy.infer(inputs, noise)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise BundleError(
            f"golden.safetensors: the engine rejects the inputs ({reason}). Export the bundle "
            f"again."
        ) from error
    return compare_actions(actions, tensors, tolerance or bundle.manifest.tolerance)


def compare_actions(
    actions: NDArray[np.float32], golden: Mapping[str, NDArray[Any]], tolerance: float
) -> GoldenResult:
    """Compares (H, A) actions with the golden's `output.actions`."""
    reference = golden["output.actions"].astype(np.float64).reshape(-1)
    found = np.asarray(actions, np.float64).reshape(-1)
    if found.shape != reference.shape or not np.isfinite(found).all():
        return GoldenResult(max_abs_error=float("inf"), cosine=0.0, tolerance=tolerance)
    lengths = float(np.linalg.norm(found) * np.linalg.norm(reference))
    return GoldenResult(
        max_abs_error=float(np.abs(found - reference).max()),
        cosine=float(found @ reference) / lengths if lengths else float((found == reference).all()),
        tolerance=tolerance,
    )
