"""What a plan takes from a bundle: its description and its tensors."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from flux_core.bundle import Bundle, SafetensorsEntry, read_safetensors_header
from flux_core.errors import BundleError
from flux_core.policy_io import PolicyIO

from .description import PiDescription, Shapes, describe

WEIGHTS = "model.safetensors"
_READ_AS = {"bfloat16": np.uint16}


class StoredTensors:
    """The tensors of a bundle, mapped into memory and read when they are asked for."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / WEIGHTS
        self._entries: dict[str, SafetensorsEntry] = read_safetensors_header(self._path, WEIGHTS)

    @property
    def shapes(self) -> Shapes:
        """Name -> shape."""
        return {name: entry.shape for name, entry in self._entries.items()}

    def read(self, name: str) -> NDArray[Any]:
        """Returns a tensor, read-only; bfloat16 as uint16 with its bits."""
        entry = self._entries[name]
        dtype = np.dtype(_READ_AS.get(entry.dtype, entry.dtype))
        return self._bytes[entry.begin : entry.end].view(dtype).reshape(entry.shape)

    @cached_property
    def _bytes(self) -> NDArray[np.uint8]:
        return np.memmap(self._path, np.uint8, mode="r")


def describe_bundle(bundle: Bundle, tensors: StoredTensors, io: PolicyIO) -> PiDescription:
    """Returns the description of a bundle that `refusal` accepts.

    Args:
        bundle: the bundle.
        tensors: its tensors.
        io: its transforms, which know the dimensions of the actions and normalise images.

    Raises:
        BundleError: a tensor is missing.
    """
    scale, offset = io.image_affine
    try:
        return describe(
            cast("dict[str, Any]", bundle.config["model"]),
            tensors.shapes,
            horizon=bundle.manifest.action_horizon,
            live_dims=len(io.scale),
            image_scale=scale.tolist(),
            image_offset=offset.tolist(),
        )
    except KeyError as error:
        raise BundleError(
            f"{bundle.directory}: {WEIGHTS}: no tensor {error.args[0]!r}. Export the bundle again."
        ) from error
