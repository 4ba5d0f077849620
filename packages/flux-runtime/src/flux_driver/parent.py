"""Sees the death of the policy's process, and keeps its signals away from this one."""

from __future__ import annotations

import ctypes
import os
import select
import signal

PIDFD_OPEN = 434
"""The number of the system call on every architecture; `os.pidfd_open` needs Python 3.9."""


class Parent:
    """The policy's process: it is not always this one's parent, because a script may start Python.

    Attributes:
        descriptor: readable once the process has ended; -1 where the kernel has no pidfd.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.descriptor = int(ctypes.CDLL(None, use_errno=True).syscall(PIDFD_OPEN, pid, 0))

    def is_alive(self) -> bool:
        """Whether the process runs, or is stopped by a signal."""
        if self.descriptor >= 0:
            return not select.select([self.descriptor], [], [], 0)[0]
        try:
            os.kill(self._pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


class Signals:
    """Ignores the signals of a terminal; SIGTERM is noted, for the host's main loop.

    Attributes:
        terminations: one entry per SIGTERM that nobody has dealt with yet.
    """

    def __init__(self) -> None:
        self.terminations: list[int] = []
        self.install()

    def install(self) -> None:
        """Installs the handlers, again after foreign code had the chance to install its own."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, frame: self.terminations.append(number))
