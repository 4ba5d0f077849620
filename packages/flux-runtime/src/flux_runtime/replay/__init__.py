"""The command `flux-runtime replay`: runs recorded episodes again, bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .command import ReplayOptions as ReplayOptions
    from .command import replay as replay
    from .comparison import EpisodeComparison as EpisodeComparison

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "command": ("ReplayOptions", "replay"),
        "comparison": ("EpisodeComparison",),
    },
)
