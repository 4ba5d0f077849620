"""Checks from a video's header that an episode's rows and the pictures belong together.

The picture of a row is the one whose stamp is nearest to the row's time. Where a video has exactly
as many pictures as there are rows, counting must lead to the same pictures: otherwise the times,
or the place at which the episode begins, are wrong, and every row would get another's picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError

from .pairing import TOLERANCE, nearest_frames

REENCODE = "`flux-data convert --reencode` writes new videos that match the rows"
"""The remedy if rows and pictures contradict each other."""


@dataclass(frozen=True, kw_only=True)
class VideoExtent:
    """What the header of a video says: the first and the last stamp, and how many pictures.

    `last_s` is None and `num_frames` 0 if the header does not say.
    """

    first_s: float
    last_s: float | None
    num_frames: int


@dataclass(frozen=True, kw_only=True, eq=False)
class EpisodeTimes:
    """The times of an episode's rows in a video.

    Attributes:
        path: the video.
        where: the episode, for messages.
        times_s: the time of each row in the video, in seconds, ascending.
        fps: rate of the rows.
        rows_before: how many rows the earlier episodes in the file have; None if not known.
        rows_in_file: how many rows all episodes in the file have.
    """

    path: Path
    where: str
    times_s: NDArray[np.float64]
    fps: float
    rows_before: int | None = None
    rows_in_file: int | None = None

    def check(
        self, extent: VideoExtent, stamps_s: Callable[[], NDArray[np.float64]] | None = None
    ) -> None:
        """Refuses rows that do not belong to the video's pictures.

        Args:
            extent: what the video's header says.
            stamps_s: reads the stamps of all pictures, which takes long: only called if the header
                leaves doubts. Default: reads the packets of the file.

        Raises:
            DataError: the first or the last row has no picture, or not the one that counting gives.
        """
        if not self._surely_fit(extent):
            self.check_stamps(self._read_stamps() if stamps_s is None else stamps_s())

    def _read_stamps(self) -> NDArray[np.float64]:
        from .packets import packets_of

        return packets_of(self.path).stamps_s

    @property
    def _slack_s(self) -> float:
        # Without the small part, float32 times exactly between two stamps would vary.
        return (TOLERANCE + 1e-6) / self.fps

    def _surely_fit(self, extent: VideoExtent) -> bool:
        """Whether the rows belong to a video with evenly spaced pictures."""
        first, last = float(self.times_s[0]), float(self.times_s[-1])
        if extent.last_s is None or extent.num_frames < 1:
            return False
        if first < extent.first_s - self._slack_s or last > extent.last_s + self._slack_s:
            return False
        if self.rows_before is None or extent.num_frames != self.rows_in_file:
            return True
        period = (extent.last_s - extent.first_s) / max(extent.num_frames - 1, 1)
        expected = extent.first_s + period * self.rows_before
        length = period * (len(self.times_s) - 1)
        return max(abs(first - expected), abs(last - expected - length)) <= self._slack_s

    def check_stamps(self, stamps_s: NDArray[np.float64]) -> None:
        """Refuses rows that do not belong to the pictures with these stamps, ascending.

        Raises:
            DataError: as `check`.
        """
        is_one_each = self.rows_before is not None and len(stamps_s) == self.rows_in_file
        rows = np.array([0, len(self.times_s) - 1])
        frames = nearest_frames(stamps_s, self.times_s[rows])
        for row, frame in zip(rows.tolist(), frames.tolist(), strict=True):
            time_s = self.times_s[row]
            if abs(stamps_s[frame] - time_s) > self._slack_s:
                remedy = f". {REENCODE}" if is_one_each else ""
                raise DataError(
                    f"{self.path}: {self.where}, frame {row}: expected a picture at {time_s:.4f} "
                    f"s, the row's time, got {len(stamps_s)} pictures from {stamps_s[0]:.4f} s to "
                    f"{stamps_s[-1]:.4f} s{remedy}"
                )
            if is_one_each and frame != (self.rows_before or 0) + row:
                raise DataError(
                    f"{self.path}: {self.where}, frame {row}: expected picture "
                    f"{(self.rows_before or 0) + row} of the video, which has one for each row, "
                    f"got picture {frame} at the row's time, {time_s:.4f} s. {REENCODE}"
                )
