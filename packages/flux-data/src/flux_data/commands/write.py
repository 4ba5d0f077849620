"""The subcommands of `flux-data` that write datasets: convert, merge, split."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from flux_core.command_line import add_command, print_json
from flux_core.errors import UsageError

from ..progress_bars import progress_bars

VERSIONS = ("v2.1", "v3.0")
ALOHA = "aloha-hdf5"
MIN_FPS, MAX_FPS = 0.1, 1000.0
"""The range of camera rates; anything else is a mistake, like a period instead of a rate."""

Commands = argparse._SubParsersAction


def add_writing_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds them to the parser."""
    _add_convert(commands)
    _add_merge(commands)
    _add_split(commands)


def _add_convert(commands: Commands[argparse.ArgumentParser]) -> None:
    convert = add_command(
        commands,
        "convert",
        "Convert a LeRobot dataset to another version without encoding its videos again, or "
        "convert ALOHA's HDF5 files.",
        "  flux-data convert data/demonstrations --to v3.0 --out data/demonstrations_v30\n"
        "  flux-data convert aloha-hdf5 recordings --out data/towel --order left-right \\\n"
        "      --fps 50 --task 'fold the towel'",
    )
    convert.add_argument(
        "source",
        nargs="+",
        metavar="DATASET | aloha-hdf5 FOLDER",
        help="a LeRobot directory, or aloha-hdf5 and a folder of episode_*.hdf5 (or one file)",
    )
    convert.add_argument("--out", type=Path, required=True, help="a new directory")
    convert.add_argument("--to", choices=VERSIONS, help="version (aloha-hdf5: v2.1)")
    add_reencode(convert)
    hdf5 = convert.add_argument_group("for aloha-hdf5")
    hdf5.add_argument("--task", help="the task in words, as the policy will get it")
    hdf5.add_argument(
        "--order",
        choices=("left-right", "right-left"),
        help="which arm comes first in the files; the dataset always has the left one first",
    )
    hdf5.add_argument(
        "--fps", type=float, help="rate of the recording: 50 on ALOHA, often 30 on others"
    )
    hdf5.add_argument(
        "--also",
        nargs="+",
        default=[],
        choices=("qvel", "effort", "eepose", "depth", "base"),
        help="further data to convert; base appends /base_action to the actions",
    )
    hdf5.add_argument("--bgr", action="store_true", help="the files store blue before red")
    hdf5.add_argument(
        "--robot-type",
        default="aloha",
        help="for info.json: aloha, or aloha-agilex or aloha-viperx to say which arms (aloha)",
    )
    hdf5.add_argument("--workers", type=int, default=os.cpu_count(), help="number of processes")
    convert.set_defaults(handler=run_convert)


def add_reencode(parser: argparse.ArgumentParser) -> None:
    """Adds `--reencode`."""
    parser.add_argument(
        "--reencode",
        action="store_true",
        help="encode the videos again instead of copying them: same codec, pixel format, size and "
        "rate, at least 40 dB, exactly the pictures of the rows. For videos that cannot be copied",
    )


def run_convert(args: argparse.Namespace) -> None:
    """Runs `flux-data convert`."""
    if args.source[0] == ALOHA:
        _convert_aloha(args)
        return
    from ..convert.lerobot import convert

    if len(args.source) != 1:
        raise UsageError("convert: expected one dataset, got several. Use flux-data merge")
    if args.to is None:
        raise UsageError(f"convert: --to: expected one of {', '.join(VERSIONS)}, got none")
    with progress_bars(Console(stderr=True), "episodes") as advance:
        report = convert(
            [Path(args.source[0])],
            args.out,
            args.to,
            partial(advance, "episodes"),
            reencode=args.reencode,
        )
    _tell(args, report)


