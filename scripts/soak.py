"""Drives a fake arm for a long time, and shows that nothing grows and no command is missed.

    python scripts/soak.py --seconds 1800
    make soak

Runs `flux-runtime run` at 50 Hz with a small scripted policy against the arm of the fault tests,
which is a process of its own and logs what it receives. Samples the resident memory of the policy's
process and of the driver's. Fails if either grows, or if a command is missing from the arm's log.

What a report keeps of an episode has a fixed size, which is reached after 12 minutes. A run of 24
minutes or more is judged from then on: at most 1 MiB per hour, and half a MiB of pages touched for
the first time. A shorter one is judged by the whole of its growth.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.integration.fake_arm.judge import ArmLog, judge  # noqa: E402
from tests.integration.fake_arm.runs import (  # noqa: E402
    PROGRAM,
    ROBOT,
    arm,
    environment,
    limits_of,
    make_bundle,
)

HZ = 50.0
SAMPLE_S = 1.0
LOADED_AFTER_S, FILLED_AFTER_S = 10.0, 720.0
"""Until then libraries are loaded; and what a report keeps of an episode grows to its size."""
GROWTH_MIB_PER_HOUR = 1.0
FILLING_MIB, SETTLING_MIB = 8.0, 0.5
BUSY = 0.05
"""Share of the time in which the driver or the arm waits for a core."""


@dataclass(kw_only=True)
class Memory:
    """Resident memory of one process over time."""

    pid: int
    times_s: list[float] = field(default_factory=list[float])
    mib: list[float] = field(default_factory=list[float])
    waited_s: float = 0.0

    def sample(self, now_s: float) -> None:
        """Adds a sample; a process that has ended adds none."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
            tasks = [
                path.read_text() for path in Path(f"/proc/{self.pid}/task").glob("*/schedstat")
            ]
        except (FileNotFoundError, ProcessLookupError):
            return
        self.waited_s = sum(int(task.split()[1]) for task in tasks) * 1e-9
        lines = [line for line in status.splitlines() if line.startswith("VmRSS")]
        if lines:
            self.times_s.append(now_s)
            self.mib.append(int(lines[0].split()[1]) / 1024)

    @property
    def seconds(self) -> float:
        """From the first sample to the last one."""
        return self.times_s[-1] - self.times_s[0]

    def end(self, at_s: float) -> None:
        """Leaves out samples after the last command, when the recording becomes one file."""
        kept = sum(time_s <= at_s for time_s in self.times_s)
        self.times_s, self.mib = self.times_s[:kept], self.mib[:kept]

    def growth_mib(self) -> tuple[float, float]:
        """Returns what was gained in the part of the run that counts, and what may be."""
        is_long = self.seconds >= 2 * FILLED_AFTER_S
        begin = FILLED_AFTER_S if is_long else LOADED_AFTER_S
        mib = np.array(self.mib)[np.array(self.times_s) >= self.times_s[0] + begin]
        if len(mib) < 10:
            raise SystemExit("soak: --seconds: expected at least 30, got a shorter run")
        hours = (self.seconds - begin) / 3600
        allowed = SETTLING_MIB + GROWTH_MIB_PER_HOUR * hours if is_long else FILLING_MIB
        return float(mib[-5:].mean() - mib[:5].mean()), allowed


