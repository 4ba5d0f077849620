"""Times reading at scale beside an earlier revision: stored images, statistics and `validate`.

    git worktree add BEFORE REVISION
    python benchmarks/scale.py --baseline BEFORE --out benchmarks/results/scale_2cores.json

Both contestants read the same datasets, which are made first. They take turns, each turn in a
separate process, so that its peak memory can be measured. Without --baseline only this revision is
timed.

  images      shuffled samples of a v3.0 and a v2.1 dataset with PNGs in its parquet files, of which
              the cache holds a small part: one sample after the other, one 480x640 camera
  statistics  of relative actions, windows of 50, 14 joints; `--frames` frames for both, and ten
              times as many for this revision alone
  validate    `flux-data validate --no-decode` of 5,000 episodes with two videos, v3.0 with one row
              group per episode, as LeRobot's recorder writes it, and v2.1
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from made_dataset import ACTION, CAMERA, STATE, MadeDataset, write_dataset

HORIZON, DIM = 50, 14
SIZE = (480, 640)
PACKAGES = ("flux-core", "flux-data", "flux-train", "flux-runtime")
SUBJECTS = ("images", "statistics", "validate")


def main() -> int:
    """Runs the contestants in turns, or, with --stage, one turn of one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subjects", nargs="*", choices=[*SUBJECTS, []], help="default: all")
    parser.add_argument("--baseline", type=Path, help="a checkout of the revision to compare with")
    parser.add_argument("--rounds", type=int, default=2, help="turns per contestant")
    parser.add_argument("--images", type=int, default=8000, help="frames with images")
    parser.add_argument("--samples", type=int, default=60, help="samples per turn")
    parser.add_argument("--frames", type=int, default=100_000, help="frames for the statistics")
    parser.add_argument("--episodes", type=int, default=5000, help="episodes to validate")
    parser.add_argument("--folder", type=Path, help="where the datasets are made, and kept")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--stage", choices=SUBJECTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage is not None:
        print(json.dumps(STAGES[args.stage](args)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        report = compare(args, args.folder or Path(folder))
    print_table(report)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def cases(args: argparse.Namespace) -> dict[str, tuple[str, MadeDataset, bool]]:
    """Returns name -> subject, dataset, and whether the baseline takes part."""
    length = 200
    images = MadeDataset(
        version="v3.0", episodes=args.images // length, length=length, image=SIZE, row_group=length
    )
    # About 100 MB per file, as LeRobot joins them.
    images = replace(images, rows_per_file=2 * length)
    numbers = MadeDataset(version="v3.0", episodes=args.frames // 500, length=500, row_group=500)
    many = MadeDataset(version="v3.0", episodes=args.episodes, length=100, videos=2, row_group=100)
    many = replace(many, rows_per_file=args.episodes * 100)
    found = {
        "images, v3.0, a row group per episode": ("images", images, True),
        "images, v3.0, a row group per 100 rows": ("images", replace(images, row_group=100), True),
        "images, v3.0, a row group per file": ("images", replace(images, row_group=None), True),
        "images, v2.1": ("images", replace(images, version="v2.1"), True),
        f"statistics, {args.frames:,} frames": ("statistics", numbers, True),
        f"statistics, {10 * args.frames:,} frames": (
            *("statistics", replace(numbers, episodes=10 * numbers.episodes)),
            False,
        ),
        f"validate, v3.0, {args.episodes:,} episodes": ("validate", many, True),
        f"validate, v2.1, {args.episodes:,} episodes": (
            *("validate", replace(many, version="v2.1")),
            True,
        ),
    }
    wanted = args.subjects or SUBJECTS
    return {name: case for name, case in found.items() if case[0] in wanted}


def compare(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Runs all turns of both contestants."""
    checkouts = {"before": args.baseline, "after": Path(__file__).parents[1]}
    figures: dict[str, dict[str, list[dict[str, float]]]] = {}
    for number, (name, (subject, made, both)) in enumerate(cases(args).items()):
        root = folder / f"set_{number}"
        if not root.exists():
            write_dataset(root, made)
        turns = figures[name] = {}
        for _ in range(args.rounds):
            for contestant, checkout in checkouts.items():
                if checkout is None or (contestant == "before" and not both):
                    continue
                answer = run_turn(args, subject, root, checkout)
                turns.setdefault(contestant, []).append(answer)
                print(f"{name}, {contestant}: {answer}", file=sys.stderr, flush=True)
        if args.folder is None:
            subprocess.run(["rm", "-r", str(root)], check=True)
    return {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "baseline": revision(args.baseline) if args.baseline else None,
        "settings": {
            "images": args.images,
            "samples": args.samples,
            "frames": args.frames,
            "episodes": args.episodes,
            "rounds": args.rounds,
        },
        "turns": figures,
        "ratios": {name: ratios(turns) for name, turns in figures.items() if "before" in turns},
    }


def run_turn(
    args: argparse.Namespace, subject: str, root: Path, checkout: Path
) -> dict[str, float]:
    """Runs one turn in a process that imports flux from `checkout`."""
    with tempfile.TemporaryDirectory() as cache:
        paths = [str(checkout / "packages" / name / "src") for name in PACKAGES]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*paths, str(Path(__file__).parent)]),
            "XDG_CACHE_HOME": cache,
        }
        command = [sys.executable, __file__, "--stage", subject, "--folder", str(root)]
        command += ["--samples", str(args.samples)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
    answer = json.loads(done.stdout.decode().splitlines()[-1])
    source = answer.pop("flux")
    if not source.startswith(str(checkout.resolve())):
        raise SystemExit(f"benchmark: error: expected flux from {checkout}, got {source}")
    return answer


def revision(checkout: Path) -> str:
    """Returns the revision of a checkout."""
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.strip()


def ratios(turns: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """Returns before over after of each figure, from the best turns."""
    best = {
        contestant: {key: min(turn[key] for turn in found) for key in found[0]}
        for contestant, found in turns.items()
    }
    return {
        k: round(v / best["after"][k], 2) for k, v in best["before"].items() if best["after"][k]
    }


def measured(action: Callable[[], dict[str, float]]) -> dict[str, Any]:
    """Returns what `action` returns, with its time, CPU time and the peak memory of the process."""
    import flux_data

    begin, cpu = time.perf_counter(), time.process_time()
    figures = action()
    elapsed, used = time.perf_counter() - begin, time.process_time() - cpu
    return {
        **figures,
        "seconds": round(elapsed, 3),
        "cpu_s": round(used, 3),
        "peak_mib": peak_mib(),
        "flux": str(flux_data.__file__),
    }


def peak_mib() -> float:
    """Returns the peak resident memory of this process; `getrusage` would include its parent's."""
    status = Path("/proc/self/status").read_text()
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024, 1)


def time_images(args: argparse.Namespace) -> dict[str, Any]:
    """Reads shuffled samples one after the other; the first five are not timed."""
    from flux_core.transforms import ResizeImages
    from flux_data.samples import ParquetDataset, ProcessParquetInputs

    inputs = ProcessParquetInputs(parquet_keys=(STATE, "actions"), video_keys=(CAMERA,))
    dataset = ParquetDataset.Config(
        data_root_path=str(args.folder),
        transforms=(inputs, ResizeImages(height=224, width=224)),
        action_window_size=HORIZON,
        action_key=ACTION,
        window_start_idx=0,
    ).build()
    order = np.random.default_rng(0).permutation(len(dataset))[: args.samples + 5].tolist()
    for index in order[:5]:
        dataset[index]

    def read() -> dict[str, float]:
        times_ms: list[float] = []
        for index in order[5:]:
            begin = time.perf_counter()
            dataset[index]
            times_ms.append((time.perf_counter() - begin) * 1e3)
        p50, p95 = np.percentile(times_ms, [50, 95])
        return {"p50_ms": round(float(p50), 2), "p95_ms": round(float(p95), 2)}

    return measured(read)


def time_statistics(args: argparse.Namespace) -> dict[str, Any]:
    """Opens a dataset with relative actions, whose statistics nobody has computed before."""
    from flux_core.transforms import NormalizeStatesAndActions, RelativeActions
    from flux_data.samples import (
        DistributedRepeatingDataset,
        ParquetDataset,
        ProcessParquetInputs,
    )

    inputs = ProcessParquetInputs(parquet_keys=(STATE, "actions"), video_keys=())
    relative = RelativeActions(mask=(True,) * (DIM - 1) + (False,))
    member = ParquetDataset.Config(
        data_root_path=str(args.folder),
        transforms=(inputs, relative, NormalizeStatesAndActions()),
        action_window_size=HORIZON,
        action_key=ACTION,
        window_start_idx=0,
    )
    config = DistributedRepeatingDataset.Config(datasets=member, statistic_keys=None)

    def compute() -> dict[str, float]:
        stats = config.build().stats["private"]["action"]
        return {"q01_of_first": stats.q01[0], "q99_of_first": stats.q99[0]}

    return measured(compute)


def time_validate(args: argparse.Namespace) -> dict[str, Any]:
    """Checks everything but the pictures."""
    from flux_data.validate import validate

    return measured(lambda: {"faults": len(validate(args.folder, decode=False))})


STAGES = {"images": time_images, "statistics": time_statistics, "validate": time_validate}


def print_table(report: dict[str, Any]) -> None:
    """Prints one row per case and contestant."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "", "seconds", "CPU s", "peak MiB", "p50 ms", "p95 ms", "before / after")
    for name, turns in report["turns"].items():
        for contestant, found in turns.items():
            best = min(found, key=lambda turn: turn["seconds"])
            cells = [
                f"{best[key]:.1f}" if key in best else ""
                for key in ("seconds", "cpu_s", "peak_mib", "p50_ms", "p95_ms")
            ]
            ratio = report["ratios"].get(name, {}).get("seconds", "")
            table.add_row(name, contestant, *cells, str(ratio) if contestant == "after" else "")
    Console(width=140).print(table)


if __name__ == "__main__":
    sys.exit(main())
