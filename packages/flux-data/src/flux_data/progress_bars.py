"""Progress bars on stderr, alike for every command of `flux-data`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

Advance = Callable[[str, int, int], None]
"""Takes the name of a bar, what is done, and all of it."""


@contextlib.contextmanager
def progress_bars(console: Console, *names: str) -> Iterator[Advance]:
    """Shows a bar for each name while the context lasts."""
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        tasks = {name: progress.add_task(name, total=None) for name in names}

        def advance(name: str, done: int, total: int) -> None:
            progress.update(tasks[name], completed=done, total=total)

        yield advance
