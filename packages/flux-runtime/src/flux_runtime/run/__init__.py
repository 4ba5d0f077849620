"""The command `flux-runtime run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .command import run as run

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "command": ("run",),
    },
)
