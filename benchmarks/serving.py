"""Measures what many clients, and abusive ones, do to each other at one `flux-runtime serve`.

    python benchmarks/serving.py --out benchmarks/results/serving_2cores.json
    python benchmarks/serving.py --minutes 0.5 --pairs 1 --seconds 5

First one client asks, then `--clients` ask together for `--minutes`, and one again. Each asks again
as soon as it has its answer. The fair share of a client is the time in which each of the others is
answered once, (clients / throughput); the longest wait of every client is compared with it. Where
other work slows the machine down at times, the number of answers that others had during a wait says
more: it is fair if it is the number of clients.

Then a robot asks at its pace (10 times per second), alternately alone and beside abusive peers, in
`--pairs` of `--seconds` each: a slow reader, one that sends a byte per second, one that floods, one
that sends fragments without content, one that asks with the largest pictures, one that opens
connections halfway, and all of them. What counts is the ratio of the robot's waits with and without
them, of each pair.

Clients are processes of their own, `serving_clients.py`: they send the same packed request again
and again, decode nothing, and the good ones take a few percent of a core, which is measured. The
abusive ones come from addresses of their own (127.0.0.2 and so on). As if they had computers of
their own, the server and the good clients come before them on the processor, and before all other
work where that is permitted: their `--niceness` is -15, and that of abusive peers 15 more.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from flux_core.robots import robot_spec
from flux_runtime.bench import hardware
from flux_runtime.control.session import shipped_policy
from flux_runtime.wire import pack

ROBOT = "aloha-sim"
CLIENTS = Path(__file__).parent / "serving_clients.py"
KINDS = ("slow reader", "byte", "flood", "fragments", "large pictures", "half-open")
LARGE = (1920, 1080)
RATIOS = ("p50_ms", "p95_ms", "p99_ms")
PAUSE_S = 0.1
SETTLE_S = 1.0
"""From the start of abusive peers to the first request that counts."""
HOST = "127.0.0.1"


@dataclass
class Served:
    """The server under test."""

    process: subprocess.Popen[str]
    port: int
    rss_mb: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])

    def watch(self, stopped: threading.Event) -> None:
        """Notes the resident memory every second."""
        while not stopped.wait(1.0) and self.process.poll() is None:
            self.rss_mb.append((time.monotonic(), rss_mb(self.process.pid)))


def main() -> int:
    """Measures, prints the tables and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--clients", type=int, default=24, help="at once (default: 24)")
    add("--minutes", type=float, default=5.0, help="for which they ask; 0: leave out (default: 5)")
    add(
        "--pairs",
        type=int,
        default=5,
        help="with and without abuse; 0: leave out (default: 5)",
    )
    add("--seconds", type=float, default=15.0, help="of each half of a pair (default: 15)")
    add("--kinds", nargs="+", choices=(*KINDS, "all"), default=(*KINDS, "all"))
    add("--bundle", type=Path, default=shipped_policy(ROBOT), help="default: the shipped policy")
    add("--niceness", type=int, default=-15, help="of server and good clients (default: -15)")
    add("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    figures: dict[str, Any] = {"hardware": hardware(), "versions": versions()}
    figures["load_before"] = os.getloadavg()
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, options.niceness)
    figures["niceness"] = os.getpriority(os.PRIO_PROCESS, 0)
    with tempfile.TemporaryDirectory() as folder:
        request = Path(folder) / "request"
        request.write_bytes(packed_request())
        large_file(request).write_bytes(packed_request(large_picture()))
        figures["request_bytes"] = request.stat().st_size
        if options.minutes:
            with serving(options.bundle) as server:
                figures["clients"] = many(server, request, options)
            print_many(figures["clients"])
        if options.pairs:
            with serving(options.bundle) as server:
                figures["abuse"] = {
                    kind: abused(server, request, KINDS if kind == "all" else (kind,), options)
                    for kind in options.kinds
                }
            print_abuse(figures["abuse"])
    figures["load_after"] = os.getloadavg()
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def versions() -> dict[str, str]:
    """Returns the versions of what takes part."""
    return {name: version(name) for name in ("websockets", "msgpack", "onnxruntime", "numpy")}


def large_file(request: Path) -> Path:
    """Returns where the request with large pictures is."""
    return request.with_name("large")


def large_picture() -> bytes:
    """Returns a JPEG of as many pixels as a server takes by default."""
    file = io.BytesIO()
    Image.effect_noise(LARGE, 64).convert("RGB").save(file, "jpeg")
    return file.getvalue()


def packed_request(picture: bytes | None = None) -> bytes:
    """Returns an observation as openpi's clients send it; its pictures have the policy's size."""
    spec, rng = robot_spec(ROBOT), np.random.default_rng(0)
    state = (np.array(spec.lower) + np.array(spec.upper)) / 2
    picture = picture or rng.integers(0, 256, (96, 128, 3), np.uint8)
    images = dict.fromkeys(spec.cameras, picture)
    return pack(
        {"state": state.astype(np.float32), "images": images, "prompt": "transfer the cube"}
    )


