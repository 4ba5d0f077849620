"""Opens a written bundle and compares it with PyTorch, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.bundle import Bundle
from flux_core.errors import ExportError

from .precision.moved_actions import MovedActions
from .sessions import GraphSession, open_session, verifying_engine

PREFIX_MASK = "prefix_pad_masks"

TOLERANCE = 1e-4
"""Largest absolute difference of normalised actions in float32. For keys and values, which may be
larger than 1, it is relative to the largest one."""
OWN_ERROR_FACTOR = 3.0
"""An engine's error against float32 may be this many times PyTorch's own error in the same
precision: a different order of summation rounds differently, but no worse."""
LARGEST_TOLERANCE = 0.05
"""A precision is refused if its tolerance for actions, relative to the largest action (or to 1, if
all are smaller), is larger than this."""
LARGEST_FLOAT8_TOLERANCE = 0.15
"""The same for fp8, whose products have a 3-bit mantissa instead of bfloat16's 7 bits: the shipped
policy's own actions move by 0.014 to 0.041 over 8 frames of its demonstrations, and in simulation
it succeeds as often as in float32."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """How far the engine's outputs are from PyTorch's in float32.

    Attributes:
        engine: the engine that ran the graphs.
        max_abs_error: largest error of the normalised actions.
        tolerance: largest such error that passes, here and on every other machine.
        own_error: PyTorch's own error when it computes in the bundle's precision.
        cosine: cosine similarity of the two sets of actions.
        stages: the error of each stage.
        allowed: the largest error that passes, for each stage.
        moved: how far the precision moves actions on a dataset's observations; None without one.
    """

    engine: str
    max_abs_error: float
    tolerance: float
    own_error: float
    cosine: float
    stages: Mapping[str, float]
    allowed: Mapping[str, float]
    moved: MovedActions | None = None


def stage_errors(
    found: Mapping[str, NDArray[Any]], reference: Mapping[str, NDArray[Any]]
) -> dict[str, float]:
    """Returns the largest difference in each common stage, ignoring padding in the prefix."""
    valid = reference[PREFIX_MASK]
    return {
        name: _max_abs(found[name], expected, valid)
        for name, expected in reference.items()
        if name in found
    }


def tolerances(
    reference: Mapping[str, NDArray[Any]],
    own: Mapping[str, NDArray[Any]] | None,
    precision: str,
) -> dict[str, float]:
    """Returns the largest difference that passes, for each stage.

    Args:
        reference: PyTorch's outputs in float32.
        own: PyTorch's outputs in the bundle's precision; None if that is float32.
        precision: the bundle's precision.

    Raises:
        ExportError: the precision is too coarse for this policy.
    """
    allowed = {
        name: TOLERANCE * (max(1.0, float(np.abs(value).max())) if value.ndim == 4 else 1.0)
        for name, value in reference.items()
    }
    if own is None:
        return allowed
    errors = stage_errors(own, reference)
    allowed = {name: max(allowed[name], OWN_ERROR_FACTOR * errors[name]) for name in allowed}
    largest = LARGEST_FLOAT8_TOLERANCE if precision == "fp8" else LARGEST_TOLERANCE
    most = largest / OWN_ERROR_FACTOR * max(1.0, float(np.abs(reference["actions"]).max()))
    if not errors["actions"] <= most:
        raise ExportError(
            "--precision: too coarse for this policy: expected PyTorch's own actions to move by at "
            f"most {most:.3g}, got {errors['actions']:.3g}. Choose another --precision."
        )
    return allowed


def verify_bundle(
    directory: Path, reference: Mapping[str, NDArray[Any]], own: Mapping[str, NDArray[Any]] | None
) -> Verification:
    """Replays the golden of the bundle in `directory` with all of its graphs.

    Args:
        directory: a complete bundle.
        reference: PyTorch's `actions`, `x_next_first` and prefix tensors in float32.
        own: the same in the bundle's precision; None if that is float32.

    Raises:
        ExportError: a stage differs by more than its tolerance; the message names the first one.
    """
    bundle = Bundle.open(directory)
    allowed = tolerances(reference, own, bundle.manifest.precision)
    engine = verifying_engine(bundle)
    found = replay(bundle)
    stages = stage_errors(found, reference)
    for tokens in bundle.manifest.prompt_buckets:
        answers = replay(bundle.with_bucket(tokens))
        for name in ("x_next_first", "actions"):
            stages[f"{name}_{tokens}"] = _max_abs(answers[name], reference[name], None)
            allowed[f"{name}_{tokens}"] = allowed[name]
    for name, error in stages.items():
        if not error <= allowed[name]:
            raise ExportError(
                f"{directory.stem}: {name} of {engine}: expected a difference from PyTorch of at "
                f"most {allowed[name]:.0e}, got {error:.3g}. Nothing was written; choose another "
                "--precision or --opset."
            )
    expected, actions = reference["actions"].ravel(), found["actions"].ravel()
    return Verification(
        engine=engine,
        max_abs_error=stages["actions"],
        tolerance=allowed["actions"],
        own_error=0.0 if own is None else stage_errors(own, reference)["actions"],
        cosine=float(expected @ actions / (np.linalg.norm(expected) * np.linalg.norm(actions))),
        stages=stages,
        allowed={name: allowed[name] for name in stages},
    )


def replay(bundle: Bundle) -> dict[str, NDArray[Any]]:
    """Runs the golden's inputs through both graphs, opening only one graph at a time.

    Returns:
        The prefix's outputs, `x_next_first` and `actions`.
    """
    inputs = {name.removeprefix("input."): value for name, value in bundle.golden().items()}
    stages = run_prefix(open_session(bundle, "prefix", 0), inputs)
    denoise = open_session(bundle, "denoise", 0)
    return stages | run_steps(denoise, inputs, stages, bundle.manifest.num_inference_steps)


def open_sessions(bundle: Bundle, num_threads: int) -> tuple[GraphSession, GraphSession]:
    """Opens the prefix and denoise graphs as Python sessions."""
    prefix, denoise = (open_session(bundle, name, num_threads) for name in ("prefix", "denoise"))
    return prefix, denoise


def run_loop(
    prefix: GraphSession,
    denoise: GraphSession,
    inputs: Mapping[str, NDArray[Any]],
    num_inference_steps: int,
) -> dict[str, NDArray[Any]]:
    """Runs one inference; returns the same as `replay`."""
    stages = run_prefix(prefix, inputs)
    return stages | run_steps(denoise, inputs, stages, num_inference_steps)


def run_prefix(prefix: GraphSession, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Returns the prefix graph's outputs by name."""
    feeds = {value.name: inputs[value.name] for value in prefix.get_inputs()}
    names = [value.name for value in prefix.get_outputs()]
    return dict(zip(names, prefix.run(None, feeds), strict=True))


