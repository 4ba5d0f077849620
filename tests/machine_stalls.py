"""Tests in real time on machines that other work shares.

A robot's computer has no other work. A machine that tests run on may stop every process for longer
than a control loop can bear, and a loop that then stops its robot is right. So a test in real time
comes before other work where that is permitted, and one that fails while the machine stood still is
run again. How still it stood is measured by a process beside the test that only sleeps.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from _pytest.runner import runtestprotocol

TRIES = 3
STALL_S = 0.03
"""A sleep that ends so late is a stall: with those below it a loop of 50 Hz can go on."""
NICENESS = -10
REAL_TIME = (
    "cpp/test_realtime_loop.py",
    "flux_runtime/control/test_realtime_episode.py",
    "flux_runtime/realtime/",
    "flux_runtime/run/test_run_realtime.py",
    "integration/test_faults_",
    "integration/test_rates.py",
    "integration/test_your_own.py::test_the_real_driver",
    "test_machine_stalls.py",
)
"""Tests in which a robot is driven in real time: how their names begin."""

_SLEEPER = f"""
import time
print("ready", flush=True)
while True:
    began = time.monotonic()
    time.sleep(0.005)
    if (late := time.monotonic() - began - 0.005) > {STALL_S}:
        print(late, flush=True)
"""


def is_real_time(item: pytest.Item) -> bool:
    """Whether a robot is driven in real time in the test."""
    return item.nodeid.removeprefix("tests/").startswith(REAL_TIME)


def run_undisturbed(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Runs a test and reports it; again if it failed while the machine stood still."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for left in reversed(range(TRIES)):
        with _measured_stalls() as stalls, _before_other_work():
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
        if not (left and stalls and any(report.failed for report in reports)):
            break
        print(f"{item.nodeid}: run again: the machine stood still for {max(stalls):.3f} s")
        item._initrequest()  # type: ignore[attr-defined]  # new fixtures
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


@contextlib.contextmanager
def _measured_stalls() -> Iterator[list[float]]:
    """Yields a list that holds the machine's stalls in seconds once the block has ended."""
    stalls: list[float] = []
    command = [sys.executable, "-c", _SLEEPER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sleeper:
        assert sleeper.stdout is not None
        assert sleeper.stdout.readline() == "ready\n"
        try:
            yield stalls
        finally:
            sleeper.kill()
            stalls += [float(line) for line in sleeper.stdout]


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
