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
from .lines import Line
from .notes import Notes
from .runs import Run
from .source import DamagedDataset

FRAMES_OFF = 0.5
"""The tolerance of times, in frames."""


def segments_of(
    source: DamagedDataset, line: Line, run: Run, notes: Notes
) -> dict[str, VideoSegment]:
    """Returns where the metadata says that an episode's pictures are.

    Raises:
        DataError: it does not say so, or gives the episode fewer pictures than rows.
    """
    found: dict[str, VideoSegment] = {}
    for key in source.video_keys:
        stated = line.values.get(f"videos/{key}/from_timestamp")
        path, start = source.named_video(key, line), _time(stated)
        if path is None or start is None:
            raise DataError(f"videos/{key}: expected a file and a time, got {path} and {stated}")
        found[key] = VideoSegment(path=path, start_s=start)
        _check_pictures(source, key, path, line, run, notes)
    return found


def _check_pictures(
    source: DamagedDataset, key: str, path: Path, line: Line, run: Run, notes: Notes
) -> None:
    """Compares the number of pictures that the metadata states with the number of rows."""
    pictures = _stated_pictures(line.values, key, source.fps)
    if pictures is None or pictures == run.length:
        return
    stated = line.values.get("length")
    if pictures < run.length and stated != run.length:
        raise DataError(f"videos/{key}: expected {run.length} pictures (rows), got {pictures}")
    if pictures > run.length and stated == pictures:
        message = f"{key}: {pictures - run.length} pictures after the last row"
        notes.left_out(path, message, line.index)
    else:
        message = f"videos/{key}/to_timestamp: expected that of {run.length} rows"
        notes.corrected(line.file, f"{message}, got that of {pictures}", line.index)


def _stated_pictures(values: Mapping[str, Any], key: str, fps: float) -> int | None:
    start, end = (_time(values.get(f"videos/{key}/{name}_timestamp")) for name in ("from", "to"))
    return None if start is None or end is None else round((end - start) * fps)


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


def _time(value: object) -> float | None:
    """Returns a time of 0 or more; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None
