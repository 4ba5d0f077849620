"""Decodes images of a parquet column, PNG or JPEG, and refuses damaged ones."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from flux_core.errors import DataError
from flux_core.incomplete_file import POINTER, is_lfs_pointer

BROKEN = (OSError, ValueError, TypeError, SyntaxError, EOFError, LookupError, ArithmeticError)
BROKEN += (struct.error, zlib.error)
"""The errors that Pillow raises for damaged files."""


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """One image of a parquet column: its bytes, or the path of its file below `root`."""

    data: bytes | str | None
    root: Path
    where: str

    def read(self) -> NDArray[np.uint8]:
        """Returns (height, width, 3) uint8 RGB."""
        if not isinstance(self.data, str):
            return decode_image(self.data, self.where)
        path = self.root / self.data
        if not path.is_file():
            raise DataError(f"{self.where}: the image file {path} is missing")
        return decode_image(path.read_bytes(), f"{self.where}, {path}")


def decode_image(data: bytes | None, where: str) -> NDArray[np.uint8]:
    """Decodes a PNG or JPEG to (height, width, 3) uint8 RGB; grey gets three equal channels.

    Raises:
        DataError: it is missing or damaged, has more than 8 bits of grey (a depth map is not a
            camera image), or is not opaque.
    """
    if not isinstance(data, bytes):
        raise DataError(f"{where}: expected an image, got {type(data).__name__}")
    try:
        with Image.open(io.BytesIO(data)) as image:
            # Like `datasets`: a JPEG may state how the camera was held.
            ImageOps.exif_transpose(image, in_place=True)
            image.load()
    except (*BROKEN, Image.DecompressionBombError) as error:
        reason = POINTER if is_lfs_pointer(data) else error
        raise DataError(f"{where}: the image cannot be decoded ({reason})") from error
    if image.mode[0] in "IF":
        raise DataError(
            f"{where}: expected 8 bits per channel, got mode {image.mode} (a depth map?)"
        )
    if image.has_transparency_data and not _is_opaque(image):
        raise DataError(f"{where}: expected an opaque image, got a transparent one ({image.mode})")
    return np.array(image.convert("RGB"))


def _is_opaque(image: Image.Image) -> bool:
    return image.convert("RGBA").getchannel("A").getextrema() == (255, 255)
