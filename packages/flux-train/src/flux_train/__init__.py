"""Trains pi0 and pi0.5 policies from LeRobot data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .config import TrainConfig as TrainConfig
    from .config import read_train_config as read_train_config
    from .trainer import Trainer as Trainer

__version__ = "2026.11.0"
__all__ = [
    "TrainConfig",
    "Trainer",
    "read_train_config",
    "__version__",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "config": ("TrainConfig", "read_train_config"),
        "trainer": ("Trainer",),
    },
)
