"""Checks the videos of an episode: the file, its size, a picture for each row, and every frame."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError

from ..lerobot.dataset import LeRobotDataset, LeRobotV2, VideoSegment
from ..lerobot.metadata import image_size
from ..pictures.row_pictures import Sharing, sharing_of
from ..video.pairing import TOLERANCE, is_near, nearest_frames
from ..video.reader import VideoFacts, VideoReader, video_facts
from .fault import Fault, episode_fault


def even_times(source: LeRobotDataset, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the times that evenly spaced rows have.

    They begin at 0, or at the first row's time if there are videos, which may begin then too.
    """
    is_late = bool(source.video_keys) and times[0] > TOLERANCE / source.fps
    return np.arange(len(times)) / source.fps + (times[0] if is_late else 0.0)


class VideoChecks:
    """Checks the videos of one episode after the other."""

    def __init__(
        self, source: LeRobotDataset, *, decode: bool, overlapping: Collection[str] = ()
    ) -> None:
        """Checks nothing yet.

        Args:
            source: the dataset.
            decode: whether to decode every frame, or to read only their stamps.
            overlapping: the videos in which episodes are known to overlap.
        """
        self._source, self._overlapping = source, overlapping
        self._reader = VideoReader(max_open=len(source.video_keys) or 1) if decode else None
        self._sharing = lru_cache(maxsize=None)(lambda key: sharing_of(source, key))

    def faults(self, position: int) -> Iterator[Fault]:
        """Yields the faults of an episode's videos."""
        rows_s = self._rows_s(position)
        for key in self._source.video_keys:
            yield from self._faults_of(key, position, rows_s)

    def _rows_s(self, position: int) -> NDArray[np.float64]:
        """Returns the rows' times; those of evenly spaced rows if theirs are reported as wrong."""
        source = self._source
        even = np.arange(int(source.lengths[position])) / source.fps
        try:
            times = source.read_episode(position, ["timestamp"])["timestamp"]
        except DataError:  # reported with the episode
            return even
        is_number = np.issubdtype(times.dtype, np.number) and times.size == len(even)
        times = times.ravel().astype(np.float64) if is_number else even
        if not np.isfinite(times).all():
            return even
        even = even_times(source, times)
        is_even = np.abs(times - even) <= TOLERANCE / source.fps
        return times if is_even.all() and (np.diff(times) > 0).all() else even

    def _faults_of(self, key: str, position: int, rows_s: NDArray[np.float64]) -> Iterator[Fault]:
        source, segment = self._source, self._source.video(key, position)
        path = segment.path
        if not path.is_file():
            yield episode_fault(
                source, position, "video_missing", path, "the video file is missing"
            )
            return
        try:
            facts = video_facts(path)
        except DataError as error:
            message = str(error).partition(": ")[2]
            yield episode_fault(source, position, "video_damaged", path, message)
            return
        height, width = image_size(source.info["features"][key])
        if (facts.height, facts.width) != (height, width):
            message = f"expected {height}x{width} (info.json), got {facts.height}x{facts.width}"
            yield episode_fault(source, position, "video_size", path, message)
        faults = list(self._pairing_faults(key, position, segment, facts, rows_s))
        yield from faults
        # A v3.0 video joins many episodes.
        is_own = isinstance(source, LeRobotV2) and not faults
        if is_own and self._has_other_pictures(facts.times_s, rows_s):
            message = f"expected {len(rows_s)} frames (the metadata), got {len(facts.times_s)}"
            yield episode_fault(source, position, "video_length", path, message)
        if self._reader is not None and not faults:
            yield from self._picture_faults(key, position, segment, rows_s)

    def _has_other_pictures(
        self, stamps_s: NDArray[np.float64], rows_s: NDArray[np.float64]
    ) -> bool:
        """Whether a video has pictures before its first row or after its last one.

        A camera that is faster than the rows has pictures between them too.
        """
        if len(stamps_s) == len(rows_s):
            return False
        half_s = (TOLERANCE + 1e-6) / self._source.fps
        is_outside = (stamps_s < rows_s[0] - half_s) | (stamps_s > rows_s[-1] + half_s)
        return bool(is_outside.any())

    def _pairing_faults(
        self,
        key: str,
        position: int,
        segment: VideoSegment,
        facts: VideoFacts,
        rows_s: NDArray[np.float64],
    ) -> Iterator[Fault]:
        """Yields the first contradiction between the rows' times and the pictures' stamps."""
        source, stamps_s, times_s = self._source, facts.times_s, segment.start_s + rows_s
        frames = nearest_frames(stamps_s, times_s)
        missing = np.flatnonzero(~is_near(stamps_s, frames, times_s, source.fps))
        if len(missing):
            late = f". The video begins at {stamps_s[0]:.4f} s"
            message = (
                f"{len(missing)} of {len(rows_s)} frames are not in the video; first: frame "
                f"{missing[0]} at {times_s[missing[0]]:.4f} s"
                f"{late if abs(stamps_s[0]) > TOLERANCE / source.fps else ''}"
            )
            frame = int(missing[0])
            yield episode_fault(source, position, "video_frames", segment.path, message, frame)
            return
        for row in np.flatnonzero(np.diff(frames) <= 0)[:1]:
            message = f"{key}: frames {row} and {row + 1} have the same picture, by their times"
            yield episode_fault(
                source, position, "video_frames", segment.path, message, int(row) + 1
            )
            return
        yield from self._shift_faults(key, position, segment, len(stamps_s), frames)

    def _shift_faults(
        self,
        key: str,
        position: int,
        segment: VideoSegment,
        num_pictures: int,
        frames: NDArray[np.int64],
    ) -> Iterator[Fault]:
        """Yields the first row whose picture is another than the one that counting gives."""
        sharing: Sharing = self._sharing(key)
        is_one_each = num_pictures == sharing.rows_in_file[position]
        if not is_one_each or str(segment.path) in self._overlapping:
            return
        expected = sharing.rows_before[position] + np.arange(len(frames))
        for row in np.flatnonzero(frames != expected)[:1]:
            message = (
                f"{key}: frame {row}: expected picture {expected[row]} of the video, which has one "
                f"for each row, got picture {frames[row]} at the row's time"
            )
            yield episode_fault(
                self._source, position, "video_shift", segment.path, message, int(row)
            )

    def _picture_faults(
        self, key: str, position: int, segment: VideoSegment, rows_s: NDArray[np.float64]
    ) -> Iterator[Fault]:
        """Decodes an episode's frames and yields the first that fails."""
        source, reader, path = self._source, self._reader, segment.path
        assert reader is not None
        decode = reader.check if key in source.depth_keys else reader.frame
        for frame, time_s in enumerate(segment.start_s + rows_s):
            try:
                decode(path, float(time_s), (TOLERANCE + 1e-6) / source.fps)
            except DataError as error:
                message = f"frame {frame}: {str(error).partition(': ')[2]}"
                yield episode_fault(source, position, "video_frame", path, message, frame)
                return
