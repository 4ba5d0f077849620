"""Names of weights without what DDP, torch.compile, FSDP and activation checkpointing add."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from ...errors import CheckpointError

logger = logging.getLogger("flux.checkpoint")

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""The names under which these wrappers keep a module: DDP, compile, FSDP, checkpointing."""

Tensor = TypeVar("Tensor")


def without_wrappers(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Returns the tensors under the names that they have without wrappers, with one warning.

    Args:
        tensors: a file's tensors by name; wrappers may be nested and anywhere in a name.
        path: the file, for messages.

    Raises:
        CheckpointError: two tensors get the same name.
    """
    found: dict[str, Tensor] = {}
    changed: dict[str, str] = {}
    for name, tensor in tensors.items():
        steps = name.split(".")
        plain = ".".join(step for step in steps[:-1] if step not in WRAPPERS)
        plain = f"{plain}.{steps[-1]}" if plain else steps[-1]
        if plain in found:
            raise CheckpointError(f"{path}: expected each weight once, got {plain} and {name}")
        found[plain] = tensor
        if plain != name:
            changed[name] = plain
    if changed:
        first = next(iter(changed))
        logger.warning(
            "%s: %d names lose the prefixes of DDP, torch.compile or FSDP (%s is read as %s)",
            *(path, len(changed), first, changed[first]),
        )
    return found
