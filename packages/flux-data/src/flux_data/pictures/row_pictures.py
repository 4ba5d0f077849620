"""Checks, before an episode's pictures are used, that they are those of its rows.

Training reads single frames, so a shift of a whole episode would not be noticed: all its rows but
the last would find a picture, that of another row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError

from ..lerobot.dataset import LeRobotDataset, VideoSegment
from ..video.packets import packets_of
from ..video.pairing import TOLERANCE, nearest_frames
from ..video.reader import VideoReader
from ..video.row_times import REENCODE, EpisodeTimes

NOBODY = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class Sharing:
    """How the episodes of one camera share video files, by position.

    Attributes:
        before: the episode that precedes each one in its file, or NOBODY.
        after: the episode that follows each one in its file, or NOBODY.
        rows_before: how many rows precede each episode in its file.
        rows_in_file: how many rows the episodes of its file have together.
    """

    before: NDArray[np.int64]
    after: NDArray[np.int64]
    rows_before: NDArray[np.int64]
    rows_in_file: NDArray[np.int64]


def sharing_of(source: LeRobotDataset, camera: str) -> Sharing:
    """Returns how a camera's episodes share files, from the metadata."""
    segments = [source.video(camera, position) for position in range(source.num_episodes)]
    number: dict[object, int] = {}
    files = np.array([number.setdefault(s.path, len(number)) for s in segments])
    order = np.lexsort((np.array([s.start_s for s in segments]), files))
    lengths, is_same = source.lengths[order], np.diff(files[order]) == 0
    ends = np.cumsum(lengths)
    starts = np.flatnonzero(np.concatenate(([True], ~is_same)))
    first_row = np.repeat((ends - lengths)[starts], np.diff(np.append(starts, len(order))))
    totals = np.repeat(np.add.reduceat(lengths, starts), np.diff(np.append(starts, len(order))))
    found = {
        "before": np.where(np.concatenate(([False], is_same)), np.roll(order, 1), NOBODY),
        "after": np.where(np.concatenate((is_same, [False])), np.roll(order, -1), NOBODY),
        "rows_before": ends - lengths - first_row,
        "rows_in_file": totals,
    }
    back = np.argsort(order)
    return Sharing(**{name: values[back] for name, values in found.items()})


class RowPictures:
    """Checks the episodes of a dataset, each once per camera."""

    def __init__(self, source: LeRobotDataset) -> None:
        self.source = source
        self._sharing: dict[str, Sharing] = {}
        self._good: set[tuple[str, int]] = set()

    def check(
        self, camera: str, position: int, rows_s: NDArray[np.float64], reader: VideoReader
    ) -> VideoSegment:
        """Returns an episode's video, or refuses one whose pictures are not those of its rows.

        Args:
            camera: the camera.
            position: the episode's position.
            rows_s: the times of all its rows, since its start.
            reader: opens the video.

        Raises:
            DataError: the video is missing or damaged, or contradicts the rows.
        """
        segment = self.source.video(camera, position)
        if (camera, position) in self._good:
            return segment
        if camera not in self._sharing:
            self._sharing[camera] = sharing_of(self.source, camera)
        sharing = self._sharing[camera]
        EpisodeTimes(
            path=segment.path,
            where=f"{camera}, episode {self.source.episode_indices[position]}",
            times_s=segment.start_s + rows_s,
            fps=self.source.fps,
            rows_before=int(sharing.rows_before[position]),
            rows_in_file=int(sharing.rows_in_file[position]),
        ).check(reader.extent(segment.path))
        for pair in (
            (int(sharing.before[position]), position),
            (position, int(sharing.after[position])),
        ):
            if NOBODY not in pair and self._may_overlap(camera, pair):
                self._check_apart(camera, pair)
        self._good.add((camera, position))
        return segment

    def _may_overlap(self, camera: str, pair: Sequence[int]) -> bool:
        first, second = (self.source.video(camera, position).start_s for position in pair)
        return second - first < (self.source.lengths[pair[0]] - TOLERANCE) / self.source.fps

    def _check_apart(self, camera: str, pair: tuple[int, int]) -> None:
        """Refuses two episodes, one after the other in a file, that share a picture."""
        path = self.source.video(camera, pair[0]).path
        stamps_s = packets_of(path).stamps_s
        ends = []
        for position, row in zip(pair, (-1, 0), strict=True):
            times_s = self.source.episode(position, ["timestamp"])["timestamp"].ravel()
            start_s = self.source.video(camera, position).start_s
            ends.append(start_s + times_s[row : row + 1 or None].astype(np.float64))
        last, following = (int(nearest_frames(stamps_s, each)[0]) for each in ends)
        if last >= following:
            indices = " and ".join(str(self.source.episode_indices[p]) for p in pair)
            raise DataError(
                f"{path}: {camera}: expected pictures of its own for each episode, got the one at "
                f"{stamps_s[following]:.4f} s for episodes {indices}. The from_timestamp of one of "
                f"them is wrong. {REENCODE}"
            )
