"""Resizes training frames with torch's version of PIL's filter, which is six times as fast."""

from __future__ import annotations

import functools
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import MissingDependencyError
from flux_core.transforms import ImageResize


def resize_frame(image: NDArray[np.uint8], resize: ImageResize) -> NDArray[np.uint8]:
    """Equals `resize.resize(image)`, except for single grey levels that are rounded differently."""
    return resize.resize(image, torch_stretch)


def torch_stretch(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 -> (height, width, 3) uint8, antialiased bilinear."""
    torch = _torch()
    planes = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(
        planes, size=(height, width), mode="bilinear", antialias=True, align_corners=False
    )
    # Only the view changes: in memory the channels stay first, as the network wants them.
    return resized[0].permute(1, 2, 0).numpy()


@functools.cache
def _torch() -> ModuleType:
    """Imports torch, which takes a second and is only needed for frames."""
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            "resizing frames needs torch: pip install 'flux-data[torch]'"
        ) from error
    return torch
