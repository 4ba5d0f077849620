"""Checks what this machine permits a control thread."""

from __future__ import annotations

import platform

from ..realtime.machine import MAX_STEAL_SHARE, NEEDED_MEMLOCK_BYTES, MachineFacts
from .check import Check


def realtime_checks(facts: MachineFacts) -> list[Check]:
    """Returns what a real robot needs of this machine; all of it is informative."""
    return [
        _check_priority(facts),
        _check_memory(facts),
        _realtime(
            "kernel",
            facts.preemption in ("PREEMPT_RT", "unknown"),
            f"{platform.release()}, {facts.preemption}",
            "Install a PREEMPT_RT kernel (Ubuntu: pro enable realtime-kernel; Debian: apt-get "
            "install linux-image-rt-amd64); without one, ticks may be some milliseconds late.",
        ),
        _realtime(
            "CPU governor",
            facts.governor in ("performance", None),
            facts.governor or "not shown by this system",
            "cpupower frequency-set -g performance",
        ),
        _check_cpus(facts),
        _realtime(
            "steal time",
            facts.steal_share is None or facts.steal_share <= MAX_STEAL_SHARE,
            "unknown" if facts.steal_share is None else f"{facts.steal_share:.1%}",
            "This is a virtual machine whose host is busy: drive a robot from a machine of its "
            "own.",
        ),
    ]


def _check_priority(facts: MachineFacts) -> Check:
    limit = "unknown" if facts.max_priority is None else facts.max_priority
    got = {True: "permitted", False: "refused", None: "not on this system"}[facts.fifo_permitted]
    return _realtime(
        "real-time priority",
        facts.fifo_permitted is True,
        f"SCHED_FIFO {got}, ulimit -r {limit}",
        "groupadd -f realtime; usermod -aG realtime $USER; echo '@realtime - rtprio 90' > "
        "/etc/security/limits.d/99-realtime.conf; log in again. In a container: --cap-add=SYS_NICE",
    )


def _check_memory(facts: MachineFacts) -> Check:
    size = facts.memlock_bytes
    text = {None: "unknown", -1: "unlimited"}.get(size) or f"{(size or 0) / 2**20:.0f} MiB"
    is_enough = size is not None and (size < 0 or size >= NEEDED_MEMLOCK_BYTES)
    return _realtime(
        "locked memory",
        facts.may_lock_any or is_enough,
        f"ulimit -l {text}{', CAP_IPC_LOCK' if facts.may_lock_any else ''}",
        "echo '@realtime - memlock unlimited' >> /etc/security/limits.d/99-realtime.conf; log in "
        "again. In a container: --ulimit memlock=-1",
    )


def _check_cpus(facts: MachineFacts) -> Check:
    isolated = ", ".join(map(str, facts.isolated_cpus)) or "none"
    return _realtime(
        "CPUs",
        facts.num_cpus >= 4 or bool(facts.isolated_cpus),
        f"{facts.num_cpus} usable, isolated: {isolated}",
        "Use a machine with four CPUs or more, or add isolcpus=N to the kernel's command line and "
        "run with --cpu N.",
    )


def _realtime(name: str, ok: bool, found: str, fix: str) -> Check:
    return Check(name=name, ok=ok, found=found, fix=fix, section="real time")
