"""Cameras' pictures as clients send them: arrays of several layouts, JPEG or PNG."""

from __future__ import annotations

import io
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from flux_core.types import image_fault

from .bounds import WireError, shown
from .libraries import load

MAX_PIXELS = 4096 * 4096
_MAX_SCANNED = 4 * MAX_PIXELS
"""Pixels times scans of one JPEG. A progressive one has about 10 scans, and each takes as long as a
whole picture does, even if the file hardly has a byte for it."""
_ROUNDING = 1e-3
"""How far outside [0, 1] floats may be, such as after resizing; they are clipped."""


def as_picture(value: object, where: str, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Returns a picture as the policy takes it.

    A file is not turned as its EXIF data may say. Decoding takes at most 10 bytes per pixel, and as
    much again within Pillow.

    Args:
        value: (H, W, 3) or (3, H, W), uint8, or floats in [0, 1], which are scaled and rounded; or
            a JPEG or PNG file in RGB, as bytes or (N,) uint8. Not modified.
        where: what it is, for messages.
        max_pixels: H * W may be; checked before a file is decoded.

    Returns:
        (H, W, 3) uint8, contiguous; it may be `value` itself, and read-only.

    Raises:
        WireError: it is not such a picture.
    """
    if isinstance(value, bytes | bytearray):
        return _decoded(bytes(value), where, max_pixels)
    if not isinstance(value, np.ndarray):
        raise WireError(f"{where}: expected a picture, got {shown(value)}", "bad_picture")
    array = cast(NDArray[Any], value)
    if array.ndim == 1 and array.dtype == np.uint8:
        return _decoded(array.tobytes(), where, max_pixels)
    if array.ndim == 3 and array.shape[2] != 3 and array.shape[0] == 3:
        array = array.transpose(1, 2, 0)
    if array.ndim == 3:
        _check_pixels(array.shape[1], array.shape[0], where, max_pixels)
    if array.dtype.kind == "f":
        array = _scaled(array, where)
    fault = image_fault(array)
    if fault:
        raise WireError(f"{where}: expected an RGB picture, {fault}", "bad_picture")
    return np.ascontiguousarray(array)


def as_jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    """Returns an (H, W, 3) uint8 RGB image as a JPEG file of a quality from 1 to 100."""
    stream = io.BytesIO()
    load("PIL.Image", "--jpeg").fromarray(image).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _check_pixels(width: int, height: int, where: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise WireError(
            f"{where}: expected a picture of at most {max_pixels} pixels, got {width} x {height}",
            "oversized",
        )


def _scaled(array: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Returns floats in [0, 1] as uint8; exact for those that were divided by 255."""
    least, most = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if not (least >= -_ROUNDING and most <= 1 + _ROUNDING):  # also for NaN
        raise WireError(
            f"{where}: expected floats from 0 to 1, got {least:g} to {most:g}", "bad_picture"
        )
    scaled = array.astype(np.float32)
    np.clip(scaled, 0.0, 1.0, out=scaled)
    scaled *= np.float32(255)
    return np.rint(scaled, out=scaled).astype(np.uint8)


def _decoded(content: bytes, where: str, max_pixels: int) -> NDArray[np.uint8]:
    image_module = load("PIL.Image", "pictures as JPEG or PNG")
    try:
        with image_module.open(io.BytesIO(content), formats=("JPEG", "PNG")) as picture:
            width, height = picture.size
            _check_pixels(width, height, where, max_pixels)
            scans = content.count(b"\xff\xda")  # the marker cannot be within a scan
            if picture.format != "PNG" and width * height * scans > _MAX_SCANNED:
                raise WireError(
                    f"{where}: expected a JPEG that is not progressive, or smaller, got "
                    f"{width} x {height} pixels in {scans} scans",
                    "bad_picture",
                )
            if picture.mode != "RGB":
                raise WireError(
                    f"{where}: expected a picture in RGB, got mode {picture.mode}. Convert it: "
                    "PIL.Image.open(...).convert('RGB')",
                    "bad_picture",
                )
            return np.array(picture, np.uint8)
    except WireError:
        raise
    except image_module.DecompressionBombError as error:
        raise WireError(
            f"{where}: expected a picture of at most {max_pixels} pixels, got far more", "oversized"
        ) from error
    except Exception as error:  # a damaged file raises any of a dozen types
        reason = " ".join(ascii(str(error))[1:-1].split())[:120]
        raise WireError(
            f"{where}: expected a JPEG or PNG file of {len(content)} bytes, got one that cannot be "
            f"decoded ({type(error).__name__}: {reason})",
            "bad_picture",
        ) from error
