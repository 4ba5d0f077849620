"""Measures how much success a policy loses as its weights become coarser.

    python benchmarks/coarse_weights.py --bundle BUNDLE --dataset DATASET --out FILE.json

Noise is added to the weights of all attention layers and MLPs, as a share of their root mean
square. Beside the success stands what flux-export's check of a precision sees: how far actions move
on observations of DATASET, relative to another draw of the noise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from kept_episodes import policy_digest, print_rows
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from success import SUITES, Job, Row, played

from flux_core.bundle import Bundle, write_manifest
from flux_core.policy_io import PolicyIO
from flux_core.types import Observation
from flux_runtime.bench import hardware
from flux_runtime.control.success import wilson_interval
from flux_runtime.export.precision.calibration import read_observations
from flux_runtime.export.precision.moved_actions import (
    CHECKED_OBSERVATIONS,
    MovedActions,
    moved_actions,
)
from flux_runtime.export.verify import open_sessions, run_loop

WEIGHTS, SEED = "model.safetensors", 20261130
SHARES = (0.0, 0.02, 0.04, 0.08, 0.16, 0.32)


def main() -> int:
    """Measures, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--bundle", type=Path, required=True, help="in fp32")
    add("--dataset", type=Path, required=True, help="LeRobot, of the policy's demonstrations")
    add("--suite", choices=SUITES, default="aloha-insertion")
    add("--shares", nargs="+", type=float, default=SHARES, help="of noise in the weights")
    add("--episodes", type=int, default=100, help="seeds per share (default: 100)")
    add("--seed", type=int, default=200_000)
    add("--work", type=Path, default=Path("demo_output/coarse"), help="for the coarse bundles")
    add("--out", type=Path, help="write the figures as JSON")
    add("--markdown", action="store_true", help="print the table as in docs/numbers.md")
    options = parser.parse_args()
    figures = list(measured(options))
    print_rows(table_rows(figures), is_markdown=options.markdown, width=120)
    if options.out:
        data = {"hardware": hardware(), "policy": policy_digest(options.bundle), "rows": figures}
        options.out.write_text(json.dumps(data, indent=1) + "\n")
    return 0


def measured(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields the figures of one share after another."""
    exact = Bundle.open(options.bundle)
    cameras = exact.manifest.cameras
    observations = read_observations([str(options.dataset)], cameras, CHECKED_OBSERVATIONS)
    expected, redrawn = (actions_of(options.bundle, observations, draw) for draw in range(2))
    for share in options.shares:
        bundle = coarser(exact, share, options.work / f"{policy_digest(options.bundle)}_{share:g}")
        moved = moved_actions(expected, redrawn, actions_of(bundle, observations, 0))
        won = successes(bundle, options)
        yield {
            "suite": options.suite,
            "noise": share,
            **asdict(moved),
            "episodes": options.episodes,
            "success": won,
            "ci95": list(wilson_interval(won, options.episodes)),
        }


def coarser(exact: Bundle, share: float, folder: Path) -> Path:
    """Writes a bundle with noise in the weights of its attention layers and MLPs."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(exact.directory, folder)
    random = np.random.default_rng(SEED)
    path = folder / WEIGHTS
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    weights = load_file(path)
    for name, value in weights.items():
        if ".mlp." in name or ".self_attn." in name:
            size = share * np.sqrt(np.mean(np.square(value)))
            weights[name] = value + size.astype(np.float32) * random.standard_normal(
                value.shape, np.float32
            )
    save_file(weights, path, metadata=metadata)
    content = path.read_bytes()
    files = dict(exact.manifest.files)
    files[WEIGHTS] = replace(files[WEIGHTS], sha256=hashlib.sha256(content).hexdigest())
    # It is meant to miss its golden.
    write_manifest(folder, replace(exact.manifest, tolerance=1.0, files=files))
    return folder


def actions_of(
    folder: Path, observations: Sequence[Observation], draw: int
) -> list[NDArray[np.generic]]:
    """Returns the normalised actions of each observation; every `draw` has its own noise."""
    bundle = Bundle.open(folder)
    io, sessions = PolicyIO.from_bundle(bundle), open_sessions(bundle, 1)
    shape = (1, bundle.manifest.action_horizon, bundle.manifest.action_dim)
    found: list[NDArray[np.generic]] = []
    for number, observation in enumerate(observations):
        noise = np.random.default_rng((SEED, draw, number)).standard_normal(shape, np.float32)
        inputs = {**io.encode(observation), "noise": noise}
        steps = bundle.manifest.num_inference_steps
        found.append(run_loop(*sessions, inputs, steps)["actions"])
    return found


def successes(bundle: Path, options: argparse.Namespace) -> int:
    """Plays the episodes of a bundle and returns how many succeed."""
    seeds = range(options.seed, options.seed + options.episodes)
    episodes = played(Job(row=Row(suite=options.suite), bundle=bundle, seeds=seeds))
    return sum(bool(episode["success"]) for episode in episodes)


def table_rows(figures: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """Yields the table, its header first."""
    yield ["noise in the weights", "actions move", "relative to another draw", "success (95 %)"]
    for each in figures:
        moved = MovedActions(
            observations=each["observations"], moved=each["moved"], spread=each["spread"]
        )
        low, high = (f"{100 * bound:.0f}" for bound in each["ci95"])
        yield [
            f"{100 * each['noise']:g} %",
            f"{moved.moved:.4f}",
            f"{moved.share:.2f} times",
            f"{each['success']} of {each['episodes']} ({low} to {high} %)",
        ]


if __name__ == "__main__":
    sys.exit(main())
