"""Copies episodes from video to video without decoding: lossless, and as fast as the disk.

The pictures of an episode are those at its rows' times. Stamps keep their distance to the episode's
start, so that each row finds the same picture in the copy.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from flux_core.errors import DataError

from ..video.packets import NO_TIME, Packets, opened_video, packets_of
from ..video.pairing import REENCODE, frames_of_rows
from .dataset import VideoSegment

ROUNDING = 0.05
"""How far stamps may be off by rounding to ticks, in periods, before an episode starts later."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cut:
    """The part of a video that holds an episode: packets `first` .. `end` - 1, as stored."""

    packets: Packets
    first: int
    end: int

    @property
    def pts(self) -> NDArray[np.int64]:
        """When its frames are shown, in ticks, in the order of the file."""
        return self.packets.pts[self.first : self.end]


def cut_of(segment: VideoSegment, rows_s: NDArray[np.float64], fps: float, where: str) -> Cut:
    """Finds the packets from an episode's first picture to its last.

    Pictures in between that belong to no row are copied too; those before and after are not.

    Args:
        segment: the file, and where the episode starts in it.
        rows_s: the rows' times, counted from the episode's start.
        fps: the rate of the rows.
        where: the episode, for messages.

    Raises:
        DataError: a row has no picture, or these packets cannot be decoded without others.
    """
    packets = packets_of(segment.path)
    place = f"{segment.path}: {where}"
    frames = frames_of_rows(packets.stamps_s, rows_s, segment.start_s, fps, place)
    chosen = packets.shown[frames[0] : frames[-1] + 1]
    cut = Cut(packets=packets, first=int(chosen.min()), end=int(chosen.max()) + 1)
    if cut.end - cut.first != len(chosen):
        raise DataError(
            f"{place}: cannot be copied, because its pictures are stored among others, which they "
            f"may need. {REENCODE}"
        )
    begins_well = packets.is_keyframe[cut.first] and packets.pts[cut.first] == cut.pts.min()
    # What precedes the first keyframe of a whole file cannot be decoded there either.
    if not begins_well and len(chosen) < len(packets.pts):
        raise DataError(
            f"{place}: cannot be copied, because it does not begin at a keyframe (at "
            f"{packets.stamps_s[frames[0]]:.4f} s). {REENCODE}"
        )
    return cut