@contextmanager
def serving(bundle: Path) -> Iterator[Served]:
    """Runs the server, and watches its memory."""
    words = [str(Path(sys.executable).parent / "flux-runtime"), "serve", str(bundle), "--json"]
    words += ["--listen", f"{HOST}:0", "--metrics-port", "0"]
    stopped = threading.Event()
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True) as p,
    ):
        assert p.stdout is not None
        line = p.stdout.readline()
        if not line:
            log.seek(0)
            raise SystemExit(f"serving: the server did not start: {log.read()[-1000:]}")
        port = urlsplit(json.loads(line)["url"]).port
        assert port is not None
        served = Served(p, port)
        watching = threading.Thread(target=served.watch, args=(stopped,))
        watching.start()
        try:
            yield served
        finally:
            stopped.set()
            watching.join()
            if p.poll() is not None:
                log.seek(0)
                print(
                    f"the server ended with {p.returncode}: {log.read()[-1000:]}", file=sys.stderr
                )
            p.send_signal(signal.SIGTERM)


def rss_mb(process: int) -> float:
    """Returns the resident memory of a process in MB."""
    text = Path(f"/proc/{process}/status").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1e3


def many(server: Served, request: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Lets one client ask, then all, then one."""
    alone_s = min(30.0, options.minutes * 60)
    before = asked(server, request, clients=1, seconds=alone_s)
    first = len(server.rss_mb)
    together = asked(server, request, clients=options.clients, seconds=options.minutes * 60)
    memory = np.array(server.rss_mb[first:])
    after = asked(server, request, clients=1, seconds=alone_s)
    rate = together["per_s"]
    share_ms = options.clients / rate * 1e3
    longest = [max(waits) * 1e3 for waits in together["waits_s"]]
    counts = [len(waits) for waits in together["waits_s"]]
    answers = np.sort([end for waits in together["waits"] for _, end in waits])
    return {
        "clients": options.clients,
        "seconds": together["seconds"],
        "one_client_per_s": [before["per_s"], after["per_s"]],
        "together_per_s": rate,
        "ratio": rate / np.mean([before["per_s"], after["per_s"]]).item(),
        "fair_share_ms": share_ms,
        "longest_wait_ms": {"least": min(longest), "median": median(longest), "most": max(longest)},
        "longest_wait_in_shares": max(longest) / share_ms,
        "longest_wait_in_answers": most_answers_meanwhile(together["waits"], answers),
        "longest_without_any_answer_ms": float(np.diff(answers).max() * 1e3),
        "waits_above_three_shares": sum(
            wait * 1e3 > 3 * share_ms for waits in together["waits_s"] for wait in waits
        ),
        "waits_ms": percentiles([wait for waits in together["waits_s"] for wait in waits]),
        "answers_per_client": {"least": min(counts), "most": max(counts)},
        "clients_cpu_share": together["cpu_s"] / together["seconds"],
        "faults": [*before["faults"], *together["faults"], *after["faults"]],
        "rss_mb": memory_figures(memory),
    }


def most_answers_meanwhile(
    waits: Sequence[Sequence[tuple[float, float]]], answers: np.ndarray[Any, np.dtype[np.float64]]
) -> int:
    """Returns how many answers the others had at most while a client waited for one.

    It does not depend on how fast the machine was at that time.

    Args:
        waits: of each client, from when to when.
        answers: when there was one, for whomever; sorted.
    """
    pairs = np.array([wait for one in waits for wait in one])
    first, last = np.searchsorted(answers, pairs.T, side="left")
    return int((last - first).max())


def memory_figures(memory: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    """Returns what became of the resident memory, (N, 2): seconds and MB.

    The first tenth is left out: a server that begins needs more and more.
    """
    seconds, mb = memory[len(memory) // 10 :].T
    slope, _ = np.polyfit(seconds, mb, 1)
    quarter = max(1, len(mb) // 4)
    return {
        "first_quarter": float(np.median(mb[:quarter])),
        "last_quarter": float(np.median(mb[-quarter:])),
        "most": float(mb.max()),
        "mb_per_minute": float(slope * 60),
    }


def abused(
    server: Served, request: Path, kinds: Sequence[str], options: argparse.Namespace
) -> dict[str, Any]:
    """Lets a robot ask alternately without and with abusive peers."""
    pairs: list[dict[str, Any]] = []
    waits_s: dict[str, list[float]] = {"without": [], "with": []}
    for number in range(options.pairs):
        halves: dict[str, dict[str, float]] = {}
        faults: list[str] = []
        order = ("without", "with") if number % 2 == 0 else ("with", "without")
        for half in order:
            with abusing(server, request, kinds if half == "with" else (), options.seconds):
                time.sleep(SETTLE_S)
                found = asked(server, request, clients=1, seconds=options.seconds, pause_s=PAUSE_S)
            halves[half] = percentiles(found["waits_s"][0])
            waits_s[half] += found["waits_s"][0]
            faults += found["faults"]
        ratios = {name: halves["with"][name] / halves["without"][name] for name in halves["with"]}
        pairs.append(
            {**halves, "ratio": ratios, "faults": faults, "rss_mb": rss_mb(server.process.pid)}
        )
    pooled = {half: percentiles(waits) for half, waits in waits_s.items()}
    return {
        "pairs": pairs,
        "median_ratio": {name: median(pair["ratio"][name] for pair in pairs) for name in RATIOS},
        "pooled": pooled,
        "pooled_ratio": {name: pooled["with"][name] / pooled["without"][name] for name in RATIOS},
    }


@contextmanager
def abusing(server: Served, request: Path, kinds: Sequence[str], seconds: float) -> Iterator[None]:
    """Runs abusive peers meanwhile, each from an address of its own."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for index, kind in enumerate(kinds, start=2):
            job = {"kind": kind, "source": f"127.0.0.{index}", "seconds": seconds + 60}
            process = started(server, request, folder / f"{index}.json", job)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


def started(
    server: Served, request: Path, path: Path, job: Mapping[str, Any]
) -> subprocess.Popen[bytes]:
    """Starts clients in a process of their own."""
    entries = {"host": HOST, "port": server.port, "request": str(request), **job}
    entries["large"] = str(large_file(request))
    path.write_text(json.dumps(entries))
    return subprocess.Popen([sys.executable, "-S", "-E", str(CLIENTS), str(path)])


def asked(
    server: Served, request: Path, *, clients: int, seconds: float, pause_s: float = 0.0
) -> dict[str, Any]:
    """Lets good clients ask, and returns what they waited."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        job = {"kind": "good", "source": HOST, "clients": clients, "seconds": seconds}
        job |= {"pause_s": pause_s, "out": str(out)}
        process = started(server, request, Path(folder) / "job.json", job)
        if process.wait() != 0:
            raise SystemExit("serving: the clients failed; see above")
        found = json.loads(out.read_text())
    found["waits_s"] = [[end - begin for begin, end in waits] for waits in found["waits"]]
    if not all(found["waits_s"]):
        raise SystemExit(f"serving: a client got no answer: {found['faults'] or 'starved'}")
    return {**found, "per_s": sum(map(len, found["waits_s"])) / found["seconds"]}


def percentiles(waits_s: Sequence[float]) -> dict[str, float]:
    """Returns p50, p95, p99 and the largest in ms, and the count."""
    figures = {f"p{q}_ms": float(np.percentile(waits_s, q)) * 1e3 for q in (50, 95, 99)}
    return {**figures, "max_ms": max(waits_s) * 1e3, "count": len(waits_s)}


def print_many(figures: Mapping[str, Any]) -> None:
    """Prints what many clients did."""
    table = Table(title=f"{figures['clients']} clients for {figures['seconds']:.0f} s")
    for column in ("figure", "value"):
        table.add_column(column)
    alone = " and ".join(f"{rate:.1f}" for rate in figures["one_client_per_s"])
    longest, memory = figures["longest_wait_ms"], figures["rss_mb"]
    rows = {
        "one client, before and after": f"{alone} answers/s",
        "together": f"{figures['together_per_s']:.1f} answers/s, {figures['ratio']:.2f} times",
        "fair share": f"{figures['fair_share_ms']:.0f} ms",
        "longest wait, of all clients": f"{longest['least']:.0f} to {longest['most']:.0f} ms, "
        f"{figures['longest_wait_in_shares']:.2f} shares",
        "answers to others during a wait": f"at most {figures['longest_wait_in_answers']}",
        "waits above 3 shares": f"{figures['waits_above_three_shares']} of "
        f"{figures['waits_ms']['count']}",
        "longest time without any answer": f"{figures['longest_without_any_answer_ms']:.0f} ms",
        "answers per client": "{least} to {most}".format(**figures["answers_per_client"]),
        "resident memory, first and last quarter": f"{memory['first_quarter']:.1f} and "
        f"{memory['last_quarter']:.1f} MB, {memory['mb_per_minute']:+.2f} MB/min",
        "the clients' own CPU": f"{figures['clients_cpu_share']:.0%} of a core",
        "faults": "; ".join(figures["faults"]) or "none",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)


def print_abuse(figures: Mapping[str, Any]) -> None:
    """Prints what abusive peers did to a robot."""
    table = Table(title="a robot that asks 10 times per second, beside abusive peers")
    columns = ("peers", "p50, p95, p99 without, ms", "with, ms", "p95 with/without, per pair")
    for column in (*columns, "median; of all", "faults"):
        table.add_column(column)
    for kind, found in figures.items():
        pairs = found["pairs"]
        halves = [
            ", ".join(f"{found['pooled'][half][name]:.1f}" for name in RATIOS)
            for half in ("without", "with")
        ]
        ratios = " ".join(f"{pair['ratio']['p95_ms']:.2f}" for pair in pairs)
        middle = f"{found['median_ratio']['p95_ms']:.2f}; {found['pooled_ratio']['p95_ms']:.2f}"
        faults = sum(len(pair["faults"]) for pair in pairs)
        table.add_row(kind, *halves, ratios, middle, str(faults))
    Console(width=150).print(table)


if __name__ == "__main__":
    sys.exit(main())
