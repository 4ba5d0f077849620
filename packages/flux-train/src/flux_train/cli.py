"""`flux-train`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux_core.command_line import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    new_parser,
    print_json,
    run_cli,
    with_directories,
)
from flux_core.config import obstacles, unbind
from flux_core.errors import FluxError, UsageError

if TYPE_CHECKING:
    from .config.tree import TrainConfig
    from .distributed.ranks import Ranks
    from .trainer import Trainer

logger = logging.getLogger("flux.train")

# Before torch starts its pool: spinning threads starve the data loader's workers.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

QUIET_S = 10.0
"""Longer than the processes of a node are apart when they read their config."""

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
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="K=V",
        help="override config values; may be repeated",
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
        "  flux-train consolidate work_dirs/my_robot/checkpoint_step_2000.shards",
    )
    parser.add_argument("folder", type=Path, metavar="SHARDS", help="checkpoint_step_N.shards")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=consolidate_shards)
    return run_cli(parser, arguments)


def consolidate_shards(args: argparse.Namespace) -> None:
    """Runs `flux-train consolidate`; no checkpoint is removed."""
    from .checkpoints.files import checkpoints, save_checkpoint
    from .checkpoints.sharded import consolidate

    folder: Path = args.folder
    state = consolidate(folder)
    keep = len(checkpoints(folder.parent)) + 1
    path = save_checkpoint(folder.parent, folder.stem, state, keep)
    if args.json:
        print_json({"out": str(path), "bytes": path.stat().st_size})
    else:
        print(f"wrote {path}", file=sys.stderr)


def train(args: argparse.Namespace) -> int:
    """Runs the command, as one process of those that torchrun started, or as the only one.

    The config may name classes of modules beside it, or in the current directory.
    """
    with with_directories(args.config.parent, Path()):
        return _read_and_train(args)


def _read_and_train(args: argparse.Namespace) -> int:
    from .config.tree import read_train_config

    try:
        config, _ = read_train_config(args.config, args.cfg_options)
    except FluxError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            raise
        return _quiet_failure(error)

    from .distributed.ranks import joined_ranks

    with joined_ranks() as ranks:
        return _train(args, config, ranks)


def _quiet_failure(error: FluxError) -> int:
    """The exit code of a mistake that every process finds, and the first of a node tells.

    That one goes first: torchrun ends the others as soon as any has ended.
    """
    time.sleep(QUIET_S)
    return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED


def _train(args: argparse.Namespace, config: TrainConfig, ranks: Ranks) -> int:
    from .checkpoints.choice import check_nothing_is_lost, checkpoint_to_resume
    from .distributed.parallel import check_kind
    from .metrics.train_progress import TrainProgress
    from .provenance import keep_config
    from .run_plan import data_table, parameter_table, readable_bytes, state_bytes
    from .trainer import Trainer

    check_kind(config.runner, ranks)
    if ranks.is_main:
        _warn_of_obstacles(config)
    checkpoint = checkpoint_to_resume(args.resume_from, args.work_dir, ranks)
    if args.resume_from is None and not args.dry_run:
        check_nothing_is_lost(args.work_dir, ranks)
    trainer = Trainer(config, args.work_dir, ranks)
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
    size = readable_bytes(state_bytes(trainer.model, config.runner, ranks))
    say(f"{size} a process for weights, gradients and optimiser; activations on top")
    say(
        f"{len(trainer.dataset)} samples, {trainer.steps_an_epoch} steps of "
        f"{trainer.samples_a_step} samples an epoch, {trainer.total_steps} steps in all, on "
        f"{ranks.world_size} x {ranks.device.type}"
    )
    # A finished job that is put back into the queue has not failed.
    if trainer.step >= trainer.total_steps and (args.dry_run or args.resume_from == "auto"):
        say(f"already trained to step {trainer.step} of {trainer.total_steps}")
        return EXIT_OK
    if args.dry_run:
        say(dry_run(trainer))
        return EXIT_OK
    trainer.prepare_work_dir()
    if ranks.is_main:
        keep_config(args.config, args.work_dir)
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


def _warn_of_obstacles(config: TrainConfig) -> None:
    """Says what could not be deployed before time is spent on training it."""
    for obstacle in obstacles(unbind(config)):
        logger.warning("flux-export will refuse this run's checkpoint: %s", obstacle)


def dry_run(trainer: Trainer) -> str:
    """Trains one step and writes nothing; returns what is to be told.

    Raises:
        FluxError: a sample cannot be made, or a GPU's memory is full.
    """
    from .metrics.log import peak_memory_bytes
    from .out_of_memory import memory_errors
    from .run_plan import readable_bytes

    with memory_errors(trainer):
        result = trainer.train_step(_next_step(trainer))
    return (
        f"dry run: loss {result.loss:.4f}, gradient norm {result.grad_norm:.4f}; at most "
        f"{readable_bytes(peak_memory_bytes())} of memory in use by this process"
    )


def _next_step(trainer: Trainer) -> list[dict[str, Any]]:
    """The micro-batches of the next step, which is in the next epoch if this one is at its end."""
    while True:
        for micro_batches, _ in trainer.steps():
            return micro_batches
