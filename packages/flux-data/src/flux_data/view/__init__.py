"""The HTML page that `flux-data view` writes: one file that needs nothing else."""

from __future__ import annotations

from .page import write_view

__all__ = ["write_view"]
