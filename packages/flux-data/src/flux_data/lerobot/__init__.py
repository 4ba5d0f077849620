"""LeRobot datasets on disk: reading them, and writing them one episode at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .dataset import LeRobotDataset as LeRobotDataset
    from .dataset import VideoSegment as VideoSegment
    from .dataset import open_lerobot as open_lerobot
    from .recorder import EpisodeRecorder as EpisodeRecorder
    from .recorder import vector_feature as vector_feature
    from .recorder import video_feature as video_feature
    from .state_action import ACTION as ACTION
    from .state_action import STATE as STATE
    from .state_action import dimension_names as dimension_names
    from .statistics import RunningStats as RunningStats
    from .writer import WRITERS as WRITERS
    from .writer import DatasetWriter as DatasetWriter
    from .writer import Episode as Episode

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "dataset": ("LeRobotDataset", "VideoSegment", "open_lerobot"),
        "recorder": ("EpisodeRecorder", "vector_feature", "video_feature"),
        "state_action": ("ACTION", "STATE", "dimension_names"),
        "statistics": ("RunningStats",),
        "writer": ("DatasetWriter", "Episode", "WRITERS"),
    },
)
