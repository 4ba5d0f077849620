"""How constants come from the tensors of a bundle, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What every recipe is."""
