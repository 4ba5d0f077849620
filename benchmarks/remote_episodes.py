"""Measures what a policy on another computer costs: the same episodes, local and through a network.

    python benchmarks/remote_episodes.py --jobs 2 --out benchmarks/results/remote_2cores.json
    python benchmarks/remote_episodes.py --episodes 5 --delays 60
    python benchmarks/remote_episodes.py --realtime 10 --out FILE

Both drive the simulated ALOHA with real-time chunking on simulated time, from the same seeds and
with the same delay of the chunks: that of the network and of an inference, in whole control steps.
Between robot and server is the tests' TCP proxy (tests/remote/proxy.py), which delays every request
and its answer by `--delays` ms together and holds up 2 % of the messages by another 200 ms, which
is what loss looks like over TCP.

An episode is lost if the local policy transfers the cube and the one behind the network does not.
`same` counts the episodes whose commands are the same to the last bit.

With --realtime N, only the policy behind the network drives, N episodes in real time; there the
network's delay is the delay.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from flux_core.robots import robot_spec
from flux_runtime.bench import hardware
from flux_runtime.control.success import wilson_interval

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.remote.proxy import Network, proxied  # noqa: E402
from tests.serving import serving  # noqa: E402

ROBOT = robot_spec("aloha-sim")
DELAYS_MS = (20, 60, 150)
STALLED = 0.02
INFERENCE_S = 0.01
FIRST_SEED = 10_000
SEEDS_AT_ONCE = 10


@dataclass(frozen=True)
class Job:
    """Some episodes of one process; `url` is None for the local policy."""

    delay_ms: int
    url: str | None
    seeds: range
    is_realtime: bool = False


def main() -> int:
    """Measures, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--episodes", type=int, default=100, help="per delay, local and remote (default: 100)")
    add("--delays", nargs="+", type=int, default=DELAYS_MS, help="of the network, in ms")
    add("--seed", type=int, default=FIRST_SEED)
    add("--jobs", type=int, default=1, help="processes (default: 1)")
    add("--realtime", type=int, default=0, metavar="N", help="N episodes per delay in real time")
    add("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    rows = measured(options)
    print_table(rows)
    if options.out:
        data = {"hardware": hardware(), "delays": rows}
        options.out.write_text(json.dumps(data, indent=1) + "\n")
    return 0


def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs every delay's episodes."""
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        server = stack.enter_context(serving(Path(folder)))
        for delay_ms in options.delays:
            began = time.monotonic()
            network = Network(delay_s=delay_ms / 1e3, stalled=STALLED, seed=options.seed + delay_ms)
            with proxied(server.address, network) as proxy:
                url = f"ws://{proxy.address}"
                run = in_real_time if options.realtime else on_simulated_time
                row = run(options, delay_ms, url)
                row |= {"messages": proxy.passed.messages, "stalls": proxy.passed.stalls}
            rows.append({"delay_ms": delay_ms, **row})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            print(f"{delay_ms} ms: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return rows


def on_simulated_time(options: argparse.Namespace, delay_ms: int, url: str) -> dict[str, Any]:
    """Runs the pairs of one delay."""
    seeds = range(options.seed, options.seed + options.episodes)
    parts = [seeds[first : first + SEEDS_AT_ONCE] for first in range(0, len(seeds), SEEDS_AT_ONCE)]
    jobs = [Job(delay_ms, place, part) for part in parts for place in (None, url)]
    with ThreadPoolExecutor(options.jobs) as pool:
        found = list(pool.map(driven, jobs))
    local = [one for job, done in zip(jobs, found, strict=True) if not job.url for one in done]
    remote = [one for job, done in zip(jobs, found, strict=True) if job.url for one in done]
    pairs = list(zip(local, remote, strict=True))
    return {
        "episodes": len(pairs),
        "delay_steps": steps(delay_ms),
        "local": sum(one["success"] for one in local),
        "remote": sum(one["success"] for one in remote),
        "lost": sum(one["success"] and not other["success"] for one, other in pairs),
        "won": sum(other["success"] and not one["success"] for one, other in pairs),
        "same": sum(one["commands"] == other["commands"] for one, other in pairs),
    }


def in_real_time(options: argparse.Namespace, delay_ms: int, url: str) -> dict[str, Any]:
    """Runs the episodes of one delay with the command's own clock."""
    seeds = range(options.seed, options.seed + options.realtime)
    episodes = driven(Job(delay_ms, url, seeds, is_realtime=True))
    report = episodes[0]["report"]
    return {
        "episodes": len(episodes),
        "remote": sum(one["success"] for one in episodes),
        "held_share": float(np.mean([one["held"] for one in episodes])),
        "rtc": {name: report["rtc"][name] for name in ("delays", "late")},
        "events": report["event_counts"],
        "connection": report["remote"],
    }


def steps(delay_ms: int) -> int:
    """Returns how many control steps a chunk takes through a network."""
    return math.ceil((delay_ms / 1e3 + INFERENCE_S) * ROBOT.control_hz)


def driven(job: Job) -> list[dict[str, Any]]:
    """Runs the command, and reads what it printed and recorded."""
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "recording"
        words = ["run", "--robot", ROBOT.name, "--mode", "rtc", "--json", "--record", recording]
        words += ["--episodes", len(job.seeds), "--seed", job.seeds.start]
        words += ["--remote", job.url] if job.url else []
        words += ["--realtime"] if job.is_realtime else ["--inference-delay", steps(job.delay_ms)]
        command = [Path(sys.executable).parent / "flux-runtime", *words]
        done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, check=False)
        report = json.loads(done.stdout) if done.stdout else {}
        if done.returncode != 0:
            raise SystemExit(f"remote_episodes: {report.get('reason', 'see above')}")
        episodes: list[dict[str, Any]] = []
        for path, episode in zip(
            sorted(recording.glob("episode_*.npz")), report["episodes"], strict=True
        ):
            with np.load(path) as recorded:
                digest = hashlib.sha256(recorded["command"].tobytes()).hexdigest()
                held = float(np.mean(recorded["flags"] & held_bit() != 0))
            facts = {"commands": digest, "held": held, "report": report}
            episodes.append({"success": episode["success"], **facts})
    return episodes


def held_bit() -> int:
    """Returns the flag of a tick in which the robot was held."""
    from flux_runtime.engines.core import load_core

    return load_core().HELD


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints one row per delay."""
    table = Table(title="ALOHA's cube, with the policy behind a network")
    named = {key: None for row in rows for key in row if key not in ("events", "connection")}
    for name in (*named, "95 %"):
        table.add_column(name)
    for row in rows:
        low, high = wilson_interval(row["remote"], row["episodes"])
        table.add_row(*(str(row.get(name, "")) for name in named), f"{low:.0%} to {high:.0%}")
    Console(width=180).print(table)


if __name__ == "__main__":
    sys.exit(main())
