"""Evaluates the checkpoints of our policy for the comparison with ACT, by `flux-eval`.

    python benchmarks/act/evaluate_flux.py RUN --task insertion

Each checkpoint of RUN that has no result yet is exported and gets one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from runs import ROOT, Episode, Policy, Run, evaluation_parser, sha256
from safetensors import safe_open

TASKS = ("transfer-cube", "insertion")
ENGINE = "onnxruntime"


def main() -> int:
    """Evaluates, and writes a file per checkpoint."""
    parser = evaluation_parser(__doc__, TASKS)
    options = parser.parse_args()
    os.chdir(ROOT)
    weights = {steps_of(path): path for path in options.run.folder.glob("checkpoint_*.safetensors")}
    for steps, path in sorted(weights.items()):
        is_wanted = options.steps is None or steps in options.steps
        if is_wanted and not options.run.result(steps).exists():
            evaluate(path, steps, options)
    return 0


def steps_of(weights: Path) -> int:
    """Returns after how many steps a checkpoint was written."""
    with safe_open(weights, "numpy") as file:
        return int(file.metadata()["global_step"])


def num_parameters(weights: Path) -> int:
    """Returns how many numbers a checkpoint holds."""
    with safe_open(weights, "numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def evaluate(weights: Path, steps: int, options: argparse.Namespace) -> None:
    """Evaluates a checkpoint, and keeps what came of it."""
    run: Run = options.run
    bundle = run.folder / f"bundle_{steps:06d}"
    if not bundle.exists():
        flux("flux-export", weights.with_suffix(".pt"), "--out", bundle)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    asked = ("--seed", options.seed, "--episodes", options.episodes, "--engine", ENGINE, "--json")
    suite = f"aloha-{options.task}"
    report = json.loads(flux("flux-eval", "--suite", suite, "--bundle", bundle, *asked))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    manifest = json.loads((bundle / "manifest.json").read_text())
    config = json.loads((bundle / "config.json").read_text())
    facts = Policy(
        parameters=num_parameters(weights),
        picture=(manifest["image_height"], manifest["image_width"]),
        cameras=len(manifest["cameras"]),
        chunk=manifest["action_horizon"],
        executed=report["execution_horizon"],
        sha256=sha256(bundle / "model.safetensors"),
    )
    training = {
        "steps": steps,
        "cpu_s": run.cpu_s(weights),
        "seed": config["runner"]["seed"],
        "batch_size": config["train_dataloader"]["per_device_batch_size"],
        "learning_rate": config["runner"]["learning_rate"],
    }
    episodes = [
        Episode(each["seed"], each["success"], each["strict_success"])
        for each in report["episodes"]
    ]
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    versions = manifest["provenance"]["versions"]
    run.keep("flux", options.task, facts, training, episodes, cpu_s, versions)


def flux(command: str, *arguments: Any) -> str:
    """Runs one of our commands; returns what it prints."""
    words = [str(Path(sys.executable).parent / command), *map(str, arguments)]
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
