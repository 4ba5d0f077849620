"""What a policy predicts for recordings, compared with the actions that were recorded."""

from __future__ import annotations

from .comparison import Chunk, Comparison, RecordedEpisode
from .source import Recorded, RecordedSource, played_whole

__all__ = [
    "Chunk",
    "Comparison",
    "Recorded",
    "RecordedEpisode",
    "RecordedSource",
    "played_whole",
]
