"""The two values that cross every boundary: what a robot observes and what a policy returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a robot observes at one moment.

    Attributes:
        images: camera name -> (height, width, 3) uint8 RGB.
        state: (state_dim,) float32, in the robot's units.
        prompt: the task in words.
        timestamp_s: when it was taken, on the robot's monotonic clock.
    """

    images: Mapping[str, NDArray[np.uint8]]
    state: NDArray[np.float32]
    prompt: str
    timestamp_s: float


@dataclass(frozen=True, kw_only=True)
class ActionChunk:
    """The actions that a policy returns for one observation.

    Attributes:
        actions: (action_horizon, action_dim) float32, in the robot's units, one row per tick.
        timestamp_s: the time of the observation that they were computed from.
    """

    actions: NDArray[np.float32]
    timestamp_s: float


def image_fault(image: object) -> str:
    """Returns what is wrong with a camera's image and what to do, or '' if it can be used."""
    if image is None:
        return "got None. Wait until the camera has delivered an image"
    if not isinstance(image, np.ndarray):
        return f"got {type(image).__name__}. {_how_to_convert(image)}"
    got = f"got {image.dtype} {image.shape}"
    if not image.size:
        return f"{got}, an empty image. Check the camera"
    if image.dtype != np.uint8:
        how = "image.round().astype(np.uint8), after scaling it to 0..255 if it is 0..1"
        return f"{got}. Convert it: {how}"
    if image.ndim == 3 and image.shape[2] == 3:
        return ""
    if image.ndim == 3 and image.shape[0] == 3:
        return f"{got}, with the channels first. Convert it: image.transpose(1, 2, 0)"
    if image.ndim == 3 and image.shape[2] == 4:
        return f"{got}, with an alpha channel. Convert it: image[:, :, :3]"
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
        how = "np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)"
        return f"{got}, a grey image. Convert it: {how}"
    if image.ndim == 4 and image.shape[0] == 1:
        return f"{got}, a batch of one. Give the image itself: image[0]"
    return got


def _how_to_convert(image: object) -> str:
    module = type(image).__module__.partition(".")[0]
    if module == "PIL":
        return "Convert it: np.asarray(image.convert('RGB'))"
    if module == "torch":
        return "Convert it: image.cpu().numpy()"
    if isinstance(image, bytes | bytearray):
        return "Decode it first: np.asarray(PIL.Image.open(io.BytesIO(image)).convert('RGB'))"
    return "Convert it: np.asarray(image, dtype=np.uint8)"
