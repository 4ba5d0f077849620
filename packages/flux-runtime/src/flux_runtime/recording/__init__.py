"""A run recorded as a LeRobot dataset, by `flux-data record` in a process of its own."""

from __future__ import annotations

from .dataset_recorder import DatasetRecorder, dataset_recorder

__all__ = ["DatasetRecorder", "dataset_recorder"]
