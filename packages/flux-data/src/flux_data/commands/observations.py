"""The subcommand `flux-data observations`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console

from flux_core.command_line import add_command, print_json

from ..whole_file import whole_file


def add_observations(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds it to the parser."""
    parser = add_command(
        commands,
        "observations",
        "Write images, states and tasks of frames evenly spread over the dataset to an .npz file.",
        "  flux-data observations data/demonstrations --cameras cam_high --out some.npz",
    )
    parser.add_argument("dataset", help="a LeRobot directory")
    parser.add_argument(
        "--cameras",
        nargs="+",
        required=True,
        metavar="NAME",
        help="cam_high stands for the column observation.images.cam_high or cam_high; "
        "cam_high=top for the column top",
    )
    parser.add_argument(
        "--state",
        nargs="+",
        metavar="COLUMN",
        help="the columns of the state, concatenated (observation.state)",
    )
    parser.add_argument("--count", type=int, default=32, help="number of frames (32)")
    parser.add_argument("--out", type=Path, required=True, help="the file, replaced if present")
    parser.set_defaults(handler=run_observations)


def run_observations(args: argparse.Namespace) -> None:
    """Runs `flux-data observations`."""
    from ..observations import observations

    named = (text.partition("=") for text in args.cameras)
    cameras = {camera: column or None for camera, _, column in named}
    arrays = observations(args.dataset, cameras, args.count, args.state)
    with whole_file(args.out) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # none is named allow_pickle
    if args.json:
        print_json({"out": str(args.out), "num_observations": args.count})
    else:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"wrote {args.out}: {args.count} observations", markup=False
        )
