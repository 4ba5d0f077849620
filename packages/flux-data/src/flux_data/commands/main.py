"""`flux-data`."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.console import Console

from flux_core.command_line import (
    EXIT_FAILED,
    EXIT_OK,
    add_command,
    new_parser,
    print_json,
    run_cli,
)
from flux_core.errors import UsageError
from flux_core.transforms import ImageResize, resize_to

from ..lerobot.locations import local_root
from ..repairable import hint, naming_repair
from .demo import add_demo_command
from .observations import add_observations
from .record import add_record
from .repair import add_repair
from .write import add_writing_commands

EXAMPLE = """\
  flux-data demo aloha-sim --episodes 50 --out data/demonstrations
  flux-data info data/demonstrations
  flux-data validate data/demonstrations"""


NOT_REPAIRED = ("jump", "task_text", "task_twice", "metadata")
"""Faults that need a person's judgement, or already say what to do."""

READERS = ("info", "pack", "validate", "stats", "view", "observations", "convert", "merge", "split")
"""The commands that read datasets."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = new_parser(
        "flux-data", "Record, check, convert and look at LeRobot datasets.", EXAMPLE
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_demo_command(commands)
    _add_info(commands)
    _add_pack(commands)
    _add_validate(commands)
    _add_stats(commands)
    _add_view(commands)
    add_observations(commands)
    add_writing_commands(commands)
    for name in READERS:
        _name_repair(commands.choices[name])
    add_repair(commands)
    add_record(commands)
    return run_cli(parser, argv)


def _name_repair(parser: argparse.ArgumentParser) -> None:
    """Makes a command that reads datasets name `flux-data repair` where that helps."""
    handler = parser.get_default("handler")

    def run(args: argparse.Namespace) -> int | None:
        given = vars(args)
        roots = [given.get("dataset"), *given.get("datasets", ()), *given.get("source", ())]
        with naming_repair(*(local_root(root) for root in roots if root is not None)):
            return handler(args)

    parser.set_defaults(handler=run)


def _add_info(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    info = add_command(
        commands,
        "info",
        "Summarise a dataset: episodes, cameras, features and tasks.",
        "  flux-data info data/demonstrations",
    )
    info.add_argument("dataset", type=Path, help="a LeRobot directory")
    info.set_defaults(handler=run_info)


def _add_pack(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    pack = add_command(
        commands,
        "pack",
        "Write a frame cache, which training reads instead of videos and stored images.",
        "  flux-data pack data/demonstrations --size 224 --workers 8",
    )
    pack.add_argument("dataset", type=Path, help="a LeRobot directory")
    pack.add_argument("--size", default="224", help="SIDE or HEIGHTxWIDTH of ResizeImages (224)")
    pack.add_argument("--pad", action="store_true", help="resize like ResizeImagesWithPad")
    pack.add_argument(
        "--encoding",
        choices=["raw", "jpeg"],
        default="raw",
        help="raw is exact; jpeg (quality 95) takes about a tenth of the space",
    )
    pack.add_argument("--workers", type=int, default=os.cpu_count(), help="number of processes")
    pack.add_argument("--out", type=Path, help="folder of the cache (beside the dataset)")
    pack.add_argument("--verify", action="store_true", help="only check the checksums of a cache")
    pack.set_defaults(handler=run_pack)


def run_pack(args: argparse.Namespace) -> None:
    """Runs `flux-data pack`."""
    from ..progress_bars import progress_bars
    from ..samples.pack import pack_dataset, verify_cache

    resize = _resize_of(args)
    console = Console(stderr=True)
    if args.verify:
        report = verify_cache(args.dataset, resize, encoding=args.encoding, out=args.out)
    else:

        def announce(frames: int, todo: int, size: int) -> None:
            console.print(f"{frames} frames, about {size / 1e6:,.1f} MB; {todo} to be written")

        with progress_bars(console, "frames") as advance:
            report = pack_dataset(
                args.dataset,
                resize,
                encoding=args.encoding,
                out=args.out,
                workers=max(args.workers, 1),
                announce=announce,
                advance=partial(advance, "frames"),
            )
    if args.json:
        print_json(report)
    else:
        console.print(
            f"{report['out']}: {report['frames']} frames, {report['bytes'] / 1e6:,.1f} MB"
        )


def _add_validate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    validate = add_command(
        commands,
        "validate",
        "Check every file, count, time, frame and number; the exit code is 1 if there are faults.",
        "  flux-data validate data/demonstrations",
    )
    validate.add_argument("dataset", type=Path, help="a LeRobot directory")
    validate.add_argument(
        "--no-decode", action="store_true", help="read only the times of frames, not the pictures"
    )
    validate.set_defaults(handler=run_validate)


def run_validate(args: argparse.Namespace) -> int:
    """Runs `flux-data validate`."""
    from ..progress_bars import progress_bars
    from ..validate.fault import Fault
    from ..validate.rows import validate

    warnings: list[Fault] = []
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with progress_bars(console, "episodes") as advance:
        faults = validate(
            args.dataset,
            decode=not args.no_decode,
            advance=partial(advance, "episodes"),
            warnings=warnings,
        )
    if args.json:
        told = {"warnings": [asdict(warning) for warning in warnings]} if warnings else {}
        print_json({"ok": not faults, "faults": [asdict(fault) for fault in faults], **told})
    else:
        out = Console(soft_wrap=True, highlight=False)
        for each in (*faults, *warnings):
            kind = f"warning: {each.kind}" if each in warnings else each.kind
            where = f" ({each.where})" if each.where else ""
            out.print(f"{kind}: {each.file}{where}: {each.message}", markup=False)
        count = f"{len(faults)} faults" if faults else "no faults"
        out.print(f"{count}; {len(warnings)} warnings" if warnings else count)
    if any(fault.kind not in NOT_REPAIRED for fault in faults):
        console.print(hint(args.dataset), markup=False)
    return EXIT_FAILED if faults else EXIT_OK


def _add_stats(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stats = add_command(
        commands,
        "stats",
        "Compute exact mean, standard deviation, range and quantiles from the data.",
        "  flux-data stats data/demonstrations --json",
    )
    stats.add_argument("dataset", type=Path, help="a LeRobot directory")
    stats.add_argument(
        "--motion",
        action="store_true",
        help="also the velocity, acceleration and jerk of vectors such as action: the largest, and "
        "what 99.9 %% of the frames stay below",
    )
    stats.set_defaults(handler=run_stats)


def run_stats(args: argparse.Namespace) -> None:
    """Runs `flux-data stats`."""
    from ..info import dataset_stats
    from ..lerobot.motion import RATES
    from ..progress_bars import progress_bars

    with progress_bars(Console(stderr=True), "episodes") as advance:
        stats = dataset_stats(
            args.dataset, advance=partial(advance, "episodes"), has_motion=args.motion
        )
    if args.json:
        print_json(stats)
        return
    out = Console(soft_wrap=True, highlight=False)
    for key, feature in stats.items():
        out.print(f"{key} ({feature['count']} frames)", markup=False)
        for name in ("mean", "std", "min", "max", "q01", "q99"):
            out.print(f"  {name:<5}" + " ".join(f"{x:10.4g}" for x in feature[name]))
        for name in RATES if args.motion and RATES[0] in feature else ():
            for label, values in feature[name].items():
                out.print(f"  {name} {label:<5}" + " ".join(f"{x:10.4g}" for x in values))


def _add_view(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    view = add_command(
        commands,
        "view",
        "Write one HTML file with a dataset's pictures, curves and histograms.",
        "  flux-data view data/demonstrations --out view.html --episodes 0-3",
    )
    view.add_argument("dataset", type=Path, help="a LeRobot directory")
    view.add_argument("--out", type=Path, required=True, help="the HTML file, replaced if present")
    view.add_argument(
        "--episodes",
        help="episodes with pictures and curves: N-M (first and last), or a number of them, evenly "
        "spread (8, or fewer if they are long)",
    )
    view.add_argument("--size", type=int, default=192, help="height of the pictures in pixels")
    view.set_defaults(handler=run_view)


def run_view(args: argparse.Namespace) -> None:
    """Runs `flux-data view`."""
    from ..progress_bars import progress_bars
    from ..view import write_view

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with progress_bars(console, "numbers", "pictures") as advance:
        report = write_view(
            args.dataset,
            args.out,
            episodes=args.episodes,
            height=args.size,
            announce=lambda line: console.print(line, markup=False),
            advance=advance,
        )
    if args.json:
        print_json(report)
    else:
        console.print(f"{report['out']}: {report['bytes'] / 1e6:,.1f} MB", markup=False)


def _resize_of(args: argparse.Namespace) -> ImageResize:
    size = re.fullmatch(r"(\d+)(?:x(\d+))?", args.size)
    if size is None or int(size[1]) < 1:
        raise UsageError(f"--size: expected 224 or 192x256, got {args.size!r}")
    return resize_to(int(size[1]), int(size[2] or size[1]), keep_aspect=args.pad)


def run_info(args: argparse.Namespace) -> None:
    """Runs `flux-data info`."""
    from ..info import dataset_info

    info = dataset_info(args.dataset)
    if args.json:
        print_json(info)
        return
    console = Console()
    console.print(
        f"LeRobot {info['codebase_version']}, robot {info['robot_type']}: {info['num_episodes']} "
        f"episodes, {info['num_frames']} frames at {info['fps']:g} Hz"
    )
    console.print(f"cameras: {', '.join(info['cameras']) or 'none'}")
    if info["depth_cameras"]:
        console.print(f"depth cameras: {', '.join(info['depth_cameras'])}")
    console.print(f"tasks: {'; '.join(info['tasks'])}")
    for key, feature in info["features"].items():
        console.print(f"  {key}: {feature['dtype']} {tuple(feature['shape'])}")
    for text in info["hints"]:
        console.print(f"hint: {text}")
