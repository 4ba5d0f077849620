"""What a repair did: one note per thing left out, corrected, or left as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["left_out", "corrected", "remaining"]
"""Of `left_out`, something is not in the result; `remaining` needs a person's judgement."""


@dataclass(frozen=True, kw_only=True)
class Note:
    """One line of the report.

    Attributes:
        kind: what was done.
        file: the file of the source that the note is about.
        episode: the episode's number in the source, or None.
        message: what was wrong.
    """

    kind: Kind
    file: str
    episode: int | None = None
    message: str

    def line(self) -> str:
        """Returns the note as one line of text."""
        where = self.file if self.episode is None else f"episode {self.episode}: {self.file}"
        return f"{self.kind.replace('_', ' ')}: {where}: {self.message}"


class Notes:
    """Collects notes; the same note is kept once."""

    def __init__(self) -> None:
        self._notes: dict[Note, None] = {}

    def left_out(self, file: Path | str, message: str, episode: int | None = None) -> None:
        """Notes that something is not in the result."""
        self._add("left_out", file, message, episode)

    def episodes_left_out(self) -> set[int]:
        """Returns the episodes that have such a note."""
        return {n.episode for n in self if n.kind == "left_out" and n.episode is not None}

    def corrected(self, file: Path | str, message: str, episode: int | None = None) -> None:
        """Notes that the result says something else than the source, and loses nothing by it."""
        self._add("corrected", file, message, episode)

    def remaining(self, file: Path | str, message: str, episode: int | None = None) -> None:
        """Notes a fault that the result has too."""
        self._add("remaining", file, message, episode)

    def _add(self, kind: Kind, file: Path | str, message: str, episode: int | None) -> None:
        self._notes[Note(kind=kind, file=str(file), episode=episode, message=message)] = None

    def __iter__(self) -> Iterator[Note]:
        return iter(self._notes)

    def lists(self) -> dict[str, list[dict[str, Any]]]:
        """Returns the notes by kind, as JSON has them."""
        kinds: tuple[Kind, ...] = ("left_out", "corrected", "remaining")
        return {
            kind: [
                {"file": note.file, "episode": note.episode, "message": note.message}
                for note in self
                if note.kind == kind
            ]
            for kind in kinds
        }
