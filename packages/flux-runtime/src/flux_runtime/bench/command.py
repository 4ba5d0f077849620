"""The options and the end of `flux-runtime bench`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flux_core.command_line import EXIT_FAILED, EXIT_OK, finite, print_json
from flux_core.config import NETWORKS
from flux_core.errors import UsageError

from ..arguments import add_accept_version, add_threads, count
from ..cuda.cards import CARDS
from ..engines.names import AUTO, ENGINES


def add_bench(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add = parser.add_argument
    bundle = add("bundle", type=Path, metavar="BUNDLE", help="the bundle's directory")

    class InsteadOfBundle(argparse.Action):
        """Makes BUNDLE optional; with nargs='?' it would have to come before the options."""

        def __call__(self, _: Any, namespace: argparse.Namespace, values: Any, __: Any = None):
            bundle.required = False
            setattr(namespace, self.dest, values)

    add("--engine", nargs="+", choices=(AUTO, *ENGINES), default=[AUTO], help="engines to compare")
    add_threads(parser)
    add(
        "--repeat",
        type=count,
        default=100,
        metavar="N",
        help="timed chunks per engine (default: 100)",
    )
    add(
        "--warm-up", type=count, default=10, metavar="N", help="untimed chunks before (default: 10)"
    )
    add("--out", type=Path, help="write the figures as JSON")
    add_accept_version(parser)
    add(
        "--model",
        choices=tuple(NETWORKS),
        action=InsteadOfBundle,
        help="instead of a bundle, time a network of this kind",
    )
    add("--size", choices=("small", "medium", "full"), help="size of --model (default: small)")
    add(
        "--random-weights",
        action="store_true",
        help="confirm that --model has random weights; --size full takes 13 GB on disk",
    )
    add("--precision", help="precision of --model, as for flux-export (default: fp32)")
    add("--keep", type=Path, metavar="DIR", help="keep --model's bundle in this existing folder")
    add(
        "--plan",
        action="store_true",
        help="time nothing: print what an inference of engine cuda launches, moves and computes, "
        "and how long that is expected to take on --card; needs no card",
    )
    add("--card", nargs="+", choices=tuple(CARDS), default=["h200"], help="cards for --plan")


def bench(args: argparse.Namespace) -> int:
    """Runs the command and returns its exit code."""
    if args.plan:
        return _plan(args)
    from rich.console import Console
    from rich.progress import Progress

    from .bundle import bundle_to_bench
    from .measure import BenchOptions, format_bench
    from .measure import bench as measure

    console = Console(stderr=True)
    for folder in (args.out and args.out.absolute().parent, args.keep):
        if folder is not None and not folder.is_dir():
            raise UsageError(f"{folder}: expected an existing folder to write to")
    options = BenchOptions(
        engines=tuple(args.engine), threads=args.threads, repeat=args.repeat, warm_up=args.warm_up
    )
    bars = Progress(console=console, transient=True, disable=not console.is_terminal)
    with bundle_to_bench(args) as bundle, bars as progress:
        bar = progress.add_task("chunks", total=None)
        report = measure(
            bundle,
            options,
            lambda done, total: progress.update(bar, completed=done, total=total),
        )
    if args.json:
        print_json(report)
    else:
        print_parts(format_bench(report))
    if args.out is not None:
        args.out.write_text(json.dumps(finite(report), indent=1) + "\n")
    return EXIT_OK if all(engine["ok"] for engine in report["engines"].values()) else EXIT_FAILED


def _plan(args: argparse.Namespace) -> int:
    from .plan import format_plan, plan_report

    report = plan_report(args.bundle, args.model, args.card, args.accept_versions)
    if args.json:
        print_json(report)
    else:
        print_parts(format_plan(report))
    if args.out is not None:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    return EXIT_OK


def print_parts(parts: Sequence[Any]) -> None:
    """Prints tables, and lines as they are."""
    from rich.console import Console

    for part in parts:
        Console(soft_wrap=isinstance(part, str), highlight=False).print(part)
