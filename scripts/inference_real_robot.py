"""Runs a trained policy on its robot, from the config and the checkpoint of its training."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    from flux_core.agreement import Changes
    from flux_core.command_line import EXIT_FAILED, EXIT_USAGE
    from flux_core.config import bind, load_config, registrations, unbind
    from flux_core.deployment import (
        InferenceRunner,
        InferenceSections,
        inference_sections,
        section_of_robot,
    )
    from flux_core.errors import ConfigError, FluxError, UsageError
    from flux_core.robots import is_called
except ImportError as error:
    sys.exit(f"inference_real_robot.py: error: {error}. Run it with .venv/bin/python.")

Section = tuple[InferenceRunner, int]
"""A robot's section, and the number of steps that the network predicts."""

EXAMPLE = """\
example:
  python scripts/inference_real_robot.py \\
      --config configs/pi0/pi0_paligemma_aloha_full_train.py \\
      --ckpt-path work_dirs/pi0_aloha/checkpoint_epoch_3.pt \\
      --task "pick up the yellow chicken toy with left arm" --record recordings --dry-run

The script runs and prints two commands: `flux-export`, if the bundle beside the checkpoint is
missing or older, and `flux-runtime run`, which gets every argument that is not listed above; see
`flux-runtime run --help`. Tasks, topics, rtc_config and the steps of a chunk are the config's, even
if they were changed after training; everything else is as trained."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns an exit code only if `flux-runtime` was not started."""
    args, more = build_parser().parse_known_args(argv)
    try:
        return deploy(args, more)
    except FluxError as error:
        print(f"inference_real_robot.py: error: {error}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the arguments that are not passed on."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", type=Path, required=True, metavar="CONFIG", help="the config of the training")
    add("--ckpt-path", type=Path, required=True, metavar="CKPT", help="checkpoint_epoch_N.pt")
    add("--robot", metavar="R", help="one of the config's robots, if it has several")
    add("--bundle", type=Path, metavar="DIR", help="the bundle (default: beside CKPT)")
    add("--dry-run", action="store_true", help="export and check everything, but move nothing")
    return parser


def deploy(args: argparse.Namespace, more: Sequence[str]) -> int:
    """Exports the checkpoint if necessary, then becomes `flux-runtime run`."""
    inference, is_only = read_inference(args.config, args.robot)
    checkpoint: Path = args.ckpt_path
    if not checkpoint.is_file():
        raise UsageError(f"--ckpt-path: there is no file {str(checkpoint)!r}")
    bundle = args.bundle or bundle_beside(checkpoint, None if is_only else inference.spec.name)
    if is_older(bundle, checkpoint):
        trained = trained_section(args.config, inference, checkpoint)
        changes = tell_changes(trained, inference, "checkpoint")
        robot = [] if is_only else ["--robot", inference.spec.name]
        command = ["flux-export", str(checkpoint), "--out", str(bundle), *robot]
        command += changes.as_options()
        if code := subprocess.run(announced(command), check=False).returncode:
            return code
    changes = tell_changes(bundled_section(bundle), inference, "bundle")
    dry_run = ["--dry-run"] if args.dry_run else []
    run = ["flux-runtime", "run", "--robot", inference.spec.name, "--bundle", str(bundle)]
    command = announced([*run, *options_of_run(changes, more), *dry_run, *more])
    # Replaces this process, so that Ctrl-C reaches only the robot's control loop.
    os.execv(command[0], command)


def read_inference(config: Path, robot: str | None) -> tuple[InferenceRunner, bool]:
    """Returns the inference section of the robot, and whether it is the only one.

    Raises:
        ConfigError: the config has no such section.
        UsageError: the config has several sections and `robot` names none of them.
    """
    tree = load_config(config)
    if not tree.get("inference"):
        raise ConfigError(
            f"{config}: expected an `inference` section, which names the robot, got none"
        )
    runners = inference_sections(bind(InferenceSections, tree["inference"], "inference"))
    names = ", ".join(runners)
    if robot is None and len(runners) > 1:
        raise UsageError(f"--robot: expected a robot of {config} ({names}), got none")
    found = section_of_robot(runners, robot or next(iter(runners)))
    if found is None:
        raise UsageError(f"--robot: expected a robot of {config} ({names}), got {robot!r}")
    return found, len(runners) == 1


def trained_section(config: Path, inference: InferenceRunner, checkpoint: Path) -> Section | None:
    """Returns the checkpoint's own section of the robot; None if it cannot be read.

    Raises:
        ConfigError: the checkpoint was not trained for this robot.
    """
    try:
        from flux_core.models.weights import load_checkpoint

        tree = load_checkpoint(checkpoint, mmap=True)["config"]
        trained = {"inference": tree["inference"]}
        registrations(trained)  # nothing is imported that flux-export would refuse
        runners = inference_sections(bind(InferenceSections, trained["inference"], "inference"))
        horizon = int(tree["model"]["n_action_steps"])
    except (ImportError, KeyError, TypeError, FluxError):
        return None  # flux-export reports the problem with the checkpoint.
    robot = inference.spec.name
    found = [section for name, section in runners.items() if is_called(robot, name)]
    if not found:
        raise ConfigError(
            f"{config}: expected the robot of {checkpoint}, {', '.join(sorted(runners)) or 'none'},"
            f" got {robot}. Use the config of its training."
        )
    return found[0], horizon


def bundled_section(bundle: Path) -> Section | None:
    """Returns the bundle's section of the robot; None if it cannot be read."""
    try:
        bundled = json.loads((bundle / "config.json").read_text(encoding="utf-8"))
        registrations(bundled)  # nothing is imported that flux-runtime would refuse
        section = bind(InferenceRunner, bundled["inference"], "inference")
        return section, int(bundled["model"]["n_action_steps"])
    except (OSError, ValueError, KeyError, TypeError, FluxError):
        return None  # flux-runtime reports the problem with the bundle.


def tell_changes(before: Section | None, wanted: InferenceRunner, where: str) -> Changes:
    """Warns about settings in which the config differs; returns those that may still change."""
    if before is None:
        return Changes()
    section, horizon = before
    changes = Changes.between(wanted, section, horizon)
    ours, theirs = (without_paths(unbind(side)) for side in (wanted, section))
    for key in sorted(key for key in ours if ours[key] != theirs.get(key)):
        used = "config's" if key in changes.as_data() else f"{where}'s"
        print(
            f"inference_real_robot.py: warning: inference.{key} of the config differs from the "
            f"{where}'s; the {used} is used",
            file=sys.stderr,
        )
    return changes


def options_of_run(changes: Changes, more: Sequence[str]) -> list[str]:
    """Returns the options of `flux-runtime run`; the default task is the config's first one."""
    first = next(iter(changes.tasks.values()), None)
    is_given = any(option.partition("=")[0] == "--task" for option in more)
    task = [] if first is None or is_given else ["--task", first]
    return [*dataclasses.replace(changes, tasks={}).as_options(), *task]


def bundle_beside(checkpoint: Path, robot: str | None) -> Path:
    """Returns where `flux-export` writes by default; with several robots, one bundle per robot."""
    name = checkpoint.stem if robot is None else f"{checkpoint.stem}-{robot}"
    return checkpoint.with_name(name)


def is_older(bundle: Path, checkpoint: Path) -> bool:
    """Whether the bundle is missing or was made before the checkpoint."""
    manifest = bundle / "manifest.json"
    return not manifest.is_file() or manifest.stat().st_mtime < checkpoint.stat().st_mtime


def without_paths(section: Any) -> Any:
    """Removes the path of the tokenizer, which always differs between a config and a bundle."""
    if isinstance(section, dict):
        return {k: without_paths(v) for k, v in section.items() if k != "model_path"}
    return [without_paths(v) for v in section] if isinstance(section, list) else section


def announced(command: Sequence[str]) -> list[str]:
    """Prints the command; returns it with the program's path, found on PATH or beside this Python.

    Raises:
        UsageError: the program is not installed.
    """
    print("+", shlex.join(command), file=sys.stderr, flush=True)
    beside = Path(sys.executable).with_name(command[0])
    program = shutil.which(command[0]) or (str(beside) if beside.is_file() else None)
    if program is None:
        raise UsageError(f"{command[0]}: not installed. Run: make install")
    return [program, *command[1:]]


if __name__ == "__main__":
    sys.exit(main())
