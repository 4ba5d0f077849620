"""The command `flux-core`: shows what a checkpoint contains and converts it for another project."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ._components import FORMATS
from .command_line import EXIT_FAILED, EXIT_OK, add_command, new_parser, print_json, run_cli
from .config import load_config
from .errors import MissingDependencyError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `flux-core`; returns the exit code."""
    return run_cli(build_parser(), argv)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command and its two subcommands."""
    inspect_example = "  flux-core inspect pi05_base/model.safetensors --json"
    convert_example = "  flux-core convert checkpoint_epoch_9.pt --to lerobot --out pi05_mine"
    parser = new_parser("flux-core", "Inspects and converts checkpoints.", inspect_example)
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = add_command(commands, "inspect", "Shows what a checkpoint contains.", inspect_example)
    inspect.add_argument("file", type=Path, help="file, index of shards, or folder")
    inspect.add_argument("--config", type=Path, help="compare with this config's model")
    inspect.set_defaults(handler=_inspect)
    convert = add_command(
        commands, "convert", "Converts a checkpoint for another project.", convert_example
    )
    convert.add_argument("file", type=Path, help="file, index of shards, or folder")
    convert.add_argument("--to", required=True, choices=FORMATS, help="the format to write")
    convert.add_argument("--pi05", action="store_true", help="convert pi0 weights to pi0.5")
    convert.add_argument("--out", required=True, type=Path, help=".safetensors file or folder")
    convert.set_defaults(handler=_convert)
    return parser


def _inspect(args: argparse.Namespace) -> int:
    pretrained = _import_pretrained()
    tree = load_config(args.config)["model"] if args.config is not None else None
    report = pretrained.inspect_checkpoint(args.file, tree)
    if args.json:
        print_json(report)
    else:
        print(format_report(report))
    fits = not (report["missing"] or report["unexpected"] or report["mismatched"])
    return EXIT_OK if tree is None or fits else EXIT_FAILED


def _convert(args: argparse.Namespace) -> int:
    count = _import_pretrained().convert_checkpoint(args.file, args.to, args.out, pi05=args.pi05)
    if args.json:
        print_json({"out": str(args.out), "num_tensors": count})
    else:
        print(f"wrote {args.out}: {count} tensors in {args.to} format")
    return EXIT_OK


def format_report(report: dict[str, Any]) -> str:
    """Returns the report as text."""
    lines = [
        f"file        {report['file']}",
        f"format      {report['format']}",
        f"model       {report['model']}",
        f"parameters  {report['num_parameters']:,}",
        *(f"  {part:<22}{count:>16,}" for part, count in report["parts"].items()),
        "types       " + ", ".join(f"{n:,} {name}" for name, n in report["dtypes"].items()),
    ]
    for key in ("missing", "unexpected", "mismatched"):
        names = list(report[key])
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            lines.append(f"{key:<12}{len(names)}: {', '.join(names[:5])}{more}")
    return "\n".join(lines)


def _import_pretrained() -> ModuleType:
    try:
        from .models.weights import pretrained
    except ImportError as error:
        raise MissingDependencyError(
            f"checkpoints cannot be read ({error}): pip install 'flux-core[torch]'"
        ) from error
    return pretrained