def run_steps(
    denoise: GraphSession,
    inputs: Mapping[str, NDArray[Any]],
    stages: Mapping[str, NDArray[Any]],
    num_inference_steps: int,
) -> dict[str, NDArray[Any]]:
    """Runs the Euler steps; returns `x_next_first` and `actions`."""
    x_t = inputs["noise"]
    feeds: dict[str, Any] = {**stages, "t": np.ones(x_t.shape[:2], np.float32)}
    if "state" in inputs:
        feeds["state"] = inputs["state"]
    wanted = {value.name for value in denoise.get_inputs()}
    first = None
    for _ in range(num_inference_steps):
        feeds["x_t"] = x_t
        x_t, feeds["t"] = denoise.run(
            ["x_next", "t_next"], {name: feeds[name] for name in feeds if name in wanted}
        )
        first = x_t if first is None else first
    assert first is not None
    return {"x_next_first": first, "actions": x_t}


def _max_abs(found: NDArray[Any], expected: NDArray[Any], valid: NDArray[np.bool_] | None) -> float:
    """Returns the largest difference, ignoring keys and values of padding tokens."""
    if expected.dtype == np.bool_:
        return 0.0 if np.array_equal(found, expected) else float("inf")
    difference = np.abs(found.astype(np.float64) - expected)
    if expected.ndim == 4:
        difference = difference.transpose(0, 2, 1, 3)[valid]
    return float(difference.max()) if np.isfinite(difference).all() else float("inf")
