"""Checks that an episode's rows and the pictures of its video belong together.

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

TOLERANCE = 0.5
"""How far a row's time may be off its picture's stamp, in periods: beyond it is another picture."""

REENCODE = "`flux-data convert --reencode` writes new videos that match the rows"


@dataclass(frozen=True, kw_only=True)
class VideoExtent:
    """What the header of a video says: the first and the last stamp, and how many pictures.

    `last_s` is None and `num_frames` 0 if the header does not say.
    """

    first_s: float
    last_s: float | None
    num_frames: int


@dataclass(frozen=True, kw_only=True)
class EpisodeRows:
    """The rows of an episode beside a video.

    Attributes:
        path: the video.
        where: the episode, for messages.
        times_s: the time of each row in the video, in seconds, ascending.
        fps: rate of the rows.
        rows_before: how many rows the file's earlier episodes have; None if that is not known.
        rows_in_file: how many rows all episodes in the file have.
    """

    path: Path
    where: str
    times_s: NDArray[np.float64]
    fps: float
    rows_before: int | None = None
    rows_in_file: int | None = None

    @property
    def slack_s(self) -> float:
        """How far a time may be off a stamp."""
        # Without the small part, float32 times exactly between two stamps would vary.
        return (TOLERANCE + 1e-6) / self.fps

    def fit(self, extent: VideoExtent) -> bool:
        """Whether the rows surely belong to a video with evenly spaced pictures."""
        first, last = float(self.times_s[0]), float(self.times_s[-1])
        if extent.last_s is None or extent.num_frames < 1:
            return False
        if first < extent.first_s - self.slack_s or last > extent.last_s + self.slack_s:
            return False
        if self.rows_before is None or extent.num_frames != self.rows_in_file:
            return True
        period = (extent.last_s - extent.first_s) / max(extent.num_frames - 1, 1)
        expected = extent.first_s + period * self.rows_before
        length = period * (len(self.times_s) - 1)
        return max(abs(first - expected), abs(last - expected - length)) <= self.slack_s

    def check(self, stamps_s: NDArray[np.float64]) -> None:
        """Refuses rows that do not belong to the pictures with these stamps, ascending.

        Raises:
            DataError: the first or the last row has no picture, or not the one that counting gives.
        """
        ends = np.array([0, len(self.times_s) - 1])
        frames = nearest(stamps_s, self.times_s[ends])
        for row, frame in zip(ends.tolist(), frames.tolist(), strict=True):
            if abs(stamps_s[frame] - self.times_s[row]) > self.slack_s:
                raise DataError(
                    f"{self.path}: {self.where}, frame {row}: expected a picture at "
                    f"{self.times_s[row]:.4f} s, the row's time, got pictures from "
                    f"{stamps_s[0]:.4f} s to {stamps_s[-1]:.4f} s. {REENCODE}"
                )
            if self.rows_before is None or len(stamps_s) != self.rows_in_file:
                continue
            if frame != self.rows_before + row:
                raise DataError(
                    f"{self.path}: {self.where}, frame {row}: expected picture "
                    f"{self.rows_before + row} of the video, which has one per row, got picture "
                    f"{frame} at the row's time, {self.times_s[row]:.4f} s. {REENCODE}"
                )


def nearest(stamps_s: NDArray[np.float64], times_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns for each time the place of the nearest stamp; `stamps_s` ascends."""
    after = np.clip(np.searchsorted(stamps_s, times_s), 0, len(stamps_s) - 1)
    before = np.maximum(after - 1, 0)
    is_before = times_s - stamps_s[before] <= stamps_s[after] - times_s
    return np.where(is_before, before, after)


def check_rows(
    rows: EpisodeRows, extent: VideoExtent, stamps_s: Callable[[], NDArray[np.float64]]
) -> None:
    """Refuses rows that do not belong to a video.

    Args:
        rows: the rows.
        extent: what the video's header says.
        stamps_s: reads the stamp of every picture, which takes long; only called if the header
            leaves doubts.

    Raises:
        DataError: as `EpisodeRows.check`.
    """
    if not rows.fit(extent):
        rows.check(stamps_s())
