"""The progress bar of an export."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

Report = Callable[[str, int, int], None]
"""Called with the name of the current step, the number of finished steps, and their total."""


class ExportSteps:
    """Counts the steps of an export for its progress bar."""

    def __init__(self, report: Report, total: int) -> None:
        self._report, self._total, self._done = report, total, 0

    def begin(self, what: str) -> None:
        """Reports that the next step has begun."""
        self._report(what, self._done, self._total)
        self._done += 1


@contextmanager
def shown_progress() -> Iterator[Report]:
    """Yields a function that shows each step on stderr."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "{task.description}")
    console = Console(stderr=True)
    is_off = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=is_off) as progress:
        bar = progress.add_task("reading the checkpoint", total=None)
        yield lambda what, done, total: progress.update(
            bar, description=what, completed=done, total=total
        )
