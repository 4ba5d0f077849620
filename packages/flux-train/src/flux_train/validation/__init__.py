"""Held-out validation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .validator import Validation as Validation
    from .validator import Validator as Validator

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "validator": ("Validation", "Validator"),
    },
)
