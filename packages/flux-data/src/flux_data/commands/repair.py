"""The subcommand `flux-data repair`."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console

from flux_core.command_line import EXIT_FAILED, EXIT_OK, add_command, print_json

from ..progress_bars import progress_bars
from .write import add_reencode, tell_reencoded

MAX_ALIKE = 20
"""The number of corrections that differ only in numbers and are printed."""


def add_repair(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds it to the parser."""
    parser = add_command(
        commands,
        "repair",
        "Write a sound dataset from what can be saved of a damaged one. Episodes that cannot be "
        "saved are left out, the others numbered again; totals and statistics are computed anew. "
        "The exit code is 1 if anything was left out.",
        "  flux-data repair data/demonstrations --out data/demonstrations_repaired",
    )
    parser.add_argument("dataset", type=Path, help="a LeRobot directory; it is only read")
    parser.add_argument("--out", type=Path, required=True, help="a new directory")
    parser.add_argument(
        "--no-decode", action="store_true", help="check only the times of frames, not the pictures"
    )
    add_reencode(parser)
    parser.set_defaults(handler=run_repair)


def run_repair(args: argparse.Namespace) -> int:
    """Runs `flux-data repair`."""
    from ..repair.repairing import repair

    with progress_bars(Console(stderr=True), "check", "write", "verify") as advance:
        report = repair(
            args.dataset,
            args.out,
            decode=not args.no_decode,
            reencode=args.reencode,
            advance=advance,
        )
    if args.json:
        print_json(report)
    else:
        _tell(report)
    return EXIT_FAILED if report["left_out"] or report["remaining"] else EXIT_OK


def _tell(report: dict[str, Any]) -> None:
    """Prints one line per thing that was done, and what was written."""
    out = Console(soft_wrap=True, highlight=False)
    kinds = ("left_out", "corrected", "remaining")
    alike = Counter[str]()
    for kind in kinds:
        for note in report[kind]:
            form = re.sub(r"\d+", "", note["message"])
            alike[form] += kind == "corrected"
            if alike[form] > MAX_ALIKE:
                continue
            episode = "" if note["episode"] is None else f"episode {note['episode']}: "
            name = kind.replace("_", " ")
            out.print(f"{name}: {episode}{note['file']}: {note['message']}", markup=False)
    more = sum(max(count - MAX_ALIKE, 0) for count in alike.values())
    if more:
        out.print(f"corrected: {more} more like these; --json lists all")
    if not any(report[kind] for kind in kinds):
        out.print("nothing needed repair: the result is a copy")
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    tell_reencoded(console, report)
    console.print(
        f"wrote {report['out']}: {report['num_episodes']} episodes, {report['num_frames']} frames",
        markup=False,
    )
