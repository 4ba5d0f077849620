"""`flux-export`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flux_core.cli import new_parser, print_json, run_cli
from flux_core.errors import MissingDependencyError

if TYPE_CHECKING:
    from .verify import Verification

EXAMPLE = """\
  flux-export work_dirs/small/checkpoint_epoch_8.pt --out bundles/small"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = new_parser(
        "flux-export",
        "Write a checkpoint as a bundle (ONNX graphs, statistics, golden) and verify it.",
        EXAMPLE,
    )
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="checkpoint_epoch_N.pt")
    parser.add_argument(
        "--out", type=Path, help="the bundle's directory (default: CKPT's name without .pt)"
    )
    parser.add_argument("--robot", help="which of the checkpoint's robots (where it has several)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=export)
    return run_cli(parser, argv)


def export_checkpoint(
    checkpoint: Path, out: Path, robot: str | None, report: Callable[[str], None]
) -> Verification:
    """Writes `checkpoint` as a verified bundle; see `load_policy` and `export_bundle`.

    Raises:
        MissingDependencyError: without the extra that exporting needs.
    """
    try:
        from .policy import load_policy
        from .writer import export_bundle
    except ImportError as error:
        raise MissingDependencyError(
            f"{error.name} is needed to export: pip install 'flux-runtime[export]'"
        ) from error
    report("reading the checkpoint")
    return export_bundle(load_policy(checkpoint, robot), out, report)


def export(args: argparse.Namespace) -> None:
    """Runs the command."""
    from rich.console import Console

    console = Console(stderr=True)
    out = args.out or args.checkpoint.with_suffix("")
    with console.status("starting") as status:
        verification = export_checkpoint(args.checkpoint, out, args.robot, status.update)
    console.print(
        f"wrote {out}: ONNX Runtime equals PyTorch to {verification.max_abs_error:.1e} "
        f"(cosine {verification.cosine:.8f})"
    )
    if args.json:
        report = {
            "out": str(out),
            "precision": "fp32",
            "max_abs_error": verification.max_abs_error,
            "cosine": verification.cosine,
            "files": sorted(p.name for p in out.iterdir()),
        }
        print_json(report)
