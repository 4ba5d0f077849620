"""What a run reports about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .log import read_metrics as read_metrics
    from .throughput import counted_flops as counted_flops
    from .throughput import peak_flops as peak_flops

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "log": ("read_metrics",),
        "throughput": ("counted_flops", "peak_flops"),
    },
)
