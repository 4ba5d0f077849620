"""Finds the tasks of a suite that a user names."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UsageError


def choose_tasks(
    suite: str, labels: Sequence[tuple[str, str]], wanted: Sequence[str]
) -> tuple[int, ...]:
    """Returns the tasks named by number or by (part of) their name or instruction; all by default.

    Args:
        suite: the suite's name, for the error.
        labels: each task's name and instruction.
        wanted: the user's input.

    Raises:
        UsageError: an entry of `wanted` matches no task, or several.
    """
    found = {_find_task(suite, labels, text) for text in wanted}
    return tuple(i for i in range(len(labels)) if not wanted or i in found)


def _find_task(suite: str, labels: Sequence[tuple[str, str]], text: str) -> int:
    if text.isdecimal() and int(text) < len(labels):
        return int(text)
    exact = [i for i, label in enumerate(labels) if text in label]
    found = exact or [i for i, label in enumerate(labels) if any(text in part for part in label)]
    if len(found) != 1:
        those = "no such task" if not found else f"{len(found)} tasks have that in their names"
        raise UsageError(
            f"--task {text}: {those}. Name one of {suite}'s by its number, 0 to "
            f"{len(labels) - 1}, or by its name, such as {labels[found[0] if found else 0][0]}"
        )
    return found[0]
