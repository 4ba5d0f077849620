"""An episode that may be saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..lerobot.dataset import VideoSegment
from .runs import Run
from .source import DamagedDataset


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One episode of the source: its rows, its videos, and its line of metadata.

    Attributes:
        index: its number in the source.
        run: its rows.
        videos: where each camera's video is; the file may be missing.
        values: its line of metadata; may be empty.
        tasks: the texts of its rows' tasks.
        stats: its line of `episodes_stats.jsonl`; v3.0 has them in `values`.
    """

    index: int
    run: Run
    videos: Mapping[str, VideoSegment]
    values: Mapping[str, Any]
    tasks: tuple[str, ...]
    stats: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class EpisodesFound:
    """What was found of a dataset: its tasks' texts, and in order the episodes to be saved."""

    source: DamagedDataset
    tasks: Mapping[int, str]
    episodes: tuple[Candidate, ...]