def _convert_aloha(args: argparse.Namespace) -> None:
    from ..convert.aloha_hdf5 import AlohaHdf5, convert_aloha_hdf5

    if args.reencode:
        raise UsageError(
            "convert aloha-hdf5: --reencode: its videos are always encoded. Leave it out"
        )
    if len(args.source) != 2:
        raise UsageError("convert aloha-hdf5: expected one folder of *.hdf5")
    for option, why in (
        ("task", "what the robot does"),
        ("order", "which arm comes first, left-right or right-left; no file tells"),
        ("fps", "the rate of the recording"),
    ):
        if getattr(args, option) is None:
            raise UsageError(f"convert aloha-hdf5: --{option}: expected a value, got none: {why}")
    if not args.task.strip():
        raise UsageError("--task: expected the task in words, got a blank text")
    if not MIN_FPS <= args.fps <= MAX_FPS:  # NaN fails too
        raise UsageError(f"--fps: expected {MIN_FPS:g} to {MAX_FPS:g}, got {args.fps:g}")
    if args.workers < 1:
        raise UsageError(f"--workers: expected at least 1, got {args.workers}")
    settings = AlohaHdf5(
        task=args.task,
        order=args.order,
        fps=args.fps,
        extras=tuple(args.also),
        bgr=args.bgr,
        robot_type=args.robot_type,
    )
    with progress_bars(Console(stderr=True), "episodes") as advance:
        report = convert_aloha_hdf5(
            Path(args.source[1]),
            args.out,
            settings,
            version=args.to or VERSIONS[0],
            workers=args.workers,
            advance=partial(advance, "episodes"),
        )
    _tell(args, report)


def _add_merge(commands: Commands[argparse.ArgumentParser]) -> None:
    merge = add_command(
        commands,
        "merge",
        "Join datasets of one robot, with the same rate, features and cameras.",
        "  flux-data merge data/monday data/tuesday --out data/week",
    )
    merge.add_argument("datasets", type=Path, nargs="+", help="LeRobot directories")
    merge.add_argument("--out", type=Path, required=True, help="a new directory")
    merge.add_argument("--to", choices=VERSIONS, help="version (default: the first one's)")
    add_reencode(merge)
    merge.set_defaults(handler=run_merge)


def run_merge(args: argparse.Namespace) -> None:
    """Runs `flux-data merge`."""
    from ..convert.lerobot import convert, version_of
    from ..lerobot.dataset import open_lerobot

    version = args.to or version_of(open_lerobot(args.datasets[0]))
    with progress_bars(Console(stderr=True), "episodes") as advance:
        report = convert(
            args.datasets,
            args.out,
            version,
            partial(advance, "episodes"),
            reencode=args.reencode,
        )
    _tell(args, report)


def _add_split(commands: Commands[argparse.ArgumentParser]) -> None:
    split = add_command(
        commands,
        "split",
        "Split a dataset's episodes into several datasets.",
        "  flux-data split data/week --out data/week_split train=0.9 validation=0.1\n"
        "  flux-data split data/week --out data/week_split first=0-39 second=40-49,60",
    )
    split.add_argument("dataset", type=Path, help="a LeRobot directory")
    split.add_argument(
        "parts", nargs="+", metavar="NAME=PART", help="a share like 0.9, or episodes like 0-39,45"
    )
    split.add_argument("--out", type=Path, required=True, help="the folder for the parts")
    split.add_argument("--seed", type=int, default=0, help="seed of the random draw of shares (0)")
    add_reencode(split)
    split.set_defaults(handler=run_split)


def run_split(args: argparse.Namespace) -> None:
    """Runs `flux-data split`."""
    from ..convert.lerobot import split

    parts: dict[str, str] = {}
    for text in args.parts:
        name, equals, part = text.partition("=")
        if not equals or name in ("", ".", "..", *parts) or "/" in name:
            raise UsageError(f"{text}: expected NAME=PART, each name once, like train=0.9")
        parts[name] = part
    with progress_bars(Console(stderr=True), "episodes") as advance:
        reports = split(
            args.dataset,
            args.out,
            parts,
            seed=args.seed,
            advance=partial(advance, "episodes"),
            reencode=args.reencode,
        )
    totals = {
        key: sum(report[key] for report in reports.values())
        for key in ("num_episodes", "num_frames")
    }
    if args.json:
        print_json({"out": str(args.out), **totals, "parts": reports})
        return
    for report in reports.values():
        _tell(args, report)


def _tell(args: argparse.Namespace, report: dict[str, Any]) -> None:
    if args.json:
        print_json(report)
        return
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    tell_reencoded(console, report)
    console.print(
        f"wrote {report['out']}: {report['num_episodes']} episodes, {report['num_frames']} frames",
        markup=False,
    )


def tell_reencoded(console: Console, report: dict[str, Any]) -> None:
    """Prints how the videos were encoded again."""
    for key, found in report.get("reencoded", {}).items():
        worst = found["min_psnr_db"]
        quality = "without any loss" if worst is None else f"at least {worst:g} dB"
        console.print(f"encoded {key} with {found['encoder']}: {quality}", markup=False)
