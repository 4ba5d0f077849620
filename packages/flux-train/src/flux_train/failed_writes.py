"""What could not be written, by a run that went on all the same."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger("flux.train")


class FailedWrites:
    """A full disk costs no training: it is told at once, and again where the run ends."""

    def __init__(self) -> None:
        self.checkpoints: list[str] = []
        self._others: dict[Path, list[str]] = {}

    def add_checkpoint(self, problem: str) -> None:
        """Remembers a checkpoint that is not there."""
        self.checkpoints.append(problem)
        logger.error("%s. Training goes on; the checkpoint before it is untouched", problem)

    @contextlib.contextmanager
    def tolerated(self, path: Path) -> Iterator[None]:
        """An error of the system's within it is remembered as one of `path`; the first is told."""
        try:
            yield
        except OSError as error:
            problems = self._others.setdefault(path, [])
            problems.append(error.strerror or str(error))
            if len(problems) == 1:
                logger.error("%s: cannot be written (%s). Training goes on", path, problems[0])

    def forget(self, path: Path) -> None:
        """Says that all of `path` was written after all."""
        if self._others.pop(path, None):
            logger.warning("%s: is written again, with what was missing", path)

    def summary(self) -> str | None:
        """One line about all of them; None if there are none."""
        parts = []
        if self.checkpoints:
            parts.append(
                f"{len(self.checkpoints)} checkpoints could not be written, the last one could; "
                f"first: {self.checkpoints[0]}"
            )
        parts += [
            f"{path}: could not be written {len(problems)} times ({problems[0]})"
            for path, problems in self._others.items()
        ]
        return "; ".join(parts) or None
