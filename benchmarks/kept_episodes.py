"""Episodes that a benchmark plays in several processes and keeps, so that it can be continued."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

SEEDS_AT_ONCE = 50

Job = TypeVar("Job")


class KeptEpisodes:
    """A file with one line of JSON per finished episode, of any number of policies.

    Args:
        path: the file, which need not exist.
        bundle: the policy; the episodes of others are not returned.
    """

    def __init__(self, path: Path, bundle: Path) -> None:
        self._path, self._policy = path, policy_digest(bundle)

    def add(self, episodes: Iterable[Mapping[str, Any]]) -> None:
        """Appends episodes of the policy."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            for episode in episodes:
                file.write(json.dumps({"policy": self._policy, **episode}) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Returns the policy's episodes."""
        if not self._path.exists():
            return []
        lines = map(json.loads, self._path.read_text().splitlines())
        return [line for line in lines if line["policy"] == self._policy]


def policy_digest(bundle: Path) -> str:
    """Returns the beginning of the SHA-256 of a policy's weights."""
    return hashlib.sha256((bundle / "model.safetensors").read_bytes()).hexdigest()[:16]


def in_groups(seeds: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yields the seeds of one job after another."""
    for first in range(0, len(seeds), SEEDS_AT_ONCE):
        yield seeds[first : first + SEEDS_AT_ONCE]


def play_jobs(
    play: Callable[[Job], list[dict[str, Any]]],
    jobs: Sequence[Job],
    episodes: KeptEpisodes,
    *,
    processes: int,
) -> None:
    """Plays jobs in processes, keeps their episodes as soon as each has ended, and says how far it
    is."""
    begin = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_ignore_interrupt) as pool:
        futures = as_completed([pool.submit(play, job) for job in jobs])
        for done, future in enumerate(futures, start=1):
            episodes.add(future.result())
            spent = time.monotonic() - begin
            print(
                f"{done} of {len(jobs)} jobs after {spent:.0f} s, "
                f"{spent / done * (len(jobs) - done):.0f} s left",
                file=sys.stderr,
                flush=True,
            )


def _ignore_interrupt() -> None:
    """Leaves Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def print_rows(lines: Iterable[Sequence[str]], *, is_markdown: bool, width: int) -> None:
    """Prints a table, its header first, for a terminal or as in docs/numbers.md."""
    header, *rows = lines
    if is_markdown:
        for row in (header, ["---"] * len(header), *rows):
            print(f"| {' | '.join(row)} |")
        return
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    Console(width=width).print(table)
