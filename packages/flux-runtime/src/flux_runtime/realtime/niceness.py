"""Raises the share of the CPU that a driver's process gets beside other programs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypedDict

DRIVER_NICENESS = -10
"""About ten times the weight of an ordinary process; a driver relays commands, computing little."""


class Granted(TypedDict):
    """What was asked of the scheduler, what it granted, and why not; "" if it did."""

    asked: int
    got: int
    error: str


def set_niceness(pid: int, niceness: int) -> Granted:
    """Sets the niceness of a process that has just been started in a session of its own.

    Threads that it starts later inherit it. Where the kernel shares the CPU among sessions before
    it shares it among processes (autogroups), its session gets the same niceness.

    Args:
        pid: the process.
        niceness: -20 (most) to 19 (least); 0 changes nothing.
    """
    error = ""
    if niceness:
        try:
            os.setpriority(os.PRIO_PROCESS, pid, niceness)
            autogroup = Path(f"/proc/{pid}/autogroup")
            if autogroup.exists():
                autogroup.write_text(str(niceness))
        except OSError as refused:
            error = refused.strerror or "refused"
    try:
        got = os.getpriority(os.PRIO_PROCESS, pid)
    except ProcessLookupError:  # a process that ended at once; whoever greets it says why
        got = 0
    return Granted(asked=niceness, got=got, error=error)
