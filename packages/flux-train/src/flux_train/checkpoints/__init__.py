"""Checkpoints of a training run: files, shards, and which one a run resumes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .choice import checkpoint_to_resume as checkpoint_to_resume
    from .files import save_checkpoint as save_checkpoint
    from .keeper import CheckpointKeeper as CheckpointKeeper
    from .sharded import consolidate as consolidate

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "choice": ("checkpoint_to_resume",),
        "files": ("save_checkpoint",),
        "keeper": ("CheckpointKeeper",),
        "sharded": ("consolidate",),
    },
)
