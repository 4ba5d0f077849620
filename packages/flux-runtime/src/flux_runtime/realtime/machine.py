"""What this machine permits a control thread: scheduling, memory, kernel, CPUs."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .options import DEFAULT_PRIORITY

NEEDED_MEMLOCK_BYTES = 64 << 20
"""Enough for what a tick touches: buffers, records and stacks, and no weights."""
STEAL_WINDOW_S = 0.3
MAX_STEAL_SHARE = 0.01
_UNLIMITED = -1


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """What matters for real time.

    Attributes:
        fifo_permitted: whether a thread of this user got SCHED_FIFO; None if it cannot be tried.
        max_priority: RLIMIT_RTPRIO; None if unknown.
        memlock_bytes: RLIMIT_MEMLOCK; -1 for unlimited, None if unknown.
        may_lock_any: whether CAP_IPC_LOCK makes that limit irrelevant.
        preemption: 'PREEMPT_RT', 'PREEMPT', 'PREEMPT_DYNAMIC', 'none' or 'unknown'.
        governor: of the first CPU's clock; None if the system does not show it.
        num_cpus: CPUs that this process may use.
        isolated_cpus: CPUs that the kernel gives to no thread that does not ask for them.
        steal_share: share of a CPU's time that a hypervisor took while we looked; None if unknown.
    """

    fifo_permitted: bool | None
    max_priority: int | None
    memlock_bytes: int | None
    may_lock_any: bool
    preemption: str
    governor: str | None
    num_cpus: int
    isolated_cpus: tuple[int, ...]
    steal_share: float | None

    def as_data(self) -> dict[str, Any]:
        """Returns plain data for a report."""
        return asdict(self)


def machine_facts(steal_window_s: float = STEAL_WINDOW_S) -> MachineFacts:
    """Looks at this machine for `steal_window_s` seconds; changes nothing."""
    return MachineFacts(
        fifo_permitted=may_use_fifo(DEFAULT_PRIORITY),
        max_priority=_limit("RLIMIT_RTPRIO"),
        memlock_bytes=_limit("RLIMIT_MEMLOCK"),
        may_lock_any=has_capability(14),
        preemption=preemption_of(platform.version(), _text(Path("/sys/kernel/realtime"))),
        governor=_text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        num_cpus=len(_usable_cpus()),
        isolated_cpus=read_cpu_list(_text(Path("/sys/devices/system/cpu/isolated")) or ""),
        steal_share=_steal_share(steal_window_s),
    )


def may_use_fifo(priority: int) -> bool | None:
    """Tries SCHED_FIFO in a thread of its own, which ends at once."""
    if not hasattr(os, "SCHED_FIFO"):
        return None
    found: list[bool] = []

    def attempt() -> None:
        try:
            # 0 is the calling thread; its children would have ordinary scheduling.
            policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
            os.sched_setscheduler(0, policy, os.sched_param(priority))
        except OSError:
            found.append(False)
        else:
            found.append(True)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return found[0]


def has_capability(number: int) -> bool:
    """Returns whether this process has a capability, by its number in capability.h."""
    for line in (_text(Path("/proc/self/status")) or "").splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) >> number & 1)
    return False


def preemption_of(version: str, realtime: str | None) -> str:
    """Returns the kernel's preemption model, from `uname -v` and /sys/kernel/realtime."""
    words = version.split()
    if realtime == "1" or "PREEMPT_RT" in words or "RT" in words:
        return "PREEMPT_RT"
    if not version.startswith("#"):
        return "unknown"
    return next((word for word in ("PREEMPT_DYNAMIC", "PREEMPT") if word in words), "none")


def read_cpu_list(text: str) -> tuple[int, ...]:
    """Reads the kernel's form of a set of CPUs, such as '2-3,5'."""
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def steal_share_of(before: str, after: str) -> float | None:
    """Returns the share of stolen time between two readings of /proc/stat's first line."""
    try:
        start, end = ([int(value) for value in text.split()[1:9]] for text in (before, after))
    except ValueError:
        return None
    if len(start) < 8 or len(end) < 8:
        return None
    total = sum(end) - sum(start)
    return (end[7] - start[7]) / total if total > 0 else 0.0


def _steal_share(window_s: float) -> float | None:
    before = _text(Path("/proc/stat"))
    if before is None:
        return None
    time.sleep(window_s)
    after = _text(Path("/proc/stat")) or ""
    return steal_share_of(before.split("\n")[0], after.split("\n")[0])


def granted_text(name: str, entry: Mapping[str, Any]) -> str:
    """Returns in words what the control thread asked of this machine, and what it got.

    Args:
        name: of an entry of `_core.RealtimeLoop.scheduling`.
        entry: its `asked`, `got` and `error`.
    """
    nothing = -1 if name == "cpu" else 0
    if entry["asked"] == nothing:
        return "as usual"
    reason = f" ({entry['error']})" if entry["error"] else ""
    return f"asked for {entry['asked']}, got {entry['got']}{reason}"


def _limit(name: str) -> int | None:
    try:
        import resource

        soft = resource.getrlimit(getattr(resource, name))[0]
    except (ImportError, AttributeError):
        return None
    return _UNLIMITED if soft == resource.RLIM_INFINITY else soft


def _usable_cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
