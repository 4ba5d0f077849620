"""The command `flux-export`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux_core.command_line import new_parser, print_json, run_cli, without_current_directory
from flux_core.errors import ExportError, MissingDependencyError, UsageError

from ..arguments import add_accept_version, add_changes, add_tasks, changes_from
from ..engines.names import AUTO, ENGINES
from ..engines.status import choose_engine

if TYPE_CHECKING:
    from flux_core.agreement import Changes

    from .verify import Verification

EXAMPLE = """\
  flux-export work_dirs/small/checkpoint_epoch_8.pt --out bundles/small
  flux-export CKPT --precision bf16 --prompt-tokens 64 128 --cameras cam_high cam_wrist
  flux-export CKPT --execution-horizon 8 --tasks 1="fold the towel" 2="open the drawer"
  flux-export CKPT --precision fp8 --calibrate data/demonstrations"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    parser = new_parser(
        "flux-export",
        "Write a checkpoint as a bundle (ONNX graphs, statistics, golden) and verify it.",
        EXAMPLE,
    )
    parser.add_argument(
        "checkpoint", type=Path, metavar="CKPT", help="checkpoint_epoch_N.pt, or a bundle in fp32"
    )
    parser.add_argument(
        "--out", type=Path, help="the bundle's directory (default: CKPT without .pt)"
    )
    parser.add_argument("--robot", help="one of the checkpoint's robots, if it has several")
    parser.add_argument(
        "--precision",
        default="fp32",
        help="fp32; bf16, fp16 or fp8 for GPUs; int8 for smaller weights (default: fp32)",
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
        "--cameras",
        nargs="+",
        metavar="NAME",
        help="the robot's cameras, if it lacks some that were used in training",
    )
    parser.add_argument(
        "--no-thumbnails",
        action="store_false",
        dest="camera_pictures",
        help="leave out the small pictures of each camera, with which a run on a robot finds "
        "cameras that are swapped or turned",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="CONFIG",
        help="take the robot's section from this config instead of the checkpoint's; refused where "
        "it contradicts the training",
    )
    add_changes(parser)
    add_tasks(parser)
    parser.add_argument(
        "--prompt-tokens",
        nargs="+",
        type=int,
        default=(),
        metavar="N",
        help="also export graphs for prompts of at most N tokens; the runtime uses the shortest "
        "that fit",
    )
    parser.add_argument(
        "--calibrate",
        action="append",
        default=[],
        metavar="DATASET",
        help="a LeRobot dataset, read by flux-data, on whose observations the precision is judged; "
        "fp8 needs it, because each layer gets its range from it. Once for each dataset",
    )
    parser.add_argument(
        "--calibration-samples",
        type=int,
        default=32,
        metavar="N",
        help="number of observations to use, of all datasets together (default: 32)",
    )
    parser.add_argument(
        "--engine",
        choices=(AUTO, *ENGINES),
        help="then check the bundle on this machine with the runtime and this engine, which builds "
        "and caches what it needs (onnxruntime-tensorrt: beside the bundle)",
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
    *,
    config: Path | None = None,
    changes: Changes | None = None,
    own_classes: Path | None = None,
    **options: Any,
) -> Verification:
    """Writes `checkpoint` as a verified bundle; see `load_policy` and `export_bundle`.

    Args:
        checkpoint: `checkpoint_epoch_N.pt`, or the directory of a bundle in fp32.
        out: the bundle's directory.
        robot: name of the robot, if the checkpoint has several.
        report: called with the current step, the number of finished steps, and their total.
        accept_versions: distributions whose installed version may differ from the bundle's.
        config: a config whose robot section replaces the checkpoint's.
        changes: what changes in the robot's section.
        own_classes: where transforms that only training runs may be imported from.
        options: the fields of `ExportOptions`.

    Raises:
        MissingDependencyError: the packages of the extra `export` are not installed.
    """
    try:
        from .options import ExportOptions
        from .source.policy import load_policy
        from .source.section import SectionEdits
        from .writer import export_bundle
    except ImportError as error:
        raise _missing(error) from error
    chosen = ExportOptions(**options)
    edits = SectionEdits(config=config, cameras=chosen.cameras)
    if changes is not None:
        edits = replace(edits, changes=changes)
    policy = load_policy(checkpoint, robot, accept_versions, edits, own_classes)
    return export_bundle(policy, out, report, chosen)


def _missing(error: ImportError) -> MissingDependencyError:
    return MissingDependencyError(
        f"{error.name}: not installed. Install it with: pip install 'flux-runtime[export]'"
    )


def _refuse_weights_alone(checkpoint: Path) -> None:
    """Refuses an adapter or weights alone before anything is asked about the bundle."""
    try:
        from .source.weights_alone import refuse_weights_alone
    except ImportError as error:
        raise _missing(error) from error
    refuse_weights_alone(checkpoint)


def export(args: argparse.Namespace) -> None:
    """Runs the command."""
    from rich.console import Console

    from .export_progress import shown_progress

    console = Console(stderr=True)
    _refuse_weights_alone(args.checkpoint)
    if args.out is None and (args.checkpoint.is_dir() or not args.checkpoint.suffix):
        raise UsageError("--out: expected a directory for the bundle, got none. Add --out DIR.")
    out = args.out or args.checkpoint.with_suffix("")
    if out.resolve() == args.checkpoint.resolve():
        raise UsageError(
            f"--out: expected a new directory, got {out}, which is the input. Choose another one."
        )
    if args.engine is not None:
        choose_engine(args.engine, args.precision)  # fail now rather than after the export
    with shown_progress() as report:
        verification = export_checkpoint(
            args.checkpoint,
            out,
            args.robot,
            report,
            args.accept_versions,
            config=args.config,
            changes=changes_from(args),
            own_classes=Path(),
            precision=args.precision,
            opset=args.opset,
            num_inference_steps=args.num_inference_steps,
            cameras=None if args.cameras is None else tuple(args.cameras),
            prompt_tokens=tuple(args.prompt_tokens),
            camera_pictures=args.camera_pictures,
            calibrate=tuple(args.calibrate),
            calibration_samples=args.calibration_samples,
        )
    console.print(
        f"wrote {out} ({args.precision}): {verification.engine} differs from PyTorch in float32 by "
        f"{verification.max_abs_error:.1e} (cosine {verification.cosine:.8f})"
    )
    if (moved := verification.moved) is not None:
        console.print(
            f"on {moved.observations} observations of {', '.join(args.calibrate)} it moves "
            f"actions by {moved.moved:.1e}, {moved.share:.2f} times as far as another draw of the "
            "noise"
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
    """Replays the golden in the same way as the runtime on a robot.

    Raises:
        ExportError: the engine does not reproduce the golden.
    """
    from ..check import check, format_check

    report = check(out, engine=engine)
    if not report["ok"]:
        raise ExportError(
            f"{out}: engine {report['engine']}: expected actions within {report['tolerance']:g} of "
            f"PyTorch's, got an error of {report['max_abs_error']} (cosine "
            f"{report['cosine']:.6f}). The bundle was written and verified; use another "
            f"--engine or --precision."
        )
    return format_check(report)
