"""LeRobot datasets on disk: reading, and writing an episode at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .dataset import LeRobotDataset as LeRobotDataset
    from .dataset import VideoSegment as VideoSegment
    from .dataset import open_lerobot as open_lerobot
    from .recorder import EpisodeRecorder as EpisodeRecorder
    from .statistics import RunningStats as RunningStats
    from .statistics import dimension_names as dimension_names
    from .writer import WRITERS as WRITERS
    from .writer import DatasetWriter as DatasetWriter
    from .writer import Episode as Episode

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "dataset": ("LeRobotDataset", "VideoSegment", "open_lerobot"),
        "recorder": ("EpisodeRecorder",),
        "statistics": ("RunningStats", "dimension_names"),
        "writer": ("DatasetWriter", "Episode", "WRITERS"),
    },
)
