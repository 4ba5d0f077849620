"""Where episodes are in the joined videos of a damaged v3.0 dataset."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flux_core.errors import DataError

from ..lerobot.dataset import VideoSegment
from .candidate import Candidate
from .lines import Line, whole_number
from .notes import Notes
from .runs import Run

PLACE = ("chunk_index", "file_index", "from_timestamp")
FRAMES_OFF = 0.5
"""The tolerance of times, in frames."""


def segments_of(
    root: Path, info: Mapping[str, Any], keys: Sequence[str], line: Line, run: Run, notes: Notes
) -> dict[str, VideoSegment]:
    """Returns where the metadata says that an episode's pictures are.

    Raises:
        DataError: it does not say so, or gives the episode fewer pictures than rows.
    """
    found: dict[str, VideoSegment] = {}
    for key in keys:
        start = line.values.get(f"videos/{key}/from_timestamp")
        path = video_file(root, info, key, line.values)
        if path is None or not is_time(start):
            got = {name: line.values.get(f"videos/{key}/{name}") for name in PLACE}
            raise DataError(f"videos/{key}: expected a file and a time, got {got}")
        found[key] = VideoSegment(path=path, start_s=float(start))
        pictures = _stated_pictures(line.values, key, float(info["fps"]))
        if pictures is not None and pictures < run.length:
            raise DataError(f"videos/{key}: expected {run.length} pictures (rows), got {pictures}")
        stated = line.values.get("length")
        if pictures is not None and pictures > run.length and stated == pictures:
            lost = f"{key}: {pictures - run.length} pictures after the last row"
            notes.left_out(path, lost, line.index)
    return found


def video_file(
    root: Path, info: Mapping[str, Any], key: str, values: Mapping[str, Any]
) -> Path | None:
    """Returns the video file that a line of metadata names for a camera; None if it names none."""
    numbers = [whole_number(values.get(f"videos/{key}/{name}")) for name in PLACE[:2]]
    if None in numbers:
        return None
    place = dict(zip(PLACE, numbers, strict=False))
    return root / info["video_path"].format(video_key=key, **place)


def _stated_pictures(values: Mapping[str, Any], key: str, fps: float) -> int | None:
    start, end = (values.get(f"videos/{key}/{k}_timestamp") for k in ("from", "to"))
    return round((end - start) * fps) if is_time(start) and is_time(end) else None


def without_overlaps(episodes: Sequence[Candidate], fps: float, notes: Notes) -> list[Candidate]:
    """Leaves out the episodes that share pictures with another one."""
    wrong: dict[int, str] = {}
    for key in episodes[0].videos if episodes else ():
        files: dict[Path, list[Candidate]] = {}
        for episode in episodes:
            files.setdefault(episode.videos[key].path, []).append(episode)
        for sharing in files.values():
            wrong |= dict(_overlaps(sorted(sharing, key=lambda e: e.videos[key].start_s), key, fps))
    for episode in episodes:
        if episode.index in wrong:
            file, _, message = wrong[episode.index].partition(": ")
            notes.left_out(file, message, episode.index)
    return [episode for episode in episodes if episode.index not in wrong]


def _overlaps(episodes: Sequence[Candidate], key: str, fps: float) -> Iterator[tuple[int, str]]:
    """Yields the episodes, sorted by start, that are wrong where two share pictures.

    Where only one of the two contradicts its own length, the other is right.
    """
    for one, two in itertools.pairwise(episodes):
        end_s = one.videos[key].start_s + one.run.length / fps
        if two.videos[key].start_s >= end_s - FRAMES_OFF / fps:
            continue
        pair = {one.index: two.index, two.index: one.index}
        at_odds = [
            each.index
            for each in (one, two)
            if _stated_pictures(each.values, key, fps) not in (None, each.run.length)
        ]
        for index in at_odds if len(at_odds) == 1 else pair:
            path = one.videos[key].path
            yield index, f"{path}: {key}: shares pictures with episode {pair[index]}"


def is_time(value: object) -> bool:
    """Whether a value is a time of 0 or more."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0
