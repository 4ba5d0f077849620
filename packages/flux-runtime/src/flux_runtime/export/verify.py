"""Reads a written bundle back and replays it against PyTorch, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.bundle import Bundle
from flux_core.errors import ExportError

TOLERANCE = 1e-4
"""Largest absolute difference of normalised actions in float32."""

PREFIX_MASK = "prefix_pad_masks"


@dataclass(frozen=True, kw_only=True)
class Verification:
    """How far ONNX Runtime is from PyTorch."""

    max_abs_error: float
    cosine: float
    stages: Mapping[str, float]


def verify_bundle(directory: Path, reference: Mapping[str, NDArray[Any]]) -> Verification:
    """Replays the golden input of the bundle in `directory` on ONNX Runtime.

    Args:
        directory: a complete bundle.
        reference: PyTorch's `actions`, `x_next_first` and prefix tensors.

    Raises:
        ExportError: a stage differs by more than `TOLERANCE`; names the first one.
    """
    bundle = Bundle.open(directory)
    found = replay(bundle)
    valid = reference[PREFIX_MASK]
    stages = {
        name: _max_abs(found[name], expected, valid)
        for name, expected in reference.items()
        if name in found
    }
    for name, error in stages.items():
        if not error <= TOLERANCE:
            raise ExportError(
                f"{directory}: {name} of ONNX Runtime differs from PyTorch by {error:.3g}, allowed "
                f"{TOLERANCE:.0e}. The exported weights are not the checkpoint's; export again"
            )
    expected, actions = reference["actions"].ravel(), found["actions"].ravel()
    cosine = float(expected @ actions / (np.linalg.norm(expected) * np.linalg.norm(actions)))
    return Verification(max_abs_error=stages["actions"], cosine=cosine, stages=stages)


def replay(bundle: Bundle) -> dict[str, NDArray[Any]]:
    """Runs the golden input through both graphs with ONNX Runtime's Python session."""
    golden = bundle.golden()
    inputs = {name.removeprefix("input."): value for name, value in golden.items()}
    return run_loop(*open_sessions(bundle), inputs, bundle.manifest.num_inference_steps)


def open_sessions(bundle: Bundle, num_threads: int = 0) -> tuple[Any, Any]:
    """The prefix and denoise graphs as Python sessions; 0 threads: ONNX Runtime decides."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = num_threads
    prefix, denoise = (
        onnxruntime.InferenceSession(
            str(bundle.path(bundle.manifest.graphs[name].file)),
            options,
            providers=["CPUExecutionProvider"],
        )
        for name in ("prefix", "denoise")
    )
    return prefix, denoise


def run_loop(
    prefix: Any, denoise: Any, inputs: Mapping[str, NDArray[Any]], num_steps: int
) -> dict[str, NDArray[Any]]:
    """One inference: the prefix once, then `num_steps` Euler steps.

    Returns:
        The prefix's outputs, `x_next_first` and `actions`.
    """
    names = [value.name for value in prefix.get_inputs()]
    stages = dict(
        zip(
            [value.name for value in prefix.get_outputs()],
            prefix.run(None, {name: inputs[name] for name in names}),
            strict=True,
        )
    )
    x_t = inputs["noise"]
    feeds: dict[str, Any] = {**stages, "t": np.ones(x_t.shape[:2], np.float32)}
    if "state" in inputs:
        feeds["state"] = inputs["state"]
    wanted = {value.name for value in denoise.get_inputs()}
    first = None
    for _ in range(num_steps):
        feeds["x_t"] = x_t
        x_t, feeds["t"] = denoise.run(
            ["x_next", "t_next"], {name: feeds[name] for name in feeds if name in wanted}
        )
        first = x_t if first is None else first
    assert first is not None
    return {**stages, "x_next_first": first, "actions": x_t}


def _max_abs(found: NDArray[Any], expected: NDArray[Any], valid: NDArray[np.bool_]) -> float:
    """Largest difference; keys and values only count where the prefix token is real."""
    if expected.dtype == np.bool_:
        return 0.0 if np.array_equal(found, expected) else float("inf")
    difference = np.abs(found.astype(np.float64) - expected)
    if expected.ndim == 4:
        difference = difference.transpose(0, 2, 1, 3)[valid]
    return float(difference.max()) if np.isfinite(difference).all() else float("inf")
