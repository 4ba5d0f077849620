"""The config of a training run, and its checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .runner import DDPTrainRunner as DDPTrainRunner
    from .runner import FSDPTrainRunner as FSDPTrainRunner
    from .runner import SingleTrainRunner as SingleTrainRunner
    from .runner import TrainRunner as TrainRunner
    from .runner import VLAMetric as VLAMetric
    from .tree import TrainConfig as TrainConfig
    from .tree import TrainDataloader as TrainDataloader
    from .tree import bind_train_config as bind_train_config
    from .tree import read_train_config as read_train_config

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "runner": (
            "DDPTrainRunner",
            "FSDPTrainRunner",
            "SingleTrainRunner",
            "TrainRunner",
            "VLAMetric",
        ),
        "tree": ("TrainConfig", "TrainDataloader", "bind_train_config", "read_train_config"),
    },
)
