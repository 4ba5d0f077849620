"""Checks a dropout setting."""

from __future__ import annotations

from ...errors import ConfigError


def check_dropout(share: float) -> None:
    """Refuses anything but a share below 1."""
    if not 0.0 <= share < 1.0:
        raise ConfigError(f"dropout: expected 0 <= share < 1, got {share}")
