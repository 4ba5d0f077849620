"""Saves what can be saved of a damaged dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .notes import Note as Note
    from .repairing import repair as repair

__getattr__, __dir__ = lazy_exports(__name__, {"notes": ("Note",), "repairing": ("repair",)})
