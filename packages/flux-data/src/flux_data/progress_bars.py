"""Progress bars on stderr, the same for every command of `flux-data`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

Advance = Callable[[str, int, int], None]
"""Called with the name of a bar, how much is done, and how much there is."""


@contextlib.contextmanager
def progress_bars(console: Console, *names: str) -> Iterator[Advance]:
    """Shows one bar per name until the context ends."""
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        tasks = {name: progress.add_task(name, total=None) for name in names}

        def advance(name: str, done: int, total: int) -> None:
            progress.update(tasks[name], completed=done, total=total)

        yield advance
