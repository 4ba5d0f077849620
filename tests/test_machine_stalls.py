"""Tests in real time are run again only if the machine disturbed them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from .machine_stalls import Attempt

ATTEMPTS: list[Path] = []
NICENESS: list[int] = []


def stop_the_sleeper(seconds: float) -> None:
    """Stops the processes that this one has started, as a machine that stands still does."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGSTOP)
    time.sleep(seconds)
    for child in children:
        os.kill(int(child), signal.SIGCONT)
    time.sleep(0.05)  # until they have noticed


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_what_fails_while_the_machine_stands_still_is_run_again(tmp_path: Path) -> None:
    assert Attempt.number == len(ATTEMPTS)
    ATTEMPTS.append(tmp_path)
    NICENESS.append(os.getpriority(os.PRIO_PROCESS, 0))
    if len(ATTEMPTS) == 1:
        stop_the_sleeper(0.1)
        raise AssertionError("the first attempt, which the machine disturbed")
    assert len(ATTEMPTS) == 2
    assert ATTEMPTS[0] != ATTEMPTS[1]  # with new fixtures
    assert len(set(NICENESS)) == 1
