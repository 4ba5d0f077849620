"""The question before a robot is led back to its limits."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import pytest

from flux_runtime.control.session import RunOptions
from flux_runtime.run.console import RunConsole


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The other end of a terminal that is standard input."""
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "r", encoding="utf-8") as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        monkeypatch.setattr("sys.stderr", Terminal())
        yield ours
    os.close(ours)


def ask(is_cancelled: bool = False) -> bool:
    console = RunConsole(RunOptions(robot="toy"), is_json=True)
    return console.confirm("Move elbow from 1.53 to 1.5 rad?", lambda: is_cancelled)


@pytest.mark.parametrize(
    ("answer", "agreed"), [("y", True), ("YES", True), ("", False), ("n", False)]
)
def test_only_a_yes_on_the_terminal_moves_the_robot(
    keyboard: int, answer: str, agreed: bool
) -> None:
    os.write(keyboard, f"{answer}\n".encode())
    assert ask() is agreed


def test_a_signal_ends_the_question(keyboard: int) -> None:
    assert not ask(is_cancelled=True)


def test_without_a_terminal_the_option_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert ask()
