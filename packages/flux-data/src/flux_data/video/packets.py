"""Finds the stored frames of a video: when each is shown, and where it is in the file."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError
from flux_core.incomplete_file import why_incomplete

NO_TIME = np.iinfo(np.int64).min
"""Stands for the decoding time of a packet whose container states none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Packets:
    """A video's packets, in the order in which they are stored and decoded.

    Attributes:
        path: the file.
        time_base: seconds per tick.
        pts: when each packet's frame is shown, in ticks, (packets,).
        dts: when it is decoded, in ticks, or NO_TIME.
        is_keyframe: whether decoding can begin there.
        is_shown: whether the frame is shown; an edit list can hide frames.
        num_sound_tracks: the other streams with sound in the file.
    """

    path: Path
    time_base: Fraction
    pts: NDArray[np.int64]
    dts: NDArray[np.int64]
    is_keyframe: NDArray[np.bool_]
    is_shown: NDArray[np.bool_]
    num_sound_tracks: int = 0

    @functools.cached_property
    def shown(self) -> NDArray[np.int64]:
        """The place of each shown frame's packet, in the order in which frames are shown."""
        places = np.flatnonzero(self.is_shown)
        return places[np.argsort(self.pts[places], kind="stable")]

    @functools.cached_property
    def stamps_s(self) -> NDArray[np.float64]:
        """When each shown frame is shown, in seconds, ascending."""
        return self.pts[self.shown].astype(np.float64) * float(self.time_base)


def packets_of(path: Path) -> Packets:
    """Reads a video's packets without decoding them; remembers those of recent files.

    Raises:
        DataError: the file is missing, cannot be read, or has no frames with times.
    """
    if not path.is_file():
        raise DataError(f"{path}: the video file is missing")
    facts = path.stat()
    return _packets_of(path, facts.st_mtime_ns, facts.st_size)


@functools.lru_cache(maxsize=16)
def _packets_of(path: Path, _changed_ns: int, _size: int) -> Packets:
    with opened_video(path) as stream:
        found = [
            (p.pts, NO_TIME if p.dts is None else p.dts, p.is_keyframe, not p.is_discard)
            for p in stream.container.demux(stream)
            if p.pts is not None and p.size
        ]
        base, sound = stream.time_base, len(stream.container.streams.audio)
    if not any(shown for *_, shown in found):
        raise DataError(f"{path}: has no frames")
    pts, dts, is_keyframe, is_shown = zip(*found, strict=True)
    return Packets(
        path=path,
        time_base=base,
        pts=np.asarray(pts, np.int64),
        dts=np.asarray(dts, np.int64),
        is_keyframe=np.asarray(is_keyframe, bool),
        is_shown=np.asarray(is_shown, bool),
        num_sound_tracks=sound,
    )


@contextlib.contextmanager
def opened_video(path: Path) -> Iterator[Any]:
    """Opens a file and returns its video stream.

    Raises:
        DataError: it cannot be read, or has no video stream.
    """
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path}: has no video stream")
            yield container.streams.video[0]
    except FFmpegError as error:
        reason = why_incomplete(path) or error
        raise DataError(f"{path}: cannot be read as a video ({reason})") from error
