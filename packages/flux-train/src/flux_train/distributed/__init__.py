"""The processes of a run, and the network spread over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .parallel import recompute as recompute
    from .ranks import Ranks as Ranks
    from .ranks import joined_ranks as joined_ranks

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "parallel": ("recompute",),
        "ranks": ("Ranks", "joined_ranks"),
    },
)
