"""`flux-export`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux_core.command_line import new_parser, print_json, run_cli, without_current_directory
from flux_core.errors import ExportError, MissingDependencyError, UsageError

from ..arguments import add_accept_version
from ..engines.names import AUTO, ENGINES
from ..engines.status import choose_engine

if TYPE_CHECKING:
    from .verify import Verification

EXAMPLE = """\
  flux-export work_dirs/small/checkpoint_epoch_8.pt --out bundles/small
  flux-export CKPT --precision bf16 --prompt-tokens 64 128 --cameras cam_high cam_wrist
  flux-export CKPT --precision fp8 --calibrate data/demonstrations"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = new_parser(
        "flux-export",
        "Write a checkpoint as a bundle (ONNX graphs, statistics, golden) and verify it.",
        EXAMPLE,
    )
    parser.add_argument(
        "checkpoint", type=Path, metavar="CKPT", help="checkpoint_epoch_N.pt, or a bundle in fp32"
    )
    parser.add_argument(
        "--out", type=Path, help="the bundle's directory (default: CKPT's name without .pt)"
    )
    parser.add_argument("--robot", help="which of the checkpoint's robots (where it has several)")
    parser.add_argument(
        "--precision",
        default="fp32",
        help="fp32, bf16, fp16 or fp8 for GPUs, or int8 for smaller weights (default: fp32)",
    )
    parser.add_argument(
        "--opset", type=int, help="20, 22 or 24 (default: 20; 22 for bf16, fp16 and fp8)"
    )
    parser.add_argument(
        "--num-steps",
        dest="num_inference_steps",
        type=int,
        metavar="N",
        help="Euler steps (default: the checkpoint's)",
    )
    parser.add_argument(
        "--cameras", nargs="+", metavar="NAME", help="the robot's, if it lacks some of training's"
    )
    parser.add_argument(
        "--prompt-tokens",
        nargs="+",
        type=int,
        default=(),
        metavar="N",
        help="graphs for prompts of at most N tokens too; the runtime takes the shortest that fit",
    )
    parser.add_argument(
        "--calibrate",
        metavar="DATASET",
        help="for fp8: the LeRobot dataset, read by flux-data, that gives each layer its range",
    )
    parser.add_argument(
        "--calibration-samples",
        type=int,
        default=32,
        metavar="N",
        help="observations of DATASET that are looked at (default: 32)",
    )
    parser.add_argument(
        "--engine",
        choices=(AUTO, *ENGINES),
        help="then check the bundle on this machine with the robot's loop and this engine, which "
        "builds and keeps what it needs (onnxruntime-tensorrt: beside the bundle)",
    )
    add_accept_version(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=export)
    with without_current_directory():
        return run_cli(parser, argv)


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    robot: str | None,
    report: Callable[[str, int, int], None],
    accept_versions: Collection[str] = (),
    **options: Any,
) -> Verification:
    """Writes `checkpoint` as a verified bundle; see `load_policy` and `export_bundle`.

    Args:
        checkpoint: `checkpoint_epoch_N.pt`, or the directory of a bundle in fp32.
        out: the bundle's directory.
        robot: which one, where the checkpoint has several.
        report: is told what is being done, and which of how many steps that is.
        accept_versions: distributions whose components may be of another version than a bundle's.
        options: the fields of `ExportOptions`.

    Raises:
        MissingDependencyError: without the extra that exporting needs.
    """
    try:
        from .options import ExportOptions
        from .policy import load_policy
        from .writer import export_bundle
    except ImportError as error:
        raise MissingDependencyError(
            f"{error.name} is needed to export: pip install 'flux-runtime[export]'"
        ) from error
    chosen = ExportOptions(**options)
    return export_bundle(load_policy(checkpoint, robot, accept_versions), out, report, chosen)


def export(args: argparse.Namespace) -> None:
    """Runs the command."""
    from rich.console import Console

    from .export_progress import shown_progress

    console = Console(stderr=True)
    if args.out is None and (args.checkpoint.is_dir() or not args.checkpoint.suffix):
        raise UsageError("--out: expected where to write the bundle, got none")
    out = args.out or args.checkpoint.with_suffix("")
    if out.resolve() == args.checkpoint.resolve():
        raise UsageError(f"--out: {out} is what is exported. Choose another folder")
    if args.engine is not None:
        choose_engine(args.engine, args.precision)  # rather than when all is written
    with shown_progress() as report:
        verification = export_checkpoint(
            args.checkpoint,
            out,
            args.robot,
            report,
            args.accept_versions,
            precision=args.precision,
            opset=args.opset,
            num_inference_steps=args.num_inference_steps,
            cameras=None if args.cameras is None else tuple(args.cameras),
            prompt_tokens=tuple(args.prompt_tokens),
            calibrate=args.calibrate,
            calibration_samples=args.calibration_samples,
        )
    console.print(
        f"wrote {out} ({args.precision}): {verification.engine} equals PyTorch in float32 to "
        f"{verification.max_abs_error:.1e} (cosine {verification.cosine:.8f})"
    )
    if args.engine is not None:
        console.print(_check_with(args.engine, out))
    if args.json:
        found = {
            "out": str(out),
            "precision": args.precision,
            "max_abs_error": verification.max_abs_error,
            "tolerance": verification.tolerance,
            "cosine": verification.cosine,
            "files": sorted(p.name for p in out.iterdir()),
        }
        print_json(found)


def _check_with(engine: str, out: Path) -> str:
    """Replays the golden as the robot will.

    Raises:
        ExportError: the engine answers otherwise.
    """
    from ..check import check, format_check

    report = check(out, engine=engine)
    if not report["ok"]:
        raise ExportError(
            f"{out}: was written and verified, but engine {report['engine']} is "
            f"{report['max_abs_error']} away from PyTorch, allowed {report['tolerance']:g} "
            f"(cosine {report['cosine']:.6f}). Take another --engine or --precision"
        )
    return format_check(report)