def copy_episode(
    segment: VideoSegment, rows_s: NDArray[np.float64], fps: float, path: Path, where: str
) -> bool:
    """Writes one episode's video to its own file, in which it starts at time 0.

    Returns:
        whether it is a copy of the whole file; else it holds the video stream alone, without sound.

    Raises:
        DataError: as `cut_of`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stamps_s, place = packets_of(segment.path).stamps_s, f"{segment.path}: {where}"
    frames = frames_of_rows(stamps_s, rows_s, segment.start_s, fps, place)
    if segment.start_s == 0 and frames[-1] - frames[0] + 1 == len(stamps_s):
        shutil.copyfile(segment.path, path)
        return True
    with JoinedVideo(path, segment.path) as video:
        video.append(segment, rows_s, fps, where)
    frames_of_rows(packets_of(path).stamps_s, rows_s, 0.0, fps, place)
    return False


class JoinedVideo:
    """Writes a video file that joins whole episodes of other files."""

    def __init__(self, path: Path, like: Path) -> None:
        """Opens `path` for videos with the same encoding as `like`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.duration_s, self._like = path, 0.0, like
        self.encoding = encoding_of(like)
        self._last_dts: int | None = None
        self._episodes: list[tuple[float, NDArray[np.float64], float, str]] = []
        with opened_video(like) as source, self._told():
            # Puts the index at the beginning, as LeRobot does.
            self._container = av.open(str(path), "w", options={"movflags": "faststart"})
            self._stream = self._copied(source)
            self._stream.time_base = source.time_base

    def _copied(self, source: Any) -> Any:
        """Adds a stream with the encoding of another one."""
        try:
            return self._container.add_stream_from_template(source, opaque=True)
        except ValueError as error:
            self._container.close()
            raise DataError(
                f"{self._like}: {source.codec_context.name} cannot be stored in "
                f"{self.path.suffix.removeprefix('.')} files. Encode the video anew"
            ) from error

    def append(
        self, segment: VideoSegment, rows_s: NDArray[np.float64], fps: float, where: str
    ) -> float:
        """Adds the pictures of an episode; returns its start in this file, in seconds.

        Args:
            segment: where the episode is now.
            rows_s: its rows' times, counted from the episode's start.
            fps: the rate of the rows.
            where: the episode, for messages.

        Raises:
            DataError: as `cut_of`.
        """
        cut = cut_of(segment, rows_s, fps, where)
        base = float(cut.packets.time_base)
        shift = self._shift(cut, segment, fps)
        start_s = segment.start_s + shift * base
        if abs(start_s - self.duration_s) <= ROUNDING / fps:  # stamps are whole ticks
            start_s = self.duration_s
        with opened_video(segment.path) as source:
            for packet in _packets(source, cut):
                packet.pts += shift
                packet.dts += shift
                self._last_dts = packet.dts
                packet.stream = self._stream
                self._mux(packet, f"{segment.path}: {where}")
        last_s = (int(cut.pts.max()) + shift) * base + 1 / fps
        end_s = start_s + len(rows_s) / fps
        self.duration_s = last_s if last_s > end_s + ROUNDING / fps else end_s
        self._episodes.append((start_s, rows_s, fps, f"{segment.path}: {where}"))
        return start_s

    def _mux(self, packet: Any, where: str) -> None:
        with self._told():
            try:
                self._container.mux(packet)
            except FFmpegError as error:
                if error.errno != errno.EINVAL:  # which comes from the packet, not from the disk
                    raise
                raise DataError(
                    f"{where}: cannot be copied, because its frames are not stored in the order in "
                    f"which they are decoded. {REENCODE}"
                ) from error

    def _shift(self, cut: Cut, segment: VideoSegment, fps: float) -> int:
        """Returns by how many ticks the episode's stamps move.

        It starts where the previous episode ends, or later: packets must also be decoded after
        those of that episode, and no picture can be shown before time 0.
        """
        base = float(cut.packets.time_base)
        shift = round((self.duration_s - segment.start_s) / base)
        earliest = round(max(self.duration_s - 0.5 / fps, 0.0) / base)
        shift = max(shift, earliest - int(cut.pts.min()))
        dts = cut.packets.dts[cut.first : cut.end]
        if (dts == NO_TIME).any():
            raise DataError(
                f"{segment.path}: cannot be copied, because it does not say when frames are "
                f"decoded. {REENCODE}"
            )
        if self._last_dts is not None:
            shift = max(shift, self._last_dts + 1 - int(dts[0]))
        return shift

    def close(self) -> None:
        """Writes the index."""
        with self._told():
            self._container.close()

    def check(self) -> None:
        """Reads the finished file, and finds the picture of every row in it.

        Raises:
            DataError: a row has no picture, or that of another row.
        """
        stamps_s, end = packets_of(self.path).stamps_s, -1
        for start_s, rows_s, fps, where in self._episodes:
            frames = frames_of_rows(stamps_s, rows_s, start_s, fps, where)
            assert frames[0] > end, where
            end = int(frames[-1])

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except FFmpegError as error:
            raise DataError(f"{self.path}: cannot be written ({error.strerror})") from error

    def __enter__(self) -> JoinedVideo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def encoding_of(path: Path) -> tuple[object, ...]:
    """Returns what two videos must have in common to be joined."""
    with opened_video(path) as stream:
        context = stream.codec_context
        return (
            context.name,
            context.extradata,
            (stream.width, stream.height),
            context.pix_fmt,
            stream.time_base,
        )


def _packets(stream: Any, cut: Cut) -> Iterator[Any]:
    """Yields the packets of a cut, in the order of the file."""
    packets, container = cut.packets, stream.container
    if cut.first:
        begin = packets.dts[cut.first]
        time = int(packets.pts[cut.first] if begin == NO_TIME else begin)
        container.seek(time, stream=stream, backward=True)
    missing: Sequence[int] = packets.pts[cut.first : cut.end].tolist()
    found = 0
    for packet in container.demux(stream):
        if found == len(missing):
            return
        if packet.pts is None or not packet.size:
            continue
        if packet.pts == missing[found]:
            found += 1
            yield packet
        elif found:
            break
    if found != len(missing):
        raise DataError(
            f"{cut.packets.path}: expected the packets of a first reading, got others. {REENCODE}"
        )
