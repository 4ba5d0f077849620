"""What a source of images is, and what all of them share."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Protocol, Tuple

import numpy as np

from ..robot import DriverError

Image = Tuple[Any, float]
"""(height, width, 3) uint8 RGB, and the capture time in seconds on `time.monotonic()`."""


class CameraError(DriverError):
    """What is wrong with a camera or its settings, in one line."""


class EndOfVideo(Exception):
    """A video has ended; there is nothing to open again."""


class CameraSource(Protocol):
    """One camera. One thread calls all of it."""

    def open(self) -> None:
        """Opens the device with its settings.

        Raises:
            CameraError: there is none, or it gives other images than the settings ask for.
        """
        ...

    def read(self) -> Image:
        """Waits for the next image and returns it, in an array of its own.

        Raises:
            CameraError: no image has come.
            EndOfVideo: no image will ever come.
        """
        ...

    def close(self) -> None:
        """Releases the device, opened or not."""
        ...


def imported(module: str, package: str) -> Any:
    """Returns a module that only some cameras need.

    Raises:
        CameraError: it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CameraError(
            f"{module} cannot be imported ({error}). Install {package} for {sys.executable}"
        ) from error


def expect_size(image: Any, width: int | None, height: int | None) -> None:
    """Compares an image with the size that the settings ask for; None stands for any.

    Raises:
        CameraError: it has another size.
    """
    found = image.shape[1], image.shape[0]
    wanted = width or found[0], height or found[1]
    if found != wanted:
        raise CameraError(
            f"width, height: expected {wanted[0]} x {wanted[1]} pixels, the device gives "
            f"{found[0]} x {found[1]}. State a size that it has"
        )


def rotated(image: Any, degrees: int) -> Any:
    """Turns an image clockwise by 0, 90, 180 or 270 degrees; the result is contiguous."""
    if not degrees:
        return image
    return np.ascontiguousarray(np.rot90(image, -(degrees // 90)))
