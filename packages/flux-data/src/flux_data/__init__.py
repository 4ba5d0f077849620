"""LeRobot data: reading, windows, mixtures, scripted demonstrations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .lerobot import DatasetWriter as DatasetWriter
    from .lerobot import EpisodeRecorder as EpisodeRecorder
    from .lerobot import LeRobotDataset as LeRobotDataset
    from .lerobot import open_lerobot as open_lerobot
    from .samples import ParquetDataset as ParquetDataset

__version__ = "2026.11.0"
__all__ = [
    "DatasetWriter",
    "EpisodeRecorder",
    "LeRobotDataset",
    "ParquetDataset",
    "open_lerobot",
    "__version__",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "lerobot": ("DatasetWriter", "EpisodeRecorder", "LeRobotDataset", "open_lerobot"),
        "samples": ("ParquetDataset",),
    },
)
