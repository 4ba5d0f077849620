"""Runs episodes: a robot, a policy and the C++ control loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .episode import EpisodeResult as EpisodeResult
    from .episode import run_episode as run_episode
    from .session import OpenedPolicy as OpenedPolicy
    from .session import RunOptions as RunOptions
    from .session import Session as Session
    from .session import connected as connected
    from .session import drive as drive
    from .session import open_policy as open_policy
    from .session import shipped_policy as shipped_policy

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "episode": ("EpisodeResult", "run_episode"),
        "session": (
            "OpenedPolicy",
            "RunOptions",
            "Session",
            "connected",
            "drive",
            "open_policy",
            "shipped_policy",
        ),
    },
)
