"""Runs a training, and keeps its log and the CPU time that each of its checkpoints took.

    python benchmarks/act/timed.py RUN -- COMMAND

The CPU time is that of the command and of all processes that it starts, from its first instruction:
imports, reading of data and writing of checkpoints included. It is read when the weights of a
checkpoint appear in the folder of RUN.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from runs import ROOT, Run

WEIGHTS = ("checkpoints/[0-9]*/pretrained_model/model.safetensors", "checkpoint_*.safetensors")
PROGRESS = re.compile(rb"[^\n]*(?:step/s|s/step)\]\n?")
INTERVAL_S = 0.2
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SESSION, TIMES = 3, slice(11, 15)
"""Of the fields of /proc/PID/stat behind the name: user, system, and those of waited children."""


def main() -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", type=Run)
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    options = parser.parse_args()
    os.chdir(ROOT)
    return timed(options.run, options.command)


def timed(run: Run, command: list[str]) -> int:
    """Runs the command and writes the files of `run`; returns the exit code."""
    if run.training.exists():
        raise SystemExit(f"{run.training}: exists; choose another name or remove it")
    run.training.parent.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    kept: dict[str, Any] = {
        "command": shlex.join(command),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "exit_code": None,
        "real_s": None,
        "cpu_s": None,
        "checkpoints": {},
    }
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    before = children_cpu_s()
    with run.log.open("wb") as log:
        # In a session of its own, by which all its processes are found.
        child = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    previous = {
        number: signal.signal(number, lambda received, _: os.killpg(child.pid, received))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        while child.poll() is None:
            if note_checkpoints(run, child.pid, kept["checkpoints"], begin):
                run.training.write_text(json.dumps(kept, indent=1) + "\n")
            time.sleep(INTERVAL_S)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    kept["exit_code"] = child.returncode
    kept["real_s"] = round(time.monotonic() - begin, 1)
    kept["cpu_s"] = round(children_cpu_s() - before, 1)
    run.training.write_text(json.dumps(kept, indent=1) + "\n")
    run.log.write_bytes(PROGRESS.sub(b"", run.log.read_bytes()))
    return child.returncode


def note_checkpoints(run: Run, session: int, noted: dict[str, Any], begin: float) -> bool:
    """Notes the checkpoints that have appeared; returns whether there were any."""
    paths = sorted(path for pattern in WEIGHTS for path in run.folder.glob(pattern))
    new = [path for path in paths if path.relative_to(run.folder).as_posix() not in noted]
    for path in new:
        noted[path.relative_to(run.folder).as_posix()] = {
            "cpu_s": round(cpu_time_s(session), 1),
            "real_s": round(time.monotonic() - begin, 1),
        }
    return bool(new)


def children_cpu_s() -> float:
    """Returns the CPU time of this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cpu_time_s(session: int) -> float:
    """Returns the CPU time of all processes of a session, ended ones included."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended since
        if int(fields[SESSION]) == session:
            ticks += sum(map(int, fields[TIMES]))
    return ticks / TICKS_PER_S


def processor() -> str:
    """Returns the name of the machine's processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


if __name__ == "__main__":
    sys.exit(main())
