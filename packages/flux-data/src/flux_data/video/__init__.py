"""Video files: reading frames by their time, and writing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .reader import VideoReader as VideoReader
    from .writer import VideoWriter as VideoWriter

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "reader": ("VideoReader",),
        "writer": ("VideoWriter",),
    },
)
