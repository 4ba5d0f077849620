"""What a policy predicts for recordings, compared with the actions that were recorded."""

from __future__ import annotations

from .comparison import Chunk, Comparison, PlayedEpisode
from .source import PlaysRecordings, RecordedSource, played_whole

__all__ = [
    "Chunk",
    "Comparison",
    "PlaysRecordings",
    "PlayedEpisode",
    "RecordedSource",
    "played_whole",
]
