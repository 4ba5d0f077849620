"""A run recorded as a LeRobot dataset, by `flux-data record` in a process of its own."""

from __future__ import annotations

from .dataset_recorder import DatasetRecorder, dataset_recorder
from .recorder_process import recorder_command

__all__ = ["DatasetRecorder", "dataset_recorder", "recorder_command"]
