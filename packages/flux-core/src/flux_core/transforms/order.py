"""In which order transforms of states and actions can be undone on the robot."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigError
from .actions import NormalizeStatesAndActions, PadKeyToDim, RelativeActions
from .aloha import DIMS, GRIPPERS, AlohaToPi

BEFORE: tuple[tuple[type, type], ...] = (
    (AlohaToPi, RelativeActions),
    (AlohaToPi, PadKeyToDim),
    (AlohaToPi, NormalizeStatesAndActions),
    (RelativeActions, NormalizeStatesAndActions),
)


def check_order(transforms: Sequence[object], where: str) -> None:
    """Refuses what the robot could not undo with one scale, one offset and the observed state.

    Args:
        transforms: all transforms of a config, in order.
        where: their dotted path, for messages.

    Raises:
        ConfigError: a wrong order, one of them twice, or a relative gripper after AlohaToPi.
    """
    kinds = [type(transform) for transform in transforms]
    for kind in (AlohaToPi, RelativeActions):
        if kinds.count(kind) > 1:
            raise ConfigError(
                f"{where}: expected {kind.__name__} once, got it {kinds.count(kind)} times"
            )
    for first, second in BEFORE:
        if {first, second} <= set(kinds) and kinds.index(first) > kinds.index(second):
            raise ConfigError(
                f"{where}: expected {first.__name__} before {second.__name__}, got it after"
            )
    if AlohaToPi in kinds and RelativeActions in kinds:
        relative = next(t for t in transforms if isinstance(t, RelativeActions))
        if len(relative.mask) != DIMS or any(relative.mask[i] for i in GRIPPERS):
            raise ConfigError(
                f"{where}: RelativeActions.mask: after AlohaToPi expected {DIMS} entries with "
                f"False at {GRIPPERS[0]} and {GRIPPERS[1]} (a gripper's action and state differ in "
                f"unit), got {relative.mask}"
            )
