"""`flux-export`: from a training checkpoint to a verified bundle (extra `flux-runtime[export]`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .options import ExportOptions as ExportOptions
    from .random_weights import random_policy as random_policy
    from .source.policy import TrainedPolicy as TrainedPolicy
    from .source.policy import load_bundled_policy as load_bundled_policy
    from .verify import open_sessions as open_sessions
    from .verify import run_loop as run_loop
    from .writer import export_bundle as export_bundle

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "options": ("ExportOptions",),
        "source.policy": ("TrainedPolicy", "load_bundled_policy"),
        "random_weights": ("random_policy",),
        "verify": ("open_sessions", "run_loop"),
        "writer": ("export_bundle",),
    },
)
