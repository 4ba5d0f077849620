"""The training data on its way to the loop: batches, steps, and what happens if they stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .batches import LostDataError as LostDataError
    from .batches import PeerLostDataError as PeerLostDataError
    from .batches import batches_left as batches_left
    from .train_data import TrainData as TrainData

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "batches": ("LostDataError", "PeerLostDataError", "batches_left"),
        "train_data": ("TrainData",),
    },
)
