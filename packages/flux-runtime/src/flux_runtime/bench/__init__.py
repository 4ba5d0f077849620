"""The command `flux-runtime bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .roofline import hardware as hardware

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "roofline": ("hardware",),
    },
)
