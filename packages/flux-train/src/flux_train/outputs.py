"""Everything that is told while a run goes on: metrics.jsonl, trackers, the progress bar."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .metrics import MetricsLog
from .progress import TrainProgress
from .runner_config import VLAMetric
from .trackers import make_trackers


class Outputs:
    """Of the main process."""

    def __init__(
        self,
        metric: VLAMetric,
        work_dir: Path,
        tree: Mapping[str, Any],
        step: int,
        progress: TrainProgress,
    ) -> None:
        """`step` is where the run begins or goes on; what was told of later ones is dropped."""
        self._log = MetricsLog(work_dir / "metrics.jsonl", step)
        self._trackers = make_trackers(metric, work_dir, tree, step)
        self._progress = progress

    def write(self, values: Mapping[str, Any]) -> None:
        """Tells a line of the metrics to all."""
        self._log.write(values)
        for tracker in self._trackers:
            tracker.log(values["step"], values)
        if "validation" not in values:
            self._progress.update(values)

    def close(self) -> None:
        """Ends what has an end."""
        for tracker in self._trackers:
            tracker.close()
