"""The question before a robot is led back to its limits."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import TextIO

import pytest

from flux_runtime.control.session import RunOptions
from flux_runtime.run.console import RunConsole


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def keyboard() -> Iterator[tuple[int, TextIO]]:
    """The keyboard of a terminal, and the terminal."""
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "r", encoding="utf-8") as terminal:
        yield ours, terminal
    os.close(ours)


def ask(monkeypatch: pytest.MonkeyPatch, stdin: TextIO, *, is_cancelled: bool = False) -> bool:
    console = RunConsole(RunOptions(robot="toy"), is_json=True)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdin", stdin)
        patch.setattr("sys.stderr", Terminal())
        return console.confirm("Move elbow from 1.53 to 1.5 rad?", lambda: is_cancelled)


@pytest.mark.parametrize(
    ("answer", "agreed"), [("y", True), ("YES", True), ("", False), ("n", False)]
)
def test_only_a_yes_on_the_terminal_moves_the_robot(
    keyboard: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch, answer: str, agreed: bool
) -> None:
    os.write(keyboard[0], f"{answer}\n".encode())
    assert ask(monkeypatch, keyboard[1]) is agreed


def test_a_signal_ends_the_question(
    keyboard: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not ask(monkeypatch, keyboard[1], is_cancelled=True)


def test_without_a_terminal_the_option_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(monkeypatch, io.StringIO())
