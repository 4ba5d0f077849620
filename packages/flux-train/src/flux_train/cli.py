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
from flux_core.errors import FluxError, UsageError

if TYPE_CHECKING:
    from .config.runner import TrainRunner
    from .config.tree import TrainConfig
    from .distributed.ranks import Ranks
    from .recipes.in_force import Setting
    from .trainer import Trainer

logger = logging.getLogger("flux.train")

# Before torch starts its pool: spinning threads starve the data loader's workers.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

QUIET_S = 10.0
"""Longer than the processes of a node take, from first to last, to read their config."""

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
    parser.add_argument("work_dir", type=Path, metavar="WORK_DIR", help="the run's directory")
    parser.add_argument(
        "--resume-from",
        metavar="F|auto",
        help="checkpoint to resume from; auto: the newest intact one in WORK_DIR, if there is one",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="K=V",
        help="override config values, or recipe=openpi for openpi's; may be repeated",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print settings and normalised ranges, train one step, write nothing",
    )
    parser.set_defaults(handler=train)
    return run_cli(parser, arguments)


def _report(arguments: list[str]) -> int:
    parser = new_parser(
        "flux-train report",
        "Write one HTML page about a run, finished or not.",
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
        "Turn a sharded checkpoint into the single file that flux-export reads.",
        "  flux-train consolidate work_dirs/my_robot/checkpoint_step_2000.shards",
    )
    parser.add_argument("folder", type=Path, metavar="SHARDS", help="checkpoint_step_N.shards")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=consolidate_shards)
    return run_cli(parser, arguments)


def consolidate_shards(args: argparse.Namespace) -> None:
    """Runs `flux-train consolidate`; no checkpoint is removed."""
    from .checkpoints.files import checkpoints
    from .checkpoints.keeper import write_checkpoint
    from .checkpoints.sharded import consolidate

    folder: Path = args.folder
    state = consolidate(folder)
    keep = len(checkpoints(folder.parent)) + 1
    path = write_checkpoint(folder.parent, folder.stem, state, keep)
    if args.json:
        print_json({"out": str(path), "bytes": path.stat().st_size})
    else:
        print(f"wrote {path}", file=sys.stderr)


def train(args: argparse.Namespace) -> int:
    """Runs the command, as one of torchrun's processes or as the only process.

    The config may name classes of modules beside it, or in the current directory.
    """
    with with_directories(args.config.parent, Path()):
        return _read_and_train(args)


def _read_and_train(args: argparse.Namespace) -> int:
    from .config.deployment_checks import check_deployable
    from .config.tree import read_train_config

    try:
        config, _ = read_train_config(args.config, args.cfg_options)
        check_deployable(config, is_quiet=os.environ.get("RANK", "0") != "0")
    except FluxError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            raise
        return _quiet_failure(error)

    from .distributed.ranks import joined_ranks

    with joined_ranks() as ranks:
        return _train(args, config, ranks)


def _quiet_failure(error: FluxError) -> int:
    """The exit code for an error that every process finds and the node's first one reports.

    The others wait for its report, because torchrun ends all processes as soon as one ends.
    """
    time.sleep(QUIET_S)
    return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED


def _train(args: argparse.Namespace, config: TrainConfig, ranks: Ranks) -> int:
    from .checkpoints.choice import check_nothing_is_lost, checkpoint_to_resume
    from .config.robot_checks import warn_of_tasks
    from .distributed.parallel import check_kind
    from .metrics.train_progress import TrainProgress
    from .provenance import keep_config
    from .recipes.in_force import settings_in_force, settings_table
    from .run_plan import data_table, parameter_table, range_table, readable_bytes, state_bytes
    from .trainer import Trainer

    check_kind(config.runner, ranks)
    checkpoint = checkpoint_to_resume(args.resume_from, args.work_dir, ranks)
    if args.resume_from is None and not args.dry_run:
        check_nothing_is_lost(args.work_dir, ranks)
    trainer = Trainer(config, args.work_dir, ranks, checkpoint=checkpoint)
    if ranks.is_main and checkpoint is None:
        warn_of_tasks(config.model, config.inference, trainer.data.dataset)
    progress = TrainProgress(trainer.total_steps, trainer.step, is_quiet=not ranks.is_main)
    say = progress.console.print
    if checkpoint is not None:
        say(f"resuming from {checkpoint} at step {trainer.step}")
    data, model = trainer.data, trainer.state.model
    say(data_table(data.dataset))
    if args.dry_run:
        say(range_table(data.ranges))
    say(parameter_table(model))
    size = readable_bytes(state_bytes(model, config.runner, ranks))
    say(f"{size} per process for weights, gradients and optimiser, plus activations")
    say(
        f"{len(data.dataset)} samples, {data.steps_per_epoch} steps of {data.samples_per_step} "
        f"samples per epoch, {trainer.total_steps} steps in total, on "
        f"{ranks.world_size} x {ranks.device.type}"
    )
    if trainer.validator is not None or trainer.state.average is not None:
        say(deployed_line(trainer))
    settings = settings_in_force(
        config, total_steps=trainer.total_steps, samples_per_step=data.samples_per_step
    )
    if args.dry_run:
        say(settings_table(settings))
    if ranks.is_main:
        _warn_of_settings(config.runner, settings, trainer.total_steps)
    # A finished job that is put back into the queue has not failed.
    if trainer.step >= trainer.total_steps and (args.dry_run or args.resume_from == "auto"):
        say(f"already trained to step {trainer.step} of {trainer.total_steps}")
        return EXIT_OK
    if args.dry_run:
        say(dry_run(trainer))
        return EXIT_OK
    if ranks.is_main:
        keep_config(args.config, args.work_dir)
    with progress:
        path = trainer.run(progress)
    if path is None:
        say(
            f"stopped at step {trainer.step} of {trainer.total_steps}; resume with "
            f"flux-train {args.config} {args.work_dir} --resume-from auto"
        )
        return EXIT_INTERRUPTED
    say(f"wrote {path}")
    return EXIT_OK


def _warn_of_settings(runner: TrainRunner, settings: list[Setting], total_steps: int) -> None:
    """Warns of a run that differs from its recipe, and of one that ends in its warm-up."""
    from .recipes.in_force import recipe_differences

    if runner.recipe is not None and (differences := recipe_differences(settings)):
        logger.warning("%s", differences)
    if (runner.warmup_steps or 0) >= total_steps:
        logger.warning(
            "runner.warmup_steps is %d, but the run has %d steps: the learning rate never reaches "
            "runner.learning_rate. Lower runner.warmup_steps",
            *(runner.warmup_steps, total_steps),
        )


def deployed_line(trainer: Trainer) -> str:
    """Says whose the validation figures and the exported weights will be."""
    decay = trainer.config.runner.ema_decay
    kind = f"moving average of the weights (runner.ema_decay={decay:g})"
    weights = f"the {kind}" if decay else "the current weights (runner.ema_decay=0)"
    return f"validation, .safetensors files and adapters use {weights}"


def dry_run(trainer: Trainer) -> str:
    """Trains one step without writing anything; returns the line to print.

    Raises:
        FluxError: a sample cannot be made, or the GPU is out of memory.
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
    """The micro-batches of the next step, from the next epoch if this one is over."""
    while True:
        for micro_batches, _ in trainer.steps():
            return micro_batches
