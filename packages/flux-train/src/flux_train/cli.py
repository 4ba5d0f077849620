"""`flux-train`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from flux_core.cli import new_parser, run_cli

# Before torch starts its pool: spinning threads starve the data loader's workers.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

EXAMPLE = """\
  flux-train configs/pi05/pi05_small_aloha_sim.py work_dirs/small \\
      --cfg-options runner.max_epochs=20 runner.learning_rate=1e-3"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = new_parser("flux-train", "Train a policy from a config file.", EXAMPLE)
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a config file (.py or .json)")
    parser.add_argument("work_dir", type=Path, metavar="WORK_DIR", help="where everything goes")
    parser.add_argument("--resume-from", type=Path, metavar="F", help="a checkpoint to go on from")
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="K=V", help="override config values"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="build everything, train one step, write nothing"
    )
    parser.set_defaults(handler=train)
    return run_cli(parser, argv)


def train(args: argparse.Namespace) -> None:
    """Runs the command."""
    from .config import read_train_config

    config, _ = read_train_config(args.config, args.cfg_options)

    from .parameters import parameter_table
    from .progress import TrainProgress
    from .trainer import Trainer

    trainer = Trainer(config, args.work_dir)
    if args.resume_from is not None:
        trainer.resume(args.resume_from)
    else:
        trainer.start()
    progress = TrainProgress(trainer.total_steps, trainer.step)
    progress.console.print(parameter_table(trainer.model))
    progress.console.print(
        f"{len(trainer.dataset)} samples, {len(trainer.batches)} steps an epoch, "
        f"{trainer.total_steps} steps in all, on {trainer.device}"
    )
    if args.dry_run:
        batch, _ = next(iter(trainer._timed_batches()))
        loss, grad_norm = trainer.train_step(batch)
        progress.console.print(f"dry run: loss {loss:.4f}, gradient norm {grad_norm:.4f}")
        return
    trainer.prepare_work_dir()
    with progress:
        path = trainer.run(progress)
    progress.console.print(f"wrote {path}")
