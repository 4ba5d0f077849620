"""What an operator may ask for, as words of the line protocol and as keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from flux_core.errors import UsageError

CommandKind = Literal[
    "start", "pause", "resume", "next", "task", "home", "success", "failure", "quit", "yes"
]
KINDS: Final[tuple[CommandKind, ...]] = get_args(CommandKind)
KEYS: Final[dict[str, CommandKind]] = {
    "\r": "start",
    "\n": "start",
    " ": "pause",
    "r": "resume",
    "n": "next",
    "h": "home",
    "s": "success",
    "f": "failure",
    "q": "quit",
    "y": "yes",
}
TYPE_KEY: Final = "t"
"""Begins a task that is typed."""
KEY_NAMES: Final[dict[CommandKind, str]] = {
    "start": "Enter",
    "pause": "Space",
    "resume": "Enter",
    "next": "n",
    "task": "t",
    "home": "h",
    "success": "s",
    "failure": "f",
    "quit": "q",
    "yes": "y",
}
STOPS_AT_ONCE: Final[tuple[CommandKind, ...]] = ("pause", "quit")
"""The robot is stopped before anybody has looked at these."""
MAX_TASK = 1000
"""Characters of a typed task."""


@dataclass(frozen=True, kw_only=True)
class OperatorCommand:
    """One command of the operator.

    Attributes:
        kind: which one.
        text: the task of `task`; why, of a command that nobody has typed.
    """

    kind: CommandKind
    text: str = ""


def parse_line(line: str) -> OperatorCommand:
    """Returns the command of a line; an empty one is `start`.

    Raises:
        UsageError: it is none; the message says what is expected.
    """
    word, _, text = line.strip().partition(" ")
    if not word:
        return OperatorCommand(kind="start")
    for kind in KINDS:
        if word == kind and (kind == "task") == bool(text):
            return OperatorCommand(kind=kind, text=text.strip()[:MAX_TASK])
    words = ", ".join("task TEXT" if kind == "task" else kind for kind in KINDS)
    raise UsageError(f"operator: expected one of {words}, or an empty line for start, got {line!r}")
