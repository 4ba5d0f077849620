"""Compiles all kernels that the stages of run.py launch; prepare.sh calls it.

    python benchmarks/gpu/compile_kernels.py FOLDER sm_90a ...

Needs Triton and torch, and no GPU: the networks are built without memory.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import kernel_problems
import policies

from flux_runtime.cuda.architectures import Architecture, architecture
from flux_runtime.cuda.cubins import Specialisation
from flux_runtime.cuda.cubins.build import build
from flux_runtime.cuda.cubins.shipped import needed, shipped
from flux_runtime.cuda.cubins.specialisation import specialisations


def main() -> int:
    """Compiles what is missing, and prints what is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("arch", nargs="+")
    args = parser.parse_args()
    targets = [architecture(name) for name in args.arch]
    work = [(target, wanted(target)) for target in targets]
    kept = build(work, args.folder)
    for folder in {*args.folder.iterdir()} - {built.store.folder for built in kept}:
        shutil.rmtree(folder)  # of other cards, or of kernels that have changed since
    for built in kept:
        kib = built.num_bytes / 1024
        print(f"{built.store.arch}: {len(built.wanted)} kernels, {kib:.0f} KiB")
    return 0


def wanted(target: Architecture) -> tuple[Specialisation, ...]:
    """Returns the kernels of all networks and of the problems."""
    found = {one.key: one for one in shipped(target)}
    for kind, size in policies.NETWORKS:
        description = policies.describe_network(kind, size)
        most_tokens = max(policies.PROMPTS[kind])
        for one in needed(description, policies.CAMERAS, most_tokens, target):
            found[one.key] = one
    plans = (one.plan for one in kernel_problems.problems(target.name, seed=0).values())
    return tuple((found | {one.key: one for one in specialisations(plans)}).values())


if __name__ == "__main__":
    sys.exit(main())
