"""Drives a fake arm for a long time, and shows that nothing grows and no command is missed.

    python scripts/soak.py --seconds 1800
    make soak

Runs `flux-runtime run` at 50 Hz with a small scripted policy against the arm of the fault tests,
which is a process of its own and logs what it receives. Samples the resident memory of the policy's
process and of the driver's. Fails if, after the start, either grows faster than by 1 MiB in 10
minutes plus what a short run may still settle, or if a command is missing from the arm's log.
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
sys.path.insert(0, str(ROOT / "tests" / "integration"))

from fake_arm.judge import ArmLog, judge  # noqa: E402
from fake_arm.runs import PROGRAM, ROBOT, arm, environment, limits_of, make_bundle  # noqa: E402

HZ = 50.0
SAMPLE_S = 1.0
SETTLED_AFTER_S = 10.0
"""Until then libraries are loaded and buffers touched for the first time."""
GROWTH_MIB_PER_S = 1.0 / 600
SETTLING_MIB = 1.0
"""What may still be touched for the first time later: pages of buffers of a fixed size."""


@dataclass(kw_only=True)
class Memory:
    """Resident memory of one process over time."""

    pid: int
    times_s: list[float] = field(default_factory=list[float])
    mib: list[float] = field(default_factory=list[float])

    def sample(self, now_s: float) -> None:
        """Adds a sample; a process that has ended adds none."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except FileNotFoundError:
            return
        lines = [line for line in status.splitlines() if line.startswith("VmRSS")]
        if lines:
            self.times_s.append(now_s)
            self.mib.append(int(lines[0].split()[1]) / 1024)

    def growth(self) -> tuple[float, float]:
        """Returns MiB per second (a line through the settled samples), and MiB in all."""
        times, mib = np.array(self.times_s), np.array(self.mib)
        settled = times >= times[0] + SETTLED_AFTER_S
        if settled.sum() < 5:
            raise SystemExit("soak: --seconds: expected at least 20, got a shorter run")
        slope, _ = np.polyfit(times[settled], mib[settled], 1)
        return float(slope), float(mib[settled][-5:].mean() - mib[settled][:5].mean())


def main() -> int:
    """Runs the soak, prints the figures and returns 1 if one of them is not kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1800.0, help="(default: 1800)")
    parser.add_argument("--mode", choices=("sync", "async"), default="async")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        return soak(Path(name), options.seconds, options.mode)


def soak(folder: Path, seconds: float, mode: str) -> int:
    """Runs the arm and the command, samples their memory, and judges what the arm received."""
    steps = round(seconds * HZ)
    bundle = make_bundle(folder / "bundle", control_hz=HZ)
    words = ["run", "--robot", ROBOT, "--bundle", str(bundle), "--mode", mode, "--json"]
    words += ["--episodes", "1", "--max-steps", str(steps), "--record", str(folder / "record")]
    variables = environment(folder, FAKE_ARM_HZ=str(HZ))
    printed = folder / "printed.json"
    command = [sys.executable, "-c", PROGRAM, *words]
    with (
        arm(folder),
        printed.open("wb") as stream,
        subprocess.Popen(command, env=variables, stdout=stream) as run,
    ):
        memories = watch(run, folder / "log.jsonl")
    if run.returncode != 0:
        raise SystemExit(f"soak: flux-runtime {' '.join(words)}: exit {run.returncode}")
    return report(
        ArmLog.read(folder / "log.jsonl"), json.loads(printed.read_text()), memories, steps
    )


def watch(run: subprocess.Popen[bytes], log: Path) -> dict[str, Memory]:
    """Samples the memory of both processes until the command ends."""
    memories = {"policy": Memory(pid=run.pid)}
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


def report(log: ArmLog, summary: dict[str, object], memories: dict[str, Memory], steps: int) -> int:
    """Prints the figures; returns 1 if something grew, is missing or broke a limit."""
    failures = list(missing(log, steps))
    violations = judge(log, limits_of(control_hz=HZ))
    failures += [f"{len(violations)} violations, first: {violations[0]}"] if violations else []
    for name, memory in memories.items():
        slope, grown = memory.growth()
        seconds = memory.times_s[-1] - memory.times_s[0]
        print(f"{name}: {memory.mib[-1]:.1f} MiB, {slope * 3600:+.2f} MiB per hour, {grown:+.2f}")
        if grown > SETTLING_MIB + GROWTH_MIB_PER_S * seconds:
            failures.append(f"{name}: grew by {grown:.2f} MiB in {seconds:.0f} s")
    print(f"{len(log.commands)} commands, {summary['deadline_misses']} deadline misses")
    for line in failures:
        print(f"soak: {line}", file=sys.stderr)
    return int(bool(failures))


def missing(log: ArmLog, steps: int) -> Sequence[str]:
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