def main() -> int:
    """Runs the soak, prints the figures and returns 1 if one of them is not kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1800.0, help="(default: 1800)")
    parser.add_argument("--mode", choices=("sync", "async"), default="async")
    parser.add_argument(
        "--may-be-busy",
        action="store_true",
        help="other work on this machine excuses missing commands, if the driver or the arm waited "
        f"for a core for {BUSY * 100:.0f} %% of the time",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        return soak(Path(name), options)


def soak(folder: Path, options: argparse.Namespace) -> int:
    """Runs the arm and the command, samples their memory, and judges what the arm received."""
    steps = round(options.seconds * HZ)
    bundle = make_bundle(folder / "bundle", control_hz=HZ)
    words = ["run", "--robot", ROBOT, "--bundle", str(bundle), "--mode", options.mode, "--json"]
    words += ["--episodes", "1", "--max-steps", str(steps), "--record", str(folder / "record")]
    variables = environment(folder, FAKE_ARM_HZ=str(HZ))
    printed = folder / "printed.json"
    command = [sys.executable, "-c", PROGRAM, *words]
    with (
        arm(folder) as arm_process,
        printed.open("wb") as stream,
        subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, stdout=stream) as run,
    ):
        memories = watch(run, folder / "log.jsonl", arm_process.pid)
    if run.returncode != 0:
        raise SystemExit(f"soak: flux-runtime {' '.join(words)}: exit {run.returncode}")
    log = ArmLog.read(folder / "log.jsonl")
    summary = json.loads(printed.read_text())
    missed = missing(log, steps)
    if summary["deadline_misses"]:
        missed.append(f"{summary['deadline_misses']} deadline misses")
    waited = max(memories[name].waited_s / memories[name].seconds for name in ("driver", "arm"))
    print(f"the driver or the arm waited for a core for {waited * 100:.1f} % of the time")
    if missed and options.may_be_busy and waited > BUSY:
        print(f"soak: excused, because this machine was busy: {'; '.join(missed)}")
        missed = []
    for name, memory in memories.items():
        largest = max(memory.mib)
        memory.end(log.commands[-1].arrived_ns * 1e-9)
        if largest > max(memory.mib):
            print(f"{name}: at most {largest:.1f} MiB after the last command")
    return report(log, summary, memories, missed)


def watch(run: subprocess.Popen[bytes], log: Path, arm_pid: int) -> dict[str, Memory]:
    """Samples the memory of the processes until the command ends."""
    memories = {"policy": Memory(pid=run.pid), "arm": Memory(pid=arm_pid)}
    while run.poll() is None:
        time.sleep(SAMPLE_S)
        if "driver" not in memories and (pid := driver_pid(log)):
            memories["driver"] = Memory(pid=pid)
        for memory in memories.values():
            memory.sample(time.monotonic())
    return memories


def driver_pid(log: Path) -> int:
    """The driver's process, from the arm's log; 0 before it has connected."""
    with log.open() as lines:
        for line in lines:
            if '"connect"' in line:
                return int(json.loads(line)["pid"])
    return 0


def report(
    log: ArmLog, summary: dict[str, object], memories: dict[str, Memory], missed: Sequence[str]
) -> int:
    """Prints the figures; returns 1 if something grew, is missing or broke a limit."""
    failures = list(missed)
    violations = judge(log, limits_of(control_hz=HZ))
    failures += [f"{len(violations)} violations, first: {violations[0]}"] if violations else []
    for name in ("policy", "driver"):
        grown, most = memories[name].growth_mib()
        print(
            f"{name}: {memories[name].mib[-1]:.1f} MiB, grown by {grown:+.2f} (at most {most:.2f})"
        )
        if grown > most:
            failures.append(f"{name}: grew by {grown:.2f} MiB, expected at most {most:.2f}")
    print(f"{len(log.commands)} commands, {summary['deadline_misses']} deadline misses")
    for line in failures:
        print(f"soak: {line}", file=sys.stderr)
    return int(bool(failures))


def missing(log: ArmLog, steps: int) -> list[str]:
    """Says which commands did not reach the arm."""
    numbers = [command.stamp["sequence"] for command in log.commands]
    gaps = [after for before, after in itertools.pairwise(numbers) if after > before + 1]
    found = (
        [f"{len(gaps)} gaps in the sequence of commands, first before {gaps[0]}"] if gaps else []
    )
    if len(numbers) < steps:
        found.append(f"expected {steps} commands, got {len(numbers)}")
    return found


if __name__ == "__main__":
    sys.exit(main())
