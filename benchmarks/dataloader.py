"""Times random access through our data loader beside the real LeRobotDataset, in one run.

    python benchmarks/dataloader.py DATASET --lerobot ENV/bin/python --out dataloader.json

ENV is an environment with LeRobot 0.4 and torchcodec (0.4 reads format v3.0 only). All contestants
produce the same batches with the same number of workers: every camera at 224x224, the state, and 50
actions, from the same random frames. They take turns, each turn in a separate process. Neither the
start of the workers nor the batches that they make before the clock starts are timed. (The CPU time
of worker processes is known only when they end, and includes both.)

  lerobot         LeRobotDataset, torchcodec, torchvision's antialiased resize, torch's DataLoader
  flux            ParquetDataset from the videos, through `batches_ahead`: its workers are threads
  flux processes  the same through torch's DataLoader
  flux packed     like flux, from a frame cache made by `flux-data pack`
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SIZE, HORIZON, BATCH = 224, 50, 8

WARM_UP = 8
"""Batches before the clock starts; they use up everything that workers prepared in advance."""


def main() -> int:
    """Runs the contestants in turns, or, with --stage, one turn of one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path, help="a LeRobot directory")
    parser.add_argument(
        "--lerobot", type=Path, help="Python with lerobot; without it, lerobot is not timed"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=40, help="batches of 8 samples per turn")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--stage", choices=("lerobot", "flux"), help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    parser.add_argument("--processes", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage is not None:
        print(json.dumps(turn(args)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        pack(args.dataset, Path(folder))
        report = compare(args, folder)
    print_table(report)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def compare(args: argparse.Namespace, cache: str) -> dict[str, Any]:
    """Runs all turns of all contestants."""
    ours = ("flux", "flux processes", "flux packed")
    contestants = {name: [sys.executable] for name in ours}
    if args.lerobot is not None:
        contestants = {"lerobot": [str(args.lerobot)], **contestants}
    turns: dict[str, list[dict[str, float]]] = {}
    for _ in range(args.rounds):
        for workers in args.workers:
            for name, python in contestants.items():
                if name == "flux processes" and not workers:
                    continue
                command = [*python, __file__, str(args.dataset), "--workers", str(workers)]
                command += ["--stage", name.split()[0], "--batches", str(args.batches)]
                command += ["--cache", cache] if name == "flux packed" else []
                command += ["--processes"] if name in ("lerobot", "flux processes") else []
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
                answer = json.loads(done.stdout.decode().splitlines()[-1])
                turns.setdefault(f"{name}, {workers} workers", []).append(answer)
                print(f"{name}, {workers} workers: {answer}", file=sys.stderr, flush=True)
    return {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "dataset": args.dataset.name,
        "settings": {"size": SIZE, "horizon": HORIZON, "batch": BATCH, "batches": args.batches},
        "turns": turns,
        "best": {
            name: {
                "samples_per_s": max(t["samples_per_s"] for t in found),
                "cpu_ms_per_sample": min(t["cpu_ms_per_sample"] for t in found),
                "worker_mib": max(t["worker_mib"] for t in found),
            }
            for name, found in turns.items()
        },
    }


def turn(args: argparse.Namespace) -> dict[str, Any]:
    """Runs one turn of one contestant: the warm-up, then `batches` timed batches."""
    import torch

    torch.set_num_threads(1)
    workers = args.workers[0] if args.processes else 0
    dataset, collate = (lerobot if args.stage == "lerobot" else flux)(args)
    generator = torch.Generator().manual_seed(0)
    total = (args.batches + WARM_UP) * BATCH
    order = torch.randint(len(dataset), (total,), generator=generator).tolist()
    batches = load(args, dataset, order, collate)
    first = next(batches)
    check(first)
    for _ in range(WARM_UP - 1):
        next(batches)
    cpu = cpu_seconds(workers)
    begin = time.perf_counter()
    count = consume(batches)
    elapsed = time.perf_counter() - begin
    return {
        "samples_per_s": round(count * BATCH / elapsed, 2),
        "cpu_ms_per_sample": round((cpu_seconds(workers) - cpu) / (count * BATCH) * 1e3, 2),
        "worker_mib": worker_mib(workers),
        "first_state": round(float(first["state"][0][0]), 6),
    }


def load(args: argparse.Namespace, dataset: Any, order: list[int], collate: Any) -> Iterator[Any]:
    """Yields the batches of `order`, made by threads or processes."""
    from torch.utils.data import DataLoader

    workers = args.workers[0]
    batches = [order[first : first + BATCH] for first in range(0, len(order), BATCH)]
    if workers and not args.processes:
        from flux_data.samples import batches_ahead

        return batches_ahead(dataset, batches, collate, workers)
    ahead = 2 if workers else None
    return iter(
        DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=collate,
            prefetch_factor=ahead,
        )
    )


def consume(batches: Iterator[Any]) -> int:
    """Consumes the remaining batches, and records the workers' memory while they are alive."""
    count = 0
    for _ in batches:
        count += 1
        worker_mib.peak = max(worker_mib.peak, _children_mib())  # type: ignore[attr-defined]
    return count


def worker_mib(workers: int) -> float:
    """Returns the peak memory of a worker (or of the only process) in MiB."""
    if workers:
        return round(worker_mib.peak, 1)  # type: ignore[attr-defined]
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


worker_mib.peak = 0.0  # type: ignore[attr-defined]


def _children_mib() -> float:
    """Returns the largest resident size, private and shared, of all child processes."""
    peak = 0.0
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            status = Path(f"/proc/{child}/status").read_text()
            line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
            peak = max(peak, int(line.split()[1]) / 1024)
    return peak


def cpu_seconds(workers: int) -> float:
    """Returns the CPU time of this process and of its finished children."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    seconds = own.ru_utime + own.ru_stime
    if workers:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds += children.ru_utime + children.ru_stime
    return seconds


def check(batch: dict[str, Any]) -> None:
    """Checks that all contestants produce the same shapes."""
    shapes = {name: tuple(value.shape) for name, value in batch.items()}
    cameras = shapes["images"][1]
    expected = {
        "images": (BATCH, cameras, 3, SIZE, SIZE),
        "state": (BATCH, shapes["state"][1]),
        "actions": (BATCH, HORIZON, shapes["actions"][2]),
    }
    if shapes != expected:
        raise SystemExit(f"benchmark: error: expected {expected}, got {shapes}")


def lerobot(args: argparse.Namespace) -> tuple[Any, Any]:
    """Returns the real LeRobotDataset and its collate function."""
    import torch

    # torchvision's wheel from PyPI requires CUDA operators to exist; nothing here calls them.
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from torchvision.transforms import v2

    info = json.loads((args.dataset / "meta" / "info.json").read_text())
    steps = [i / info["fps"] for i in range(HORIZON)]
    dataset = LeRobotDataset(
        "local/benchmark",
        root=args.dataset,
        delta_timestamps={"action": steps},
        video_backend="torchcodec",
        image_transforms=v2.Resize((SIZE, SIZE), antialias=True),
    )
    cameras = [key for key, f in info["features"].items() if f["dtype"] == "video"]

    def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
        images = [torch.stack([sample[key] for key in cameras]) for sample in samples]
        return {
            "images": torch.stack(images),
            "state": torch.stack([sample["observation.state"] for sample in samples]),
            "actions": torch.stack([sample["action"] for sample in samples]),
        }

    return dataset, collate


def flux_config(dataset: Path, cache: str | None) -> Any:
    """Returns our dataset's config, as in a training config."""
    from flux_core.transforms import ResizeImages, SimpleNormalizeImages
    from flux_data.lerobot import open_lerobot
    from flux_data.samples import ParquetDataset, ProcessParquetInputs

    inputs = ProcessParquetInputs(
        parquet_keys=("observation.state", "actions"),
        video_keys=open_lerobot(dataset).video_keys,
    )
    resize = ResizeImages(height=SIZE, width=SIZE)
    return ParquetDataset.Config(
        data_root_path=str(dataset),
        transforms=(inputs, resize, SimpleNormalizeImages()),
        action_window_size=HORIZON,
        action_key="action",
        window_start_idx=0,
        frame_cache=cache or str(dataset / "no-cache"),
    )


def flux(args: argparse.Namespace) -> tuple[Any, Any]:
    """Returns our dataset and its collate function."""
    import numpy as np
    import torch

    def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
        names = {"images": "images", "state": "states", "actions": "actions"}
        return {
            name: torch.from_numpy(np.stack([sample[key] for sample in samples]))
            for name, key in names.items()
        }

    return flux_config(args.dataset, args.cache).build(), collate


def pack(dataset: Path, folder: Path) -> None:
    """Makes the frame cache."""
    from flux_core.transforms import ResizeImages
    from flux_data.samples import pack_dataset

    begin = time.perf_counter()
    report = pack_dataset(dataset, ResizeImages(height=SIZE, width=SIZE), out=folder, workers=2)
    seconds = time.perf_counter() - begin
    size = report["bytes"] / 1e6
    print(f"packed {report['frames']} frames, {size:.0f} MB, in {seconds:.1f} s", file=sys.stderr)


def print_table(report: dict[str, Any]) -> None:
    """Prints one row per contestant and number of workers."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "samples/s", "CPU ms/sample", "worker MiB", "over lerobot")
    for name, row in report["best"].items():
        peer = report["best"].get("lerobot," + name.split(",")[1])
        ratio = f"{row['samples_per_s'] / peer['samples_per_s']:.1f}x" if peer else ""
        cells = (f"{row[k]:.1f}" for k in ("samples_per_s", "cpu_ms_per_sample", "worker_mib"))
        table.add_row(name, *cells, ratio)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
