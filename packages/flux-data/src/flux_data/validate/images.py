"""Decodes the images stored in an episode's table, including depth maps."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from flux_core.errors import DataError

from ..lerobot.dataset import LeRobotDataset
from ..lerobot.metadata import image_size, is_depth_map
from ..pictures.stored_image import BROKEN, StoredImage
from .fault import Fault, episode_fault


def image_faults(source: LeRobotDataset, position: int) -> Iterator[Fault]:
    """Decodes an episode's images and yields the first fault of each feature."""
    path = source.data_file(position)
    for key, feature in source.info["features"].items():
        if feature["dtype"] != "image":
            continue
        for frame in range(int(source.lengths[position])):
            try:
                data = source.encoded_image(position, key, frame)
            except DataError as error:
                message = str(error).partition(": ")[2]
                yield episode_fault(source, position, "image", path, message)
                break
            message = _image_fault(source, key, StoredImage(data=data, root=source.root, where=key))
            if message:
                yield episode_fault(source, position, "image", path, message, frame)
                break


def _image_fault(source: LeRobotDataset, key: str, image: StoredImage) -> str:
    feature = source.info["features"][key]
    try:
        height, width = _depth_size(image) if is_depth_map(feature) else image.read().shape[:2]
    except DataError as error:
        return str(error)
    expected = image_size(feature)
    if (height, width) == expected:
        return ""
    return f"{key}: expected {expected[0]}x{expected[1]} (info.json), got {height}x{width}"


def _depth_size(image: StoredImage) -> tuple[int, int]:
    """Decodes a depth map completely and returns its height and width; `read` is for colours.

    Raises:
        DataError: it is missing or damaged.
    """
    data = image.data
    if not isinstance(data, bytes | str):
        raise DataError(f"{image.where}: expected an image, got {type(data).__name__}")
    place: io.BytesIO | Path = image.root / data if isinstance(data, str) else io.BytesIO(data)
    try:
        with Image.open(place) as picture:
            picture.load()
            return picture.height, picture.width
    except (*BROKEN, Image.DecompressionBombError) as error:
        message = f"{image.where}: the depth map cannot be decoded ({error})"
        raise DataError(message) from error
