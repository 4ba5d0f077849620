"""Copies episodes from video to video without decoding: lossless, and as fast as the disk."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

from flux_core.errors import DataError

from ..video.reader import video_facts
from .dataset import VideoSegment


def copy_episode(segment: VideoSegment, frames: int, fps: float, path: Path) -> None:
    """Writes one episode's video to its own file.

    Raises:
        DataError: the file lacks those frames, or the episode does not begin at a keyframe.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if segment.start_s == 0 and len(video_facts(segment.path).times_s) == frames:
        shutil.copyfile(segment.path, path)
        return
    with JoinedVideo(path, segment.path) as video:
        video.append(segment, frames, fps)


class JoinedVideo:
    """Writes a video file that joins whole episodes of other files."""

    def __init__(self, path: Path, like: Path) -> None:
        """Opens `path` for videos with the same encoding as `like`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.duration_s = path, 0.0
        self.encoding = encoding_of(like)
        with _opened(like) as source, self._told():
            # Puts the index at the beginning, as LeRobot does.
            self._container = av.open(str(path), "w", options={"movflags": "faststart"})
            self._stream = self._container.add_stream_from_template(source, opaque=True)
            self._stream.time_base = source.time_base

    def append(self, segment: VideoSegment, frames: int, fps: float) -> float:
        """Adds the frames of an episode; returns its start in this file, in seconds."""
        start_s = self.duration_s
        with _opened(segment.path) as source:
            base = float(source.time_base)
            shift = round((start_s - segment.start_s) / base) - (source.start_time or 0)
            for packet in _packets(source, segment, frames, fps):
                packet.pts += shift
                packet.dts += shift
                packet.stream = self._stream
                self._mux(packet, segment)
        self.duration_s += frames / fps
        return start_s

    def _mux(self, packet: Any, segment: VideoSegment) -> None:
        with self._told():
            try:
                self._container.mux(packet)
            except FFmpegError as error:
                if (
                    error.errno != errno.EINVAL
                ):  # EINVAL comes from the timestamps, not from the disk
                    raise
                raise DataError(
                    f"{segment.path}: the episode at {segment.start_s:.4f} s cannot be copied: its "
                    "first frames must be decoded before the last ones of the previous episode"
                ) from error

    def close(self) -> None:
        """Writes the index."""
        with self._told():
            self._container.close()

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
    with _opened(path) as stream:
        context = stream.codec_context
        return (
            context.name,
            context.extradata,
            (stream.width, stream.height),
            context.pix_fmt,
            stream.time_base,
        )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens a file and returns its video stream."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path}: has no video stream")
            yield container.streams.video[0]
    except FFmpegError as error:
        raise DataError(f"{path}: cannot be copied ({error})") from error


def _packets(stream: Any, segment: VideoSegment, frames: int, fps: float) -> Iterator[Any]:
    """Yields the packets of an episode's frames, in file order."""
    base, origin = float(stream.time_base), stream.start_time or 0
    first = (segment.start_s - 0.5 / fps) / base + origin
    end = (segment.start_s + (frames - 0.5) / fps) / base + origin
    container = stream.container
    container.seek(round(segment.start_s / base) + origin, stream=stream, backward=True)
    found = 0
    for packet in container.demux(stream):
        if packet.pts is None or packet.pts < first:
            continue
        if packet.pts >= end:
            if packet.is_keyframe:
                break
            continue
        if not found and not packet.is_keyframe:
            raise DataError(
                f"{segment.path}: the episode at {segment.start_s:.4f} s does not begin at a "
                "keyframe, so it cannot be copied"
            )
        found += 1
        yield packet
    if found != frames:
        raise DataError(
            f"{segment.path}: expected {frames} frames from {segment.start_s:.4f} s on, got {found}"
        )
