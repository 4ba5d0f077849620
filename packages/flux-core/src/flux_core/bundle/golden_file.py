"""The golden of a bundle: inputs, noise and the reference's output, for replaying on a robot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError
from .checks import AGAIN, DAMAGED, show
from .manifest import Manifest
from .safetensors_header import SafetensorsEntry, read_safetensors_header

GOLDEN_NAME = "golden.safetensors"
_PROMPT = ("input.lang_tokens", "input.lang_masks")
_FIRST_STEP = "output.x_next_first"


def read_golden(path: Path, manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Reads the graphs' input and output tensors, after checking their layouts in the header.

    Prompts are cut to the width that the graphs take, on the side of their padding.

    Raises:
        BundleError: the file is damaged, or a tensor is missing, not finite or of another layout.
    """
    from safetensors import SafetensorError, safe_open

    stored = read_safetensors_header(path, GOLDEN_NAME)
    names = _check_layouts(stored, manifest)
    try:
        with safe_open(path, framework="numpy") as file:
            tensors: dict[str, NDArray[Any]] = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise BundleError(
            f"{GOLDEN_NAME}: cannot be read ({show(str(error))}). {DAMAGED}"
        ) from error
    width = manifest.max_prompt_tokens
    columns = prompt_columns(tensors[_PROMPT[1]], width)
    if columns is None:
        raise BundleError(
            f"{GOLDEN_NAME}: input.lang_masks: expected a prompt of at most {width} tokens, got a "
            f"longer one. {AGAIN}"
        )
    for name in _PROMPT:
        tensors[name] = np.ascontiguousarray(tensors[name][:, columns])
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise BundleError(
                f"{GOLDEN_NAME}: {name}: expected finite numbers, got NaN or infinity. {AGAIN}"
            )
    return tensors


def prompt_columns(masks: NDArray[Any], width: int) -> slice | None:
    """Returns the columns of a prompt that fit graphs for `width` tokens.

    Args:
        masks: (1, L) bool, True = real token; padding is on the right or on the left.
        width: up to L.

    Returns:
        `width` columns with all real tokens and a part of the padding, on its side; None if the
        prompt is longer.
    """
    length = masks.shape[1]
    for columns in (slice(0, width), slice(length - width, length)):
        if masks[:, columns].sum() == masks.sum():
            return columns
    return None


def _check_layouts(stored: Mapping[str, SafetensorsEntry], manifest: Manifest) -> list[str]:
    """Refuses tensors that do not fit the graphs; returns the names of those to read."""
    expected = _expected_layouts(manifest)
    if _FIRST_STEP in stored:
        expected[_FIRST_STEP] = expected["output.actions"]
    for name, (dtype, shape) in expected.items():
        if name not in stored:
            raise BundleError(f"{GOLDEN_NAME}: no tensor {name!r}. {AGAIN}")
        found = stored[name]
        fits = found.shape == shape
        if name in _PROMPT and len(found.shape) == 2:
            fits = found.shape[0] == 1 and found.shape[1] >= shape[1]
        if found.dtype != dtype or not fits:
            raise BundleError(
                f"{GOLDEN_NAME}: {name}: expected {dtype} {list(shape)}, got {found.dtype} "
                f"{list(found.shape)}. {AGAIN}"
            )
    return list(expected)


def _expected_layouts(manifest: Manifest) -> dict[str, tuple[str, tuple[int, ...]]]:
    actions = (1, manifest.action_horizon, manifest.action_dim)
    internal = {entry.name for entry in manifest.graphs["prefix"].outputs} | {"x_t", "t"}
    expected = {
        f"input.{entry.name}": (entry.dtype, entry.shape)
        for graph in manifest.graphs.values()
        for entry in graph.inputs
        if entry.name not in internal
    }
    return expected | dict.fromkeys(("input.noise", "output.actions"), ("float32", actions))
