"""Finds the picture of each row: the one whose stamp is nearest to the row's time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError

TOLERANCE = 0.5
"""How far a row's time may be off its picture's stamp, in periods; training allows the same."""

REENCODE = "Use --reencode to write new videos that match the rows"
"""The remedy if rows and pictures cannot be copied as they are."""


def nearest_frames(
    stamps_s: NDArray[np.float64], times_s: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Returns for each time the place of the nearest stamp; `stamps_s` ascends."""
    after = np.clip(np.searchsorted(stamps_s, times_s), 1, max(len(stamps_s) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(stamps_s) - 1)
    is_before = times_s - stamps_s[before] <= stamps_s[after] - times_s
    return np.where(is_before, before, after)


def is_near(
    stamps_s: NDArray[np.float64],
    frames: NDArray[np.int64],
    times_s: NDArray[np.float64],
    fps: float,
) -> NDArray[np.bool_]:
    """Returns whether each frame is at most half a period off its row's time."""
    # Without the small part, float32 times of frames exactly between two stamps would vary.
    return np.abs(stamps_s[frames] - times_s) <= (TOLERANCE + 1e-6) / fps


def frames_of_rows(
    stamps_s: NDArray[np.float64],
    rows_s: NDArray[np.float64],
    start_s: float,
    fps: float,
    where: str,
) -> NDArray[np.int64]:
    """Returns the place of each row's picture in a video, ascending.

    Args:
        stamps_s: when each picture of the file is shown, ascending.
        rows_s: the rows' times, counted from the episode's start.
        start_s: where the episode starts in the file.
        fps: the rate of the rows.
        where: the file and the episode, for messages.

    Raises:
        DataError: a row has no picture, or two rows have the same one.
    """
    times_s = start_s + rows_s
    frames = nearest_frames(stamps_s, times_s)
    for row in np.flatnonzero(~is_near(stamps_s, frames, times_s, fps))[:1]:
        found_s = stamps_s[frames[row]]
        raise DataError(
            f"{where}: frame {row}: expected a picture at {times_s[row]:.4f} s (the row's time "
            f"{rows_s[row]:.4f} s{_from(start_s)}), got the nearest at {found_s:.4f} s, "
            f"{found_s - times_s[row]:+.4f} s off{_late(stamps_s, fps)}. {REENCODE}"
        )
    for row in np.flatnonzero(np.diff(frames) <= 0)[:1]:
        raise DataError(
            f"{where}: frame {row + 1}: expected a picture of its own, got the one at "
            f"{stamps_s[frames[row]]:.4f} s, which frame {row} has too (the rows' times are "
            f"{rows_s[row]:.4f} s and {rows_s[row + 1]:.4f} s{_from(start_s)}). {REENCODE}"
        )
    return frames


def _from(start_s: float) -> str:
    return f", from {start_s:.4f} s on" if start_s else ""


def _late(stamps_s: NDArray[np.float64], fps: float) -> str:
    is_late = abs(stamps_s[0]) > TOLERANCE / fps
    return f"; the video's first picture is at {stamps_s[0]:.4f} s" if is_late else ""
