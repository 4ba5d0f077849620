"""`flux-train`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flux_core.cli import EXIT_INTERRUPTED, EXIT_OK, new_parser, print_json, run_cli

if TYPE_CHECKING:
    from .config import TrainConfig
    from .ranks import Ranks

# Before torch starts its pool: spinning threads starve the data loader's workers.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

EXAMPLE = """\
  flux-train configs/pi05/pi05_small_aloha_sim.py work_dirs/small \\
      --cfg-options runner.max_epochs=20 runner.learning_rate=1e-3
  flux-train report work_dirs/small"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["report"]:
        return _report(arguments[1:])
    if arguments[:1] == ["consolidate"]:
        return _consolidate(arguments[1:])
    parser = new_parser("flux-train", "Train a policy from a config file.", EXAMPLE)
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a config file (.py or .json)")
    parser.add_argument("work_dir", type=Path, metavar="WORK_DIR", help="where everything goes")
    parser.add_argument(
        "--resume-from",
        metavar="F|auto",
        help="a checkpoint to go on from; auto takes the newest intact one in WORK_DIR, if any",
    )
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="K=V", help="override config values"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="build everything, train one step, write nothing"
    )
    parser.set_defaults(handler=train)
    return run_cli(parser, arguments)


def _report(arguments: list[str]) -> int:
    parser = new_parser(
        "flux-train report",
        "Write one HTML file that shows a run, finished or not.",
        "  flux-train report work_dirs/small --out report.html",
    )
    parser.add_argument("work_dir", type=Path, metavar="WORK_DIR", help="a run's directory")
    parser.add_argument("--out", type=Path, help="the HTML file (WORK_DIR/report.html)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=report)
    return run_cli(parser, arguments)


def report(args: argparse.Namespace) -> None:
    """Runs `flux-train report`."""
    from .report import write_report

    found = write_report(args.work_dir, args.out)
    if args.json:
        print_json(found)
    else:
        print(f"wrote {found['out']}", file=sys.stderr)


def _consolidate(arguments: list[str]) -> int:
    parser = new_parser(
        "flux-train consolidate",
        "Make one file, as flux-export takes it, of a checkpoint in shards.",
        "  flux-train consolidate work_dirs/private/checkpoint_step_2000.shards",
    )
    parser.add_argument("folder", type=Path, metavar="SHARDS", help="checkpoint_step_N.shards")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=consolidate)
    return run_cli(parser, arguments)


def consolidate(args: argparse.Namespace) -> None:
    """Runs `flux-train consolidate`; no checkpoint is removed."""
    from .checkpoints import checkpoints, save_checkpoint
    from .sharded_checkpoints import consolidate as read_all

    folder: Path = args.folder
    state = read_all(folder)
    keep = len(checkpoints(folder.parent)) + 1
    path = save_checkpoint(folder.parent, folder.stem, state, keep)
    if args.json:
        print_json({"out": str(path), "bytes": path.stat().st_size})
    else:
        print(f"wrote {path}", file=sys.stderr)


def train(args: argparse.Namespace) -> int:
    """Runs the command, as one process of those that torchrun started, or as the only one."""
    from .config import read_train_config

    config, _ = read_train_config(args.config, args.cfg_options)

    from .ranks import joined_ranks

    with joined_ranks() as ranks:
        return _train(args, config, ranks)


def _train(args: argparse.Namespace, config: TrainConfig, ranks: Ranks) -> int:
    from .parameters import parameter_table
    from .progress import TrainProgress
    from .summary import data_table, state_bytes
    from .trainer import Trainer

    trainer = Trainer(config, args.work_dir, ranks)
    checkpoint = _checkpoint_to_resume(args)
    if checkpoint is not None:
        trainer.resume(checkpoint)
    else:
        trainer.start()
    progress = TrainProgress(trainer.total_steps, trainer.step, is_quiet=not ranks.is_main)
    say = progress.console.print
    if checkpoint is not None:
        say(f"going on from {checkpoint} at step {trainer.step}")
    say(data_table(trainer.dataset))
    say(parameter_table(trainer.model))
    size = state_bytes(trainer.model, config.runner, ranks) / 2**30
    say(f"{size:.2f} GiB a process for weights, gradients and optimiser; activations on top")
    say(
        f"{len(trainer.dataset)} samples, {trainer.steps_an_epoch} steps of "
        f"{trainer.samples_a_step} samples an epoch, {trainer.total_steps} steps in all, on "
        f"{ranks.world_size} x {ranks.device.type}"
    )
    if args.dry_run:
        micro_batches, _ = next(iter(trainer.steps()))
        result = trainer.train_step(micro_batches)
        say(f"dry run: loss {result.loss:.4f}, gradient norm {result.grad_norm:.4f}")
        return EXIT_OK
    trainer.prepare_work_dir()
    with progress:
        path = trainer.run(progress)
    if path is None:
        say(
            f"stopped at step {trainer.step} of {trainer.total_steps}; go on with "
            f"flux-train {args.config} {args.work_dir} --resume-from auto"
        )
        return EXIT_INTERRUPTED
    say(f"wrote {path}")
    return EXIT_OK


def _checkpoint_to_resume(args: argparse.Namespace) -> Path | None:
    """What `--resume-from` names; `auto` is the newest intact one, if the run has any."""
    if args.resume_from is None:
        return None
    if args.resume_from == "auto":
        from .checkpoints import newest_intact

        return newest_intact(args.work_dir)
    return Path(args.resume_from)
