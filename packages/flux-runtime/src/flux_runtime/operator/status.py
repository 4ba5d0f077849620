"""What an operator is shown: what happens, what comes, and what may be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from .commands import KEY_NAMES, CommandKind

State = Literal["idle", "running", "pausing", "paused", "homing", "ended", "question"]
AVAILABLE: Final[Mapping[State, Mapping[CommandKind, str]]] = {
    "idle": {
        "start": "begin",
        "next": "next task",
        "task": "type a task",
        "home": "prepare pose",
        "quit": "quit",
    },
    "running": {
        "pause": "pause",
        "success": "success",
        "failure": "failure",
        "quit": "quit",
    },
    "pausing": {"quit": "quit"},
    "paused": {
        "resume": "go on",
        "success": "success",
        "failure": "failure",
        "next": "end, next task",
        "home": "end, prepare pose",
        "quit": "quit",
    },
    "homing": {"pause": "stop", "quit": "quit"},
    "ended": {
        "success": "success",
        "failure": "failure",
        "start": "leave unmarked",
        "quit": "quit",
    },
    "question": {"yes": "yes"},
}
"""State -> what may be asked for in it, and what that does."""


@dataclass(frozen=True, kw_only=True)
class OperatorStatus:
    """One look at a run.

    Attributes:
        state: what happens. `ended` is after an episode that can still be judged.
        task: of the episode, in words.
        episode: its number, from 1; the coming one's while nothing runs.
        episodes: of the run.
        left_s: what is left of the episode's time; None while none runs.
        text: what has happened, or is asked; '' if there is nothing to say.
        typed: the task that is being typed; None if none is.
    """

    state: State
    task: str = ""
    episode: int = 1
    episodes: int = 1
    left_s: float | None = None
    text: str = ""
    typed: str | None = None

    @property
    def available(self) -> Mapping[CommandKind, str]:
        """What may be asked for now, and what that does."""
        return AVAILABLE[self.state]

    def keys(self) -> str:
        """Returns the keys with what they do, on one line."""
        if self.state == "question":
            return "y yes  any other key no"
        return "  ".join(f"{KEY_NAMES[kind]} {what}" for kind, what in self.available.items())

    def words(self) -> str:
        """Returns the words of the line protocol that may be sent."""
        return ", ".join(self.available)

    def what(self) -> str:
        """Returns what happens, without what may be asked for."""
        parts = [self.state, f"episode {self.episode} of {self.episodes}"]
        if self.typed is not None:
            return f"task: {self.typed}_   Enter takes it, Esc drops it"
        if self.left_s is not None:
            parts.append(f"{max(self.left_s, 0.0):.0f} s left")
        if self.state == "idle":
            parts[0] = "press Enter to begin"
        parts += [text for text in (repr(self.task) if self.task else "", self.text) if text]
        return " | ".join(parts)

    def as_data(self) -> dict[str, object]:
        """Returns the status as plain data."""
        return {
            "operator": self.state,
            "task": self.task,
            "episode": self.episode,
            "episodes": self.episodes,
            "left_s": self.left_s,
            "text": self.text,
            "commands": list(self.available),
        }


class Screen(Protocol):
    """Where the operator reads."""

    def show(self, status: OperatorStatus) -> None:
        """Shows what happens now, in place of what was shown before; called often."""
        ...

    def say(self, text: str) -> None:
        """Says something once."""
        ...


@dataclass(kw_only=True)
class SilentScreen:
    """Shows nothing, and keeps what was said."""

    said: list[str] = field(default_factory=list[str])
    states: list[State] = field(default_factory=list[State])

    def show(self, status: OperatorStatus) -> None:
        """Keeps a new state."""
        if not self.states or self.states[-1] != status.state:
            self.states.append(status.state)

    def say(self, text: str) -> None:
        """Keeps the text."""
        self.said.append(text)
