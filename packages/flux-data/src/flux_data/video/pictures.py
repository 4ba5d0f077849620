"""Decodes pictures of a video in their own pixel format, without converting colours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError

from .packets import NO_TIME, Packets, opened_video, packets_of


def bits_of(pixel_format: Any) -> int:
    """Returns the bits per sample of a format."""
    return max(component.bits for component in pixel_format.components)


def all_pictures(path: Path) -> Iterator[Any]:
    with opened_video(path) as stream:
        yield from (f for f in stream.container.decode(stream) if f.pts is not None)


def pictures_of(path: Path, frames: NDArray[np.int64]) -> Iterator[Any]:
    """Yields the shown frames of a video by number, decoding from the keyframe before the first."""
    packets = packets_of(path)
    wanted = packets.pts[packets.shown[frames]].tolist()
    at = 0
    with opened_video(path) as stream:
        _seek(stream, packets, int(packets.shown[frames[0]]))
        for picture in stream.container.decode(stream):
            pts = picture.pts  # whoever gets the picture may change it
            while at < len(wanted) and pts == wanted[at]:
                if picture.is_corrupt:
                    stamp_s = wanted[at] * float(packets.time_base)
                    raise DataError(f"{path}: the frame at {stamp_s:.4f} s is damaged")
                at += 1
                yield picture
            if at == len(wanted):
                return
    stamp_s = wanted[at] * float(packets.time_base)
    raise DataError(f"{path}: the frame at {stamp_s:.4f} s cannot be decoded")


def _seek(stream: Any, packets: Packets, place: int) -> None:
    """Goes to the last keyframe that comes before a packet and is shown before all after it."""
    first = int(packets.pts[place])
    for start in np.flatnonzero(packets.is_keyframe[: place + 1])[::-1]:
        if packets.pts[start] <= first and (packets.pts[start:] >= packets.pts[start]).all():
            if start and packets.dts[start] != NO_TIME:
                stream.container.seek(int(packets.dts[start]), stream=stream, backward=True)
            return


def samples_of(picture: Any) -> NDArray[np.generic]:
    """Returns all samples of a picture, plane after plane, without the padding of lines."""
    dtype = np.dtype(np.uint16 if bits_of(picture.format) > 8 else np.uint8)
    parts: list[NDArray[np.generic]] = []
    for number, plane in enumerate(picture.planes):
        lines = np.frombuffer(plane, dtype).reshape(plane.height, plane.line_size // dtype.itemsize)
        count = sum(c.plane == number for c in picture.format.components)
        parts.append(lines[:, : plane.width * count].ravel())
    return np.concatenate(parts)
