"""Times one action chunk of a bundle on this machine, our loop beside its peers, in one run.

    make bench
    python benchmarks/runtime.py --bundle demo_output/bundle --repeat 200 --out bench.json

The contestants take turns, chunk by chunk, so that a busy machine slows all of them alike:

  flux         the C++ loop on ONNX Runtime's C API
  onnxruntime  the same two graphs, looped over from Python
  pytorch      the same network in PyTorch, eager (random weights: they do not change the time)
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from flux_core.bundle import Bundle
from flux_runtime.engine import open_flow_policy
from flux_runtime.export.verify import open_sessions, run_loop
from flux_runtime.golden import replay_golden
from flux_runtime.graph_inputs import user_inputs
from flux_runtime.run import shipped_policy

WARM_UP = 10


def main() -> int:
    """Prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, help="default: the shipped aloha-sim policy")
    parser.add_argument("--repeat", type=int, default=100, help="chunks of each (default: 100)")
    parser.add_argument("--threads", type=int, default=1, help="of the network (default: 1)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    bundle = Bundle.open(args.bundle or shipped_policy("aloha-sim"))
    contestants = {
        "flux": flux_loop(bundle, args.threads),
        "onnxruntime": onnxruntime_loop(bundle, args.threads),
        "pytorch": pytorch_loop(bundle, args.threads),
    }
    report = {
        "bundle": str(bundle.directory),
        "machine": platform.processor() or platform.machine(),
        "threads": args.threads,
        "repeat": args.repeat,
        "milliseconds": measure(contestants, args.repeat),
    }
    print_table(report)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def flux_loop(bundle: Bundle, threads: int) -> Callable[[], Any]:
    """The runtime as the robot uses it, checked against the golden first."""
    policy = open_flow_policy(bundle, num_threads=threads)
    if not replay_golden(bundle, policy).ok:
        raise SystemExit(f"benchmark: error: {bundle.directory}: the golden is not reproduced")
    golden = bundle.golden()
    inputs = {name: golden[f"input.{name}"] for name in user_inputs(bundle.manifest)}
    return lambda: policy.infer(inputs, golden["input.noise"])


def onnxruntime_loop(bundle: Bundle, threads: int) -> Callable[[], Any]:
    """The same graphs through ONNX Runtime's Python session."""
    sessions = open_sessions(bundle, threads)
    inputs = {name.removeprefix("input."): value for name, value in bundle.golden().items()}
    return lambda: run_loop(*sessions, inputs, bundle.manifest.num_inference_steps)


def pytorch_loop(bundle: Bundle, threads: int) -> Callable[[], Any]:
    """The same network in PyTorch, eager."""
    import torch

    from flux_core.config import bind
    from flux_core.models import PI0FlowMatching, sample_actions

    torch.set_num_threads(threads)
    config = json.loads(bundle.path("config.json").read_text())
    model = bind(PI0FlowMatching.Config, config["model"], "model").build().eval()
    golden = {name: torch.from_numpy(value) for name, value in bundle.golden().items()}
    images = golden["input.images"].movedim(-1, 2).float() / 127.5 - 1.0

    @torch.no_grad()
    def infer() -> torch.Tensor:
        names = ("image_masks", "lang_tokens", "lang_masks")
        cache = model.prefix(images, *(golden[f"input.{name}"] for name in names))
        return sample_actions(model, golden.get("input.state"), cache, golden["input.noise"])

    return infer


def measure(contestants: dict[str, Callable[[], Any]], repeat: int) -> dict[str, dict[str, float]]:
    """Times every contestant `repeat` times, taking turns."""
    for infer in contestants.values():
        for _ in range(WARM_UP):
            infer()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in track(range(repeat), "chunks", console=Console(stderr=True)):
        for name, infer in contestants.items():
            begin = time.perf_counter()
            infer()
            times[name].append((time.perf_counter() - begin) * 1e3)
    ours = np.asarray(times["flux"])
    return {
        name: {
            **{f"p{q}": float(np.percentile(values, q)) for q in (50, 95, 99)},
            "max": max(values),
            "over_flux": float(np.median(np.asarray(values) / ours)),
        }
        for name, values in times.items()
    }


def print_table(report: dict[str, Any]) -> None:
    """One row a contestant; the last column is the median of the ratios, turn by turn."""
    table = Table(title=f"One action chunk of {report['bundle']}, {report['threads']} thread(s)")
    table.add_column("")
    columns = ("p50", "p95", "p99", "max", "over_flux")
    for column in columns:
        table.add_column("times flux" if column == "over_flux" else f"{column} ms", justify="right")
    for name, row in report["milliseconds"].items():
        table.add_row(name, *(f"{row[column]:.2f}" for column in columns))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
