"""Checks the order of transforms: each one declares what it must precede."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..errors import ConfigError
from .base import Transform


def check_order(transforms: Sequence[Transform], where: str) -> None:
    """Refuses an order in which the robot could not undo what is done to actions.

    Args:
        transforms: all transforms of a config, in order.
        where: their dotted path, for messages.

    Raises:
        ConfigError: a transform comes after one that it must precede, or occurs twice.
    """
    for kind, count in Counter(type(transform) for transform in transforms).items():
        if kind.once and count > 1:
            raise ConfigError(f"{where}: expected {kind.__name__} once, got {count} of them")
    for place, transform in enumerate(transforms):
        for earlier in transforms[:place]:
            if isinstance(earlier, transform.before):
                raise ConfigError(
                    f"{where}: expected {type(transform).__name__} before "
                    f"{type(earlier).__name__}, got it after"
                )
