"""Times the commands of the control loop beside a bare C++ timer and a plain Python loop.

    python benchmarks/control_loop.py --seconds 60 --out control_loop.json

The contestants, each with a bare timer of the same priority in the same minute:

  plain python     what openpi's and LeRobot's loops do in Python: observe, infer when the chunk is
                   used up, send, sleep for the rest of the period
  flux             `flux-runtime run --realtime --mode async`
  flux, busy       the same with a process that computes on every core and a Python thread that
                   never waits, in the process of the loop

All of them drive the simulated ALOHA at 50 Hz with the shipped policy. A command's time is the
stamp that is written beside it when it leaves; the bare timer's is when it woke. Lateness is
against the grid of deadlines; the plain loop has none, and only its intervals count. The steal time
says how much of the minute the machine gave to others. Exits 1 if the 99 % lateness of the loop is
more than 0.3 ms above that of the bare timer, or if it skipped a tick that the bare timer did not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from flux_runtime.bench import hardware

HZ = 50.0
PERIOD_NS = round(1e9 / HZ)
SOURCE = Path(__file__).with_name("bare_timer.cpp")
MOST_ABOVE_TIMER_MS = 0.3
SHORTEST_EPISODE = 150
"""Ticks of about the shortest episode of the shipped policy, for how many to ask for."""
Times = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Series:
    """When commands were due and when they left, (n,) nanoseconds on the monotonic clock.

    `episodes` holds the index of the first command of each episode; between episodes there are no
    commands, so no interval counts there.
    """

    deadlines: Times
    sent: Times
    episodes: tuple[int, ...] = (0,)

    def intervals_ms(self) -> NDArray[np.float64]:
        """Times between commands of one episode."""
        parts = np.split(self.sent, self.episodes[1:])
        return np.concatenate([np.diff(part) for part in parts]) / np.float64(1e6)

    def lateness_ms(self) -> NDArray[np.float64]:
        """How long after its deadline each command left."""
        return (self.sent - self.deadlines) / np.float64(1e6)

    def skipped(self) -> Times:
        """The deadlines within episodes that have no command."""
        found: list[int] = []
        for part in np.split(self.deadlines, self.episodes[1:]):
            for before, after in itertools.pairwise(part):
                found += range(int(before) + PERIOD_NS, int(after) - PERIOD_NS // 2, PERIOD_NS)
        return np.array(found, np.int64)


def main() -> int:
    """Runs the phases, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of each phase (default: 60)")
    parser.add_argument("--priority", type=int, default=50, help="SCHED_FIFO; 0 asks for none")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain is not None:
        plain_python_loop(options.plain, options.seconds)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        phases = measure(options, Path(folder))
    for name, phase in phases.items():
        print_table(name, phase)
    failures = [line for name, phase in phases.items() for line in judged(name, phase)]
    for line in failures:
        print(f"control_loop: {line}", file=sys.stderr)
    if options.out:
        data = {"hardware": hardware(), "seconds": options.seconds, "control_hz": HZ}
        data |= {"phases": phases, "failures": failures}
        options.out.write_text(json.dumps(data, indent=1) + "\n")
    return int(bool(failures))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """Runs the three phases, each beside a bare timer."""
    timer = folder / "bare_timer"
    compiler = os.environ.get("CXX", "c++")
    subprocess.run([compiler, "-O2", "-std=c++20", "-o", timer, SOURCE], check=True)
    command = [sys.executable, __file__, "--seconds", str(options.seconds), "--plain"]
    phases: dict[str, dict[str, Any]] = {}
    with beside_timer(timer, options) as phase:
        subprocess.run([*command, folder / "plain.npy"], check=True)
    plain = np.load(folder / "plain.npy")
    phases["plain python"] = phase | {"loop": figures(Series(deadlines=plain, sent=plain))}
    for grid in ("lateness_ms", "skipped"):  # it has no grid of deadlines
        del phases["plain python"]["loop"][grid]
    for name, is_busy in (("flux", False), ("flux, busy", True)):
        record = folder / name
        with hogs(is_busy), beside_timer(timer, options) as phase:
            report = run_flux(record, options, is_busy=is_busy)
        phases[name] = phase | {"loop": figures(read_recording(record))}
        phases[name]["scheduling"] = report.get("scheduling")
        timer_series = phase["timer"].pop("series")
        phases[name]["skipped_alone"] = skipped_alone(read_recording(record), timer_series)
    phases["plain python"]["timer"].pop("series")
    return phases


