"""Everywhere a run reports its metrics: metrics.jsonl, trackers and the progress bar."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config.runner import VLAMetric
from ..failed_writes import FailedWrites
from .log import MetricsLog
from .trackers import Tracker, make_trackers
from .train_progress import TrainProgress


class Outputs:
    """The outputs of a run, opened by its main process."""

    def __init__(
        self,
        metric: VLAMetric,
        work_dir: Path,
        tree: Mapping[str, Any],
        step: int,
        progress: TrainProgress,
        failed: FailedWrites,
    ) -> None:
        """`step` is where the run starts or resumes; metrics of later steps are dropped."""
        self._work_dir, self._failed = work_dir, failed
        self._log = MetricsLog(work_dir / "metrics.jsonl", step)
        self._trackers = make_trackers(metric, work_dir, tree, step)
        self._progress = progress

    def write(self, values: Mapping[str, Any]) -> None:
        """Reports a line of metrics everywhere; a full disk does not stop the run."""
        with self._failed.tolerated(self._log.path):
            self._log.write(values)
        if not self._log.has_waiting:
            self._failed.forget(self._log.path)
        for tracker in self._trackers:
            with self._failed.tolerated(self._place_of(tracker)):
                tracker.log(values["step"], values)
        if "validation" not in values:
            self._progress.update(values)

    def close(self) -> None:
        """Flushes the log and closes the trackers."""
        with self._failed.tolerated(self._log.path):
            self._log.flush()
        if not self._log.has_waiting:
            self._failed.forget(self._log.path)
        for tracker in self._trackers:
            with self._failed.tolerated(self._place_of(tracker)):
                tracker.close()

    def _place_of(self, tracker: Tracker) -> Path:
        return self._work_dir / tracker.folder
