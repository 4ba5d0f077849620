"""Compares two revisions of this repository: a training step, and a chunk of an exported bundle.

    python benchmarks/two_revisions.py d8d308dd HEAD --pairs 12

Each revision is checked out to a temporary folder and runs in a process of its own: its own
networks, trainer and graphs, with the packages and the C++ core that are installed. The two take
turns, one thread each, and the CPU time of each turn is compared with that of the other's turn just
before or after it, so that a busy machine slows down both. Weights are random, sizes small.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("pi0", "pi05")
REPEATS = {"train": 2, "infer": 5}


def main() -> int:
    """Runs both revisions in turns, or, with --worker, one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", help="a revision, such as a commit")
    parser.add_argument("now", nargs="?", default="HEAD")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker is not None:
        answer_questions(args.worker)
        return 0
    with ExitStack() as stack:
        names = ("before", "now")
        workers = {
            name: stack.enter_context(running(stack.enter_context(checked_out(revision))))
            for name, revision in zip(names, (args.before, args.now), strict=True)
        }
        turns: dict[str, list[tuple[float, float]]] = {}
        for pair in range(args.pairs + 1):
            for task in REPEATS:
                for model in MODELS:
                    order = names if pair % 2 else names[::-1]
                    ms = {name: ask(workers[name], task, model) for name in order}
                    if pair:  # the first one warms up
                        turns.setdefault(f"{model} {task}", []).append((ms["before"], ms["now"]))
            print(f"pair {pair} of {args.pairs}", file=sys.stderr, flush=True)
    figures = {name: compared(pairs) for name, pairs in turns.items()}
    for name, found in figures.items():
        print(name, json.dumps(found))
    if args.out:
        report = {"before": args.before, "now": args.now, "figures": figures, "turns": turns}
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def compared(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """Returns the medians in ms of CPU time, and the median and quartiles of the pairs' ratios."""
    low, middle, high = statistics.quantiles([now / before for before, now in pairs], n=4)
    return {
        "before_ms": round(statistics.median(before for before, _ in pairs), 2),
        "now_ms": round(statistics.median(now for _, now in pairs), 2),
        "ratio": round(middle, 3),
        "ratio_low": round(low, 3),
        "ratio_high": round(high, 3),
    }


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """Yields a temporary folder with a revision and the installed C++ core."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), revision], check=True)
        try:
            installed = find_spec("flux_runtime._core")
            if installed is None or installed.origin is None:
                raise SystemExit("flux_runtime._core: not installed. Run 'make install'")
            shutil.copy(installed.origin, tree / "packages/flux-runtime/src/flux_runtime")
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


@contextmanager
def running(tree: Path) -> Iterator[subprocess.Popen[str]]:
    """Yields a process that answers questions about a tree."""
    sources = [str(path) for path in sorted((tree / "packages").glob("*/src"))]
    sources.append(sysconfig.get_path("purelib"))
    # Without `site`, which would find this checkout's packages first.
    command = [sys.executable, "-S", __file__, "", "--worker", str(tree)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sources)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def ask(worker: subprocess.Popen[str], task: str, model: str) -> float:
    """Returns the least CPU time of a few runs of a task, in ms."""
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write(f"{task} {model}\n")
    worker.stdin.flush()
    answer = worker.stdout.readline()
    if not answer:
        raise SystemExit(f"{task} {model}: the process of one revision has ended; see above")
    return float(answer)


def answer_questions(tree: Path) -> None:
    """Measures what each line of the standard input names."""
    import torch

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            task, model = line.split()
            if (task, model) not in calls:
                make = training_step if task == "train" else chunk
                calls[task, model] = make(tree, model, Path(folder))
                calls[task, model]()
            call, milliseconds = calls[task, model], list[float]()
            for _ in range(REPEATS[task]):
                begin = time.process_time()
                call()
                milliseconds.append(1e3 * (time.process_time() - begin))
            print(min(milliseconds), file=answers, flush=True)


def training_step(tree: Path, model: str, _folder: Path) -> Callable[[], Any]:
    """Returns one optimisation step of the revision's own `benchmarks/train.py`."""
    import torch

    sys.path.insert(0, str(tree / "benchmarks"))
    import train

    torch.manual_seed(0)
    settings = argparse.Namespace(
        stage="flux",
        size=["small"],
        model=[model],
        finetune=["full"],
        batch=4,
        steps=1,
        device="cpu",
        **dict.fromkeys(("bf16", "compile", "recompute"), False),
    )
    return train.contestant(settings, torch.device("cpu"))[0]


def chunk(tree: Path, model: str, folder: Path) -> Callable[[], Any]:
    """Returns one inference of a bundle that the revision exports."""
    import flux_runtime
    from flux_core.bundle import Bundle
    from flux_runtime.engines import open_flow_policy, user_inputs
    from flux_runtime.export import ExportOptions, export_bundle, random_policy

    assert tree in Path(flux_runtime.__file__).parents, flux_runtime.__file__
    export_bundle(random_policy(model, "small"), folder / model, lambda *_: None, ExportOptions())
    bundle = Bundle.open(folder / model)
    policy = open_flow_policy(bundle, engine="onnxruntime", num_threads=1)
    golden = bundle.golden()
    inputs = {name: golden[f"input.{name}"] for name in user_inputs(bundle.manifest)}
    return lambda: policy.infer(inputs, golden["input.noise"])


if __name__ == "__main__":
    sys.exit(main())
