"""Checks of numbers that several configs share."""

from __future__ import annotations

from ..errors import ConfigError


def check_at_least(least: int, config: object, *names: str) -> None:
    """Refuses fields with a smaller number; None is no number, and passes.

    Args:
        least: the smallest allowed number.
        config: a config with these fields.
        names: of the fields.

    Raises:
        ConfigError: the message begins with the field's name.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and value < least:
            raise ConfigError(f"{name}: expected at least {least}, got {value}")
