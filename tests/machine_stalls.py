"""Tests in real time on machines that other work shares.

A robot's computer has no other work. A machine that tests run on may stop every process for longer
than a control loop can bear, and a loop that then stops its robot is right. So a test in real time
comes before other work where that is permitted, and one that fails after the machine stood still is
run again. How still it stood is measured by a process beside the tests that only sleeps.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

TRIES = 3
STALL_S, SHORT_STALL_S = 0.03, 0.012
"""A sleep that ends so late is a stall, for loops of 25 and 50 Hz and for one of 200 Hz: they
cannot go on after a few times as much."""
FASTEST = "integration/test_rates.py"
NICENESS = -10
REAL_TIME = (
    "cpp/test_realtime_loop.py",
    "flux_runtime/control/test_realtime_episode.py",
    "flux_runtime/operator/test_operator_run.py",
    "flux_runtime/realtime/",
    "flux_runtime/remote/test_realtime_remote.py",
    "flux_runtime/remote/test_remote_operator.py",
    "flux_runtime/recording/",
    "flux_runtime/replay/",
    "flux_runtime/run/test_run_realtime.py",
    "integration/test_dataset_recording.py",
    "integration/test_faults_",
    FASTEST,
    "integration/test_your_own.py::test_the_real_driver",
    "remote/test_realtime_runs.py",
    "robots/",
    "test_machine_stalls.py",
)
"""Tests in which a robot is driven in real time: how their names begin."""

_SLEEPER = f"""
import time
print("ready", flush=True)
while True:
    began = time.monotonic()
    time.sleep(0.005)
    if (late := time.monotonic() - began - 0.005) > {SHORT_STALL_S}:
        print(late, flush=True)
"""


class Attempt:
    """Which try of a test this is, from 0; runs that tests of a module share are repeated, too."""

    number = 0


def is_real_time(item: pytest.Item) -> bool:
    """Whether a robot is driven in real time in the test."""
    return _name(item).startswith(REAL_TIME)


def _name(item: pytest.Item) -> str:
    return item.nodeid.removeprefix("tests/")


def run_undisturbed(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Runs a test and reports it; again if it failed after the machine stood still."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for Attempt.number in range(TRIES):
        with _before_other_work():
            since = _first_of_module(item.path)
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
        has_failed = any(report.failed for report in reports)
        if Attempt.number + 1 == TRIES or not has_failed:
            break
        longest_s = max(_watch().stalls_s()[since:], default=0.0)
        if longest_s <= (SHORT_STALL_S if _name(item).startswith(FASTEST) else STALL_S):
            break
        print(f"{item.nodeid}: run again: the machine stood still for {longest_s:.3f} s")
        item._initrequest()  # type: ignore[attr-defined]  # new fixtures
    Attempt.number = 0
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


class _Watch:
    """Collects the machine's stalls until this process ends."""

    def __init__(self) -> None:
        self._stalls_s: list[float] = []
        command = [sys.executable, "-c", _SLEEPER]
        self._sleeper = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._sleeper.stdout is not None
        assert self._sleeper.stdout.readline() == "ready\n"
        threading.Thread(target=self._read, daemon=True).start()
        atexit.register(self._sleeper.kill)

    def stalls_s(self) -> list[float]:
        """Returns the stalls until now, in seconds."""
        time.sleep(0.05)  # until the last one has been told
        return list(self._stalls_s)

    def _read(self) -> None:
        assert self._sleeper.stdout is not None
        for line in self._sleeper.stdout:
            self._stalls_s.append(float(line))


@cache
def _watch() -> _Watch:
    return _Watch()


@cache
def _first_of_module(path: Path) -> int:
    """Returns the number of stalls before a module's tests, which may share runs."""
    return len(_watch().stalls_s())


@contextlib.contextmanager
def _before_other_work() -> Iterator[None]:
    """Gives this thread, and those and the processes it starts, a better place in the queue."""
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, min(NICENESS, usual))
        yield
    finally:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, usual)
