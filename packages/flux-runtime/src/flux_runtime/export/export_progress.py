"""The progress bar of an export."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

Report = Callable[[str, int, int], None]
"""Is told what is being done, and which of how many steps that is."""


@contextmanager
def shown_progress() -> Iterator[Report]:
    """Shows on stderr what the yielded function is told."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "{task.description}")
    console = Console(stderr=True)
    is_off = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=is_off) as progress:
        bar = progress.add_task("reading the checkpoint", total=None)
        yield lambda what, done, total: progress.update(
            bar, description=what, completed=done, total=total
        )
