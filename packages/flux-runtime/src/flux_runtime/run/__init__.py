"""The command `flux-runtime run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .command import run as run
    from .recorded_episode import RecordedEpisode as RecordedEpisode
    from .recorded_episode import read_recording as read_recording

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "command": ("run",),
        "recorded_episode": ("RecordedEpisode", "read_recording"),
    },
)