@contextmanager
def beside_timer(timer: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Runs the bare timer meanwhile; its figures and the steal time are there afterwards."""
    phase: dict[str, Any] = {}
    seconds = options.seconds * 5 + 60.0  # more than any phase; it is ended with it
    command = [str(timer), str(HZ), str(seconds), str(options.priority)]
    before = steal_ms()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        begin = time.monotonic_ns()
        yield phase
        end = time.monotonic_ns()
        process.terminate()
        output, _ = process.communicate()
    got, *lines = output.splitlines()
    wakes = np.array([line.split() for line in lines], np.int64)
    wakes = wakes[(wakes[:, 0] >= begin) & (wakes[:, 0] <= end)]
    series = Series(deadlines=wakes[:, 0], sent=wakes[:, 1])
    phase["timer"] = {"scheduling": got, **figures(series), "series": series}
    phase["steal_ms"] = steal_ms() - before
    phase["seconds"] = (end - begin) * 1e-9


def run_flux(record: Path, options: argparse.Namespace, *, is_busy: bool) -> dict[str, Any]:
    """Runs the command and returns its report."""
    episodes = -(-int(options.seconds * HZ) // SHORTEST_EPISODE)
    words = ["run", "--robot", "aloha-sim", "--realtime", "--mode", "async", "--json"]
    words += ["--episodes", str(episodes), "--record", str(record)]
    # On a busy machine the simulation is late and the arm is held; the ticks go on.
    words += ["--priority", str(options.priority), "--hold-for", "60"]
    spin = (
        "import threading; threading.Thread(target=exec, args=('while True: pass',), daemon=True)"
    )
    program = f"{spin}.start(); " if is_busy else ""
    program += "import sys; from flux_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, check=False
    )
    if done.returncode != 0:
        reason = json.loads(done.stdout)["reason"] if done.stdout else "see above"
        raise SystemExit(f"control_loop: flux-runtime {' '.join(words)}: {reason}")
    return json.loads(done.stdout)


def read_recording(record: Path) -> Series:
    """Reads when the commands of all episodes were due and when they left."""
    deadlines: list[Times] = []
    sent: list[Times] = []
    for path in sorted(record.glob("episode_*.npz")):
        with np.load(path) as episode:
            deadlines.append(np.rint(episode["deadline_s"] * 1e9).astype(np.int64))
            sent.append(np.rint(episode["sent_s"] * 1e9).astype(np.int64))
    starts = np.cumsum([0, *(len(part) for part in sent[:-1])])
    return Series(
        deadlines=np.concatenate(deadlines),
        sent=np.concatenate(sent),
        episodes=tuple(int(start) for start in starts),
    )


def skipped_alone(loop: Series, timer: Series) -> int:
    """Counts the ticks that the loop skipped while the bare timer was on time."""
    late = timer.deadlines[timer.lateness_ms() * 1e6 > PERIOD_NS / 2]
    missed = np.concatenate([late, timer.skipped()])
    return sum(
        not np.any(np.abs(missed - deadline) <= 2 * PERIOD_NS) for deadline in loop.skipped()
    )


def figures(series: Series) -> dict[str, Any]:
    """Returns percentiles of intervals and lateness, and counts."""
    return {
        "count": len(series.sent),
        "skipped": len(series.skipped()),
        "intervals_ms": percentiles(series.intervals_ms()),
        "lateness_ms": percentiles(series.lateness_ms()),
    }


def percentiles(values: NDArray[np.float64]) -> dict[str, float]:
    """p50, p95, p99 and the largest."""
    named = {f"p{q}": float(np.percentile(values, q)) for q in (50, 95, 99)}
    return named | {"max": float(values.max())}


def judged(name: str, phase: Mapping[str, Any]) -> list[str]:
    """Returns what the loop promised and did not keep."""
    if "lateness_ms" not in phase["loop"]:
        return []
    loop, timer = (phase[side]["lateness_ms"]["p99"] for side in ("loop", "timer"))
    failures = []
    if loop > timer + MOST_ABOVE_TIMER_MS:
        failures.append(f"{name}: p99 {loop:.3f} ms, the bare timer has {timer:.3f} ms")
    if phase["skipped_alone"]:
        failures.append(f"{name}: skipped {phase['skipped_alone']} ticks that the timer met")
    return failures


def print_table(name: str, phase: Mapping[str, Any]) -> None:
    """Prints one phase; times in milliseconds."""
    title = f"{name}: {phase['seconds']:.0f} s, steal {phase['steal_ms']:.0f} ms, "
    title += f"timer {phase['timer']['scheduling']}"
    if phase.get("scheduling"):
        title += f", loop priority {phase['scheduling']['priority']['got']}"
    table = Table(title=title)
    for column in ("", "count", "skipped", *("p50", "p95", "p99", "max")):
        table.add_column(column, justify="right")
    for side in ("timer", "loop"):
        for kind in ("intervals_ms", "lateness_ms"):
            if kind in phase[side]:
                row = phase[side]
                cells = (str(row["count"]), str(row.get("skipped", "")))
                values = (f"{value:.3f}" for value in row[kind].values())
                table.add_row(f"{side}, {kind[:-3]}", *cells, *values)
    Console().print(table)


def steal_ms() -> float:
    """Time that the machine's host gave to others, of all cores, since it started."""
    with open("/proc/stat") as stat:
        fields = stat.readline().split()
    return float(fields[8]) * 1000 / os.sysconf("SC_CLK_TCK")


@contextmanager
def hogs(is_on: bool) -> Iterator[None]:
    """Keeps every core busy with a process of ordinary priority."""
    context = multiprocessing.get_context("spawn")
    count = os.cpu_count() or 1
    processes = [context.Process(target=_spin, daemon=True) for _ in range(count if is_on else 0)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _spin() -> None:
    while True:
        pass


def plain_python_loop(out: Path, seconds: float) -> None:
    """The loop of openpi's and LeRobot's examples: observe, infer, send, sleep for the rest."""
    from flux_core.bundle import Bundle
    from flux_core.policy_io import PolicyIO
    from flux_runtime.control.session import shipped_policy
    from flux_runtime.engines import open_flow_policy
    from flux_runtime.robots import make_robot

    bundle = Bundle.open(shipped_policy("aloha-sim"))
    manifest = bundle.manifest
    io, policy = PolicyIO.from_bundle(bundle), open_flow_policy(bundle)
    robot: Any = make_robot("aloha-sim")
    robot.connect()
    names, noise = policy.inputs, np.random.default_rng(0)
    sent: list[int] = []
    chunk: list[Any] = []
    robot.reset(10_000)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begin = time.perf_counter()
        observation = robot.observe(manifest.prompt, manifest.cameras)
        if not chunk:
            inputs = {
                name: value for name, value in io.encode(observation).items() if name in names
            }
            shape = (manifest.action_horizon, manifest.action_dim)
            actions = policy.infer(inputs, noise.standard_normal(shape, dtype=np.float32))
            decoded = io.decode(actions[:, : len(io.scale)], observation.state)
            chunk = list(decoded[: manifest.execution_horizon])
        sent.append(time.monotonic_ns())
        robot.command(chunk.pop(0))
        time.sleep(max(0.0, 1 / HZ - (time.perf_counter() - begin)))
    np.save(out, np.array(sent, np.int64))


if __name__ == "__main__":
    sys.exit(main())
