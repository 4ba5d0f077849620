"""An episode that may be saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..lerobot.dataset import VideoSegment
from .runs import Run


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
class Survey:
    """What was found of a dataset.

    Attributes:
        root: the dataset.
        info: its `info.json`, with usable paths.
        tasks: task_index -> text.
        episodes: the episodes that may be saved, in order.
    """

    root: Path
    info: Mapping[str, Any]
    tasks: Mapping[int, str]
    episodes: tuple[Candidate, ...]

    @property
    def is_v3(self) -> bool:
        """Whether files hold several episodes."""
        return self.info["codebase_version"] == "v3.0"

    @property
    def video_keys(self) -> tuple[str, ...]:
        """Features stored as video."""
        features = self.info["features"]
        return tuple(key for key, feature in features.items() if feature["dtype"] == "video")
