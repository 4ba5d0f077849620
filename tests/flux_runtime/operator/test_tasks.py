"""Which task an episode gets, and what a status line says, without a robot."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from flux_core.errors import UsageError
from flux_runtime.control.policy_source import BundleSource
from flux_runtime.control.realtime_session import RealtimeSession
from flux_runtime.operator import (
    LineSource,
    OperatorDesk,
    OperatorStation,
    OperatorStatus,
    SilentScreen,
)

TASKS = {"1": "pick up the cup", "2": "put it down"}


@dataclass(frozen=True)
class FakeSession:
    """What a station needs of a session that stands."""

    prompt: str = "pick up the cup"
    options: Any = field(default_factory=lambda: SimpleNamespace(episodes=1))
    driver: Any = field(default_factory=lambda: SimpleNamespace(failure=None, events=list))

    def raise_if_signalled(self) -> None: ...

    def outside_limits(self) -> list[Any]:
        return []

    def with_task(self, task: str) -> FakeSession:
        if len(task) > 40:
            raise UsageError("task: too long")
        return replace(self, prompt=task)


def chosen(tasks: Mapping[str, str], *lines: str) -> tuple[str, SilentScreen]:
    """Returns the task after these lines and a start, and what was said."""
    read, write = os.pipe()
    screen = SilentScreen()
    os.write(write, "".join(f"{line}\n" for line in (*lines, "start")).encode())
    session: Any = FakeSession()
    with OperatorDesk(LineSource(read)) as desk:
        found = OperatorStation(desk, screen, tasks).choose(session, 1)
    os.close(read)
    os.close(write)
    assert found is not None
    return found.prompt, screen


def test_next_takes_the_tasks_of_the_policy_in_turn() -> None:
    assert chosen(TASKS, "next")[0] == "put it down"
    assert chosen(TASKS, "next", "next")[0] == "pick up the cup"
    assert chosen(TASKS, "task wave", "next")[0] == "pick up the cup"
    prompt, screen = chosen({"1": "pick up the cup"}, "next")
    assert prompt == "pick up the cup"
    assert screen.said == ["next: this policy has no other tasks; send or type one"]


def test_a_task_is_words_or_the_key_of_one() -> None:
    assert chosen(TASKS, "task 2")[0] == "put it down"
    assert chosen(TASKS, "task wave to me")[0] == "wave to me"
    prompt, screen = chosen(TASKS, f"task {'very ' * 20}long")
    assert (prompt, screen.said) == ("pick up the cup", ["task: too long"])


def test_a_task_with_too_many_tokens_is_refused_and_not_cut() -> None:
    source = BundleSource.__new__(BundleSource)
    vars(source)["_encoder"] = SimpleNamespace(most_tokens=lambda task: len(task.split()))
    vars(source)["_manifest"] = SimpleNamespace(max_prompt_tokens=3)
    session: Any = SimpleNamespace(source=source)
    with pytest.raises(UsageError, match="expected at most 3 tokens, got 4. Shorten it, or"):
        RealtimeSession.with_task(session, "pick up the cup")


def test_the_line_says_what_happens_and_what_may_be_asked_for() -> None:
    status = OperatorStatus(state="running", task="wave", episode=2, episodes=3, left_s=41.7)
    assert status.what() == "running | episode 2 of 3 | 42 s left | 'wave'"
    assert status.keys() == "Space pause  s success  f failure  q quit"
    assert status.words() == "pause, success, failure, quit"
    assert OperatorStatus(state="idle").what().startswith("press Enter to begin")
    typed = OperatorStatus(state="paused", typed="reach")
    assert typed.what() == "task: reach_   Enter takes it, Esc drops it"
    assert status.as_data()["commands"] == ["pause", "success", "failure", "quit"]
