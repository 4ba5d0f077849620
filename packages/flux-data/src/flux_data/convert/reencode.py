"""Writes new videos for episodes whose videos cannot be copied as they are."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from ..lerobot.dataset import LeRobotDataset, VideoSegment
from ..video.encoders import Reencoder
from ..video.packets import packets_of
from .source_videos import SourceVideos

logger = logging.getLogger("flux.data")


class ReencodedVideos:
    """Encodes exactly the pictures of an episode's rows, at the rows' times.

    The new videos have the codec, pixel format, size and rate of the old ones, and begin at a
    keyframe.
    """

    def __init__(self, folder: Path) -> None:
        """`folder` is where the writer takes them from."""
        self._folder = folder
        self._encoder = Reencoder()
        self._count = 0
        self._told: set[str] = set()

    def __call__(
        self, source: LeRobotDataset, key: str, position: int, videos: SourceVideos
    ) -> VideoSegment:
        """Returns the new video of an episode."""
        frames, is_by_time = videos.pictures(key, position)
        like = source.video(key, position).path
        if packets_of(like).num_sound_tracks and f"{key}: sound" not in self._told:
            self._told.add(f"{key}: sound")
            logger.warning("%s: the sound of %s is not copied", like, key)
        if not is_by_time and key not in self._told:
            self._told.add(key)
            logger.warning(
                "%s: times of rows and pictures contradict each other; joined in their order, "
                "because there are as many of both",
                like,
            )
        path = self._folder / str(self._count) / f"{key}.mp4"
        self._count += 1
        times_s = videos.times_s(position)
        self._encoder.write(key, like, frames, times_s, source.fps, path)
        return VideoSegment(path=path)

    def report(self) -> dict[str, Any]:
        """Returns for each camera how it was encoded, and the PSNR of its worst picture in dB.

        It is None if no sample changed.
        """
        worst = self._encoder.worst_db
        return {
            key: {
                "encoder": used,
                "min_psnr_db": round(worst[key], 1) if math.isfinite(worst[key]) else None,
            }
            for key, used in self._encoder.used.items()
        }
