"""Images and depth images of ROS as arrays, without cv_bridge, which needs numpy below 2."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np

from ..robot import DriverError

COLOUR_CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}
"""Bytes per pixel, by encoding."""
DEPTH_TYPES = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}
"""Millimetres as whole numbers, or metres (REP 118)."""
MOST_METRES = 65.5


def colour_image(message: Any) -> np.ndarray:
    """Returns a sensor_msgs/Image as contiguous (height, width, 3) uint8, red first.

    Raises:
        DriverError: another encoding, or fewer bytes than the message states.
    """
    encoding = str(message.encoding).lower()
    if encoding not in COLOUR_CHANNELS:
        known = ", ".join(COLOUR_CHANNELS)
        raise DriverError(
            f"encoding: expected one of {known}, got {message.encoding!r:.40}. Have the camera's "
            f"node publish one of them"
        )
    pixels = _pixels(message, np.dtype(np.uint8), COLOUR_CHANNELS[encoding])
    if encoding == "mono8":
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels[..., 2::-1] if encoding[0] == "b" else pixels[..., :3])


def depth_image(message: Any) -> np.ndarray:
    """Returns a sensor_msgs/Image as contiguous (height, width) uint16, millimetres.

    What is not measured, or too far for 16 bits, is 0, as in 16UC1 (REP 118).

    Raises:
        DriverError: another encoding, or fewer bytes than the message states.
    """
    if message.encoding not in DEPTH_TYPES:
        raise DriverError(
            f"encoding: expected one of {', '.join(DEPTH_TYPES)}, got {message.encoding!r:.40}"
        )
    kind = np.dtype(DEPTH_TYPES[message.encoding])
    stored = kind.newbyteorder(">" if message.is_bigendian else "<")
    depth = np.ascontiguousarray(_pixels(message, stored, 1)[..., 0], kind)
    if kind.kind == "u":
        return depth
    is_measured = np.isfinite(depth) & (depth > 0) & (depth < MOST_METRES)
    return np.rint(np.where(is_measured, depth, 0) * 1e3).astype(np.uint16)


def _pixels(message: Any, kind: np.dtype, num_channels: int) -> np.ndarray:
    """Returns a view (height, width, channels) of a message's data, without the rows' padding."""
    height, width, step = int(message.height), int(message.width), int(message.step)
    row = width * num_channels * kind.itemsize
    data = np.frombuffer(message.data, np.uint8)
    if height < 1 or width < 1 or step < row or data.size < height * step:
        raise DriverError(
            f"image: expected {height} rows of at least {row} bytes, got step {step} and "
            f"{data.size} bytes ({message.encoding}, {width} pixels wide)"
        )
    rows = data[: height * step].reshape(height, step)[:, :row]
    return np.ascontiguousarray(rows).view(kind).reshape(height, width, num_channels)


def compressed_image(message: Any) -> np.ndarray:
    """Returns a sensor_msgs/CompressedImage as contiguous (height, width, 3) uint8, red first.

    image_transport writes the colours of "rgb8" into a JPEG as if they were "bgr8", and says so in
    `format`; a decoder then finds red where blue is.

    Raises:
        DriverError: it cannot be decoded, or this interpreter has no decoder.
    """
    image = _decoded(bytes(message.data), str(message.format))
    if str(message.format).rstrip().endswith("compressed rgb8"):
        image = image[..., ::-1]
    return np.ascontiguousarray(image)


def _decoded(data: bytes, text: str) -> np.ndarray:
    """Decodes with Pillow or OpenCV, whichever is there."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        return _decoded_by_opencv(data, text)
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise _undecodable(data, text) from error


def _decoded_by_opencv(data: bytes, text: str) -> np.ndarray:
    try:
        import cv2  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DriverError(
            f"CompressedImage: expected Pillow or OpenCV in {sys.executable}, got neither. Install "
            f"one of them there (python3-pil), or subscribe to the topic without /compressed"
        ) from error
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise _undecodable(data, text)
    return image[..., ::-1]


def _undecodable(data: bytes, text: str) -> DriverError:
    return DriverError(
        f"CompressedImage: expected a JPEG or PNG, got {len(data)} bytes that cannot be decoded "
        f"(format {text!r:.40})"
    )
