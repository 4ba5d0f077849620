"""Finds what is wrong with a dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .fault import Fault as Fault
    from .rows import validate as validate

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "fault": ("Fault",),
        "rows": ("validate",),
    },
)
