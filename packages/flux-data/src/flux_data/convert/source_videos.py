"""The videos of a dataset's episodes: which pictures of each file belong to which rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError

from ..lerobot.dataset import LeRobotDataset, LeRobotV3
from ..video.packets import packets_of
from ..video.pairing import REENCODE, frames_of_rows, is_near, nearest_frames

NOBODY = -1

MAX_SHIFT = 0.8
"""How far rows may move against their pictures from one row to the next, in periods."""

NUM_BESIDE = 16
"""How many rows before and after tell jitter from a lost picture."""

MAX_STRETCH = 4.0
"""How many times the steps of the rows' times may differ from the period; milliseconds do more."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A picture that the rows of two episodes claim."""

    first: int
    second: int
    stamp_s: float


class SourceVideos:
    """Pairs the rows of a dataset with pictures, over all episodes of a file.

    In a joined video, an episode whose start is wrong finds pictures of its neighbours. Whether it
    is, only the neighbours can tell.
    """

    def __init__(self, source: LeRobotDataset) -> None:
        self._source = source
        self._claims: dict[Path, list[Claim]] = {}
        self._sharing: dict[str, dict[Path, list[int]]] = {}

    def times_s(self, position: int) -> NDArray[np.float64]:
        """Returns the times of an episode's rows, (frames,)."""
        times = self._source.read_episode(position, ["timestamp"])["timestamp"]
        return times.ravel().astype(np.float64)

    def episodes_in(self, key: str, path: Path) -> Sequence[int]:
        """Returns the episodes whose video of this camera is in a file."""
        if key not in self._sharing:
            found = self._sharing[key] = dict[Path, list[int]]()
            for position in range(self._source.num_episodes):
                found.setdefault(self._source.video(key, position).path, []).append(position)
        return self._sharing[key][path]

    def check(self, key: str, position: int) -> None:
        """Refuses an episode whose rows and pictures contradict each other.

        Raises:
            DataError: a row has no picture, or shares one with another row of any episode.
        """
        try:
            self._check_claims(key, position)
            self._frames(key, position)
        except DataError:
            self.pictures(key, position)  # refuses if a new encoding is no remedy either
            raise

    def _frames(self, key: str, position: int) -> NDArray[np.int64]:
        segment = self._source.video(key, position)
        where = f"{segment.path}: episode {self._source.episode_indices[position]}, {key}"
        stamps_s, rows_s = packets_of(segment.path).stamps_s, self.times_s(position)
        return frames_of_rows(stamps_s, rows_s, segment.start_s, self._source.fps, where)

    def _check_claims(self, key: str, position: int) -> None:
        if not isinstance(self._source, LeRobotV3):
            return  # each episode has its own file
        path = self._source.video(key, position).path
        if path not in self._claims:
            self._claims[path] = self._claims_of(key, path)
        for claim in self._claims[path]:
            if position in (claim.first, claim.second):
                indices = self._source.episode_indices[[claim.first, claim.second]]
                raise DataError(
                    f"{path}: {key}: expected a picture of its own for each row, got the one at "
                    f"{claim.stamp_s:.4f} s for episodes {indices[0]} and {indices[1]}. The "
                    f"from_timestamp of one of them is wrong. {REENCODE}"
                )

    def _claims_of(self, key: str, path: Path) -> list[Claim]:
        stamps_s = packets_of(path).stamps_s
        owner = np.full(len(stamps_s), NOBODY)
        found: list[Claim] = []
        for position in self.episodes_in(key, path):
            try:
                rows_s = self.times_s(position)
            except DataError:  # reported if this episode is copied too
                continue
            times_s = self._source.video(key, position).start_s + rows_s
            frames = nearest_frames(stamps_s, times_s)
            frames = frames[is_near(stamps_s, frames, times_s, self._source.fps)]
            for frame in frames[owner[frames] != NOBODY][:1]:
                stamp_s = float(stamps_s[frame])
                found.append(Claim(first=int(owner[frame]), second=position, stamp_s=stamp_s))
            owner[frames] = position
        return found

    def pictures(self, key: str, position: int) -> tuple[NDArray[np.int64], bool]:
        """Returns the picture of each row for a new encoding, and whether times tell which it is.

        If the times contradict each other, but the file has exactly as many pictures as rows, they
        belong together in this order. If it has not, rows may share the picture nearest to them.

        Raises:
            DataError: neither times nor numbers tell which pictures are the rows'.
        """
        try:
            self._check_claims(key, position)
            return self._frames(key, position), True
        except DataError as error:
            found = self._by_order(key, position)
            if found is not None:
                self._check_unit(key, position)
                return found, False
            return self._shared(key, position, error), True

    def _by_order(self, key: str, position: int) -> NDArray[np.int64] | None:
        """Pairs rows and pictures of a file in their order.

        Returns None if there are more of one kind, one is lost in between, or the starts, of which
        one is wrong, order the episodes otherwise than their numbers.
        """
        source, path = self._source, self._source.video(key, position).path
        sharing = sorted(self.episodes_in(key, path), key=lambda p: source.video(key, p).start_s)
        counts = [int(source.lengths[p]) for p in sharing]
        stamps_s = packets_of(path).stamps_s
        if sum(counts) != len(stamps_s) or sharing != sorted(sharing):
            return None
        frames = sum(counts[: sharing.index(position)]) + np.arange(source.lengths[position])
        # A lost picture shifts the others, although one more at the end makes up the number.
        return None if has_jump(stamps_s, frames, self.times_s(position)) else frames

    def _check_unit(self, key: str, position: int) -> None:
        """Refuses times in another unit than seconds: no encoding makes them right."""
        steps_s, period_s = np.diff(self.times_s(position)), 1 / self._source.fps
        step_s = float(np.median(steps_s)) if len(steps_s) else period_s
        if not period_s / MAX_STRETCH <= step_s <= period_s * MAX_STRETCH:
            raise DataError(
                f"{self._source.where(position)}, timestamp: expected rows about "
                f"{period_s:.4g} s apart (fps in info.json), got {step_s:.4g} s, for which "
                f"{key} has no pictures. Correct the times, which are in seconds, or fps"
            )

    def _shared(self, key: str, position: int, error: DataError) -> NDArray[np.int64]:
        """Takes the nearest picture for each row.

        Raises:
            DataError: `error` and more, if there is none, or another episode claims it too.
        """
        segment = self._source.video(key, position)
        stamps_s, times_s = packets_of(segment.path).stamps_s, self.times_s(position)
        times_s = segment.start_s + times_s
        frames = nearest_frames(stamps_s, times_s)
        claims = self._claims.get(segment.path, ())
        is_contested = any(position in (claim.first, claim.second) for claim in claims)
        if is_contested or not is_near(stamps_s, frames, times_s, self._source.fps).all():
            rows = sum(int(self._source.lengths[p]) for p in self.episodes_in(key, segment.path))
            but = "" if rows != len(stamps_s) else f", but {self._why_not(key, segment.path)}"
            raise DataError(
                f"{str(error).partition(REENCODE)[0]}The file has {len(stamps_s)} pictures and its "
                f"episodes have {rows} rows{but}, so their order does not tell either"
            ) from error
        return frames

    def _why_not(self, key: str, path: Path) -> str:
        """Says why as many pictures as rows cannot be paired in their order."""
        starts_s = [self._source.video(key, p).start_s for p in self.episodes_in(key, path)]
        if starts_s != sorted(starts_s):
            return "the episodes do not start in the order of their numbers"
        return "one is lost or added between others"


def has_jump(
    stamps_s: NDArray[np.float64], frames: NDArray[np.int64], rows_s: NDArray[np.float64]
) -> bool:
    """Whether rows and pictures, paired in order, move apart by a picture somewhere for good.

    Times that begin elsewhere, run at another rate or jitter do not.

    Args:
        stamps_s: the stamps of all pictures in the file.
        frames: the place of each row's picture among them.
        rows_s: the rows' times.
    """
    if len(rows_s) < 2:
        return False
    period_s = float(np.median(np.diff(stamps_s)))
    off = (stamps_s[frames] - rows_s * period_s / np.median(np.diff(rows_s))) / period_s
    places = np.flatnonzero(np.abs(np.diff(off)) > MAX_SHIFT / 2) + 1
    return any(
        abs(np.median(off[k : k + NUM_BESIDE]) - np.median(off[max(k - NUM_BESIDE, 0) : k]))
        > MAX_SHIFT
        for k in places.tolist()
    )
