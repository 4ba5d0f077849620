"""Keeps track of what a run could not write while it continued training."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger("flux.train")


class FailedWrites:
    """A full disk does not stop training: it is logged at once, and again at the end of the run."""

    def __init__(self) -> None:
        self.checkpoints: list[str] = []
        self._others: dict[Path, list[str]] = {}

    def add_checkpoint(self, problem: str) -> None:
        """Records a checkpoint that could not be written."""
        self.checkpoints.append(problem)
        logger.error("%s. Training continues; the previous checkpoint is untouched", problem)

    @contextlib.contextmanager
    def tolerated(self, path: Path) -> Iterator[None]:
        """Records an OSError inside the block as one of `path`, and logs the first one."""
        try:
            yield
        except OSError as error:
            problems = self._others.setdefault(path, [])
            problems.append(error.strerror or str(error))
            if len(problems) == 1:
                logger.error("%s: cannot be written (%s). Training continues", path, problems[0])

    def forget(self, path: Path) -> None:
        """Drops the failures of `path`, of which everything has now been written."""
        if self._others.pop(path, None):
            logger.warning("%s: can be written again, and nothing is missing from it", path)

    def summary(self) -> str | None:
        """All failures in one line; None if there were none."""
        parts = []
        if self.checkpoints:
            parts.append(
                f"{len(self.checkpoints)} checkpoints could not be written, but the last one was; "
                f"first failure: {self.checkpoints[0]}"
            )
        parts += [
            f"{path}: could not be written {len(problems)} times ({problems[0]})"
            for path, problems in self._others.items()
        ]
        return "; ".join(parts) or None
