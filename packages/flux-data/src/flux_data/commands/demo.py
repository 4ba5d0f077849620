"""`flux-data demo`: scripted demonstrations in simulation."""

from __future__ import annotations

import argparse
import math
import os
import re
from pathlib import Path
from typing import Any

from rich.console import Console

from flux_core.command_line import add_command, print_json
from flux_core.errors import UsageError
from flux_core.robots import robot_spec

ALOHA_EXAMPLE = "  flux-data demo aloha-sim --episodes 50 --out data/demonstrations"
INSERTION_EXAMPLE = (
    "  flux-data demo aloha-sim --task insertion --episodes 150 --out data/insertion"
)
LIBERO_EXAMPLE = "  .venv-libero/bin/flux-data demo libero-object --task 0 --out data/soup"

SLOWEST, FASTEST = 0.01, 100.0
"""Speeds of the script with episodes of 30,000 steps, and of 3."""

ALOHA_TASKS = ("transfer-cube", "insertion")
ALOHA_CAMERAS = robot_spec("aloha-sim").cameras
BOTH = "both"

Commands = argparse._SubParsersAction


def add_demo_command(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds `demo` and its subcommands."""
    text = "Record scripted demonstrations in simulation as a LeRobot v2.1 dataset."
    demo = commands.add_parser(
        "demo",
        help=text,
        description=text,
        epilog=f"example:\n{ALOHA_EXAMPLE}\n{INSERTION_EXAMPLE}\n{LIBERO_EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = demo.add_subparsers(dest="what", required=True, metavar="WHAT")
    _add_aloha_sim(what)
    _add_libero_object(what)


def _add_aloha_sim(what: Commands[argparse.ArgumentParser]) -> None:
    aloha = add_command(
        what,
        "aloha-sim",
        "Record the simulated ALOHA at one of its tasks, with its three cameras or some of them.",
        f"{ALOHA_EXAMPLE}\n{INSERTION_EXAMPLE}",
    )
    aloha.add_argument(
        "--task",
        choices=(*ALOHA_TASKS, BOTH),
        default=ALOHA_TASKS[0],
        help="pass a cube from hand to hand, put a peg into a socket, or the two in turn "
        f"({ALOHA_TASKS[0]})",
    )
    _add_shared(
        aloha,
        workers=os.cpu_count() or 1,
        noise=None,
        noise_of="joint noise, rad (each script's own)",
    )
    aloha.add_argument("--speed", type=float, default=1.5, help="1 is unhurried (1.5)")
    aloha.add_argument("--size", default="192x256", help="image HEIGHTxWIDTH (192x256)")
    aloha.add_argument(
        "--cameras",
        nargs="+",
        choices=ALOHA_CAMERAS,
        default=ALOHA_CAMERAS,
        help="those to record; one takes a third of the time of all (all)",
    )
    aloha.set_defaults(handler=run_aloha_sim)


def _add_libero_object(what: Commands[argparse.ArgumentParser]) -> None:
    libero = add_command(
        what,
        "libero-object",
        "Record LIBERO's Panda putting things into the basket; needs scripts/setup_libero.sh.",
        LIBERO_EXAMPLE,
    )
    _add_shared(libero, workers=1, noise=0.1, noise_of="noise of the movement, 1 being 0.05 m")
    libero.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="T",
        help="only this task, by number, name or part of its name; may be repeated",
    )
    libero.add_argument(
        "--no-antialiasing",
        dest="antialiased",
        action="store_false",
        help="render with jagged edges, in half the time on a CPU; LIBERO's images are smooth",
    )
    libero.set_defaults(handler=run_libero_object)


def _add_shared(
    parser: argparse.ArgumentParser, *, workers: int, noise: float | None, noise_of: str
) -> None:
    add = parser.add_argument
    add("--out", type=Path, required=True, help="a new directory")
    add("--episodes", type=int, default=50, help="successful ones to record, of each task (50)")
    add("--seed", type=int, default=0, help="of each task's first attempt (0)")
    add("--workers", type=int, default=workers, help=f"processes ({workers})")
    add("--noise", type=float, default=noise, help=f"executed but not recorded {noise_of}")


def run_aloha_sim(args: argparse.Namespace) -> None:
    """Runs `flux-data demo aloha-sim`."""
    from ..demo.generate import DemoSettings, generate

    height, width = _checked_size(args.size)
    _check_options(args)
    if not SLOWEST <= args.speed <= FASTEST:
        raise UsageError(f"--speed: expected {SLOWEST:g} to {FASTEST:g}, got {args.speed}")
    facts = generate(
        DemoSettings(
            out=args.out,
            tasks=ALOHA_TASKS if args.task == BOTH else (args.task,),
            episodes=args.episodes,
            seed=args.seed,
            workers=args.workers,
            speed=args.speed,
            noise=args.noise,
            height=height,
            width=width,
            cameras=tuple(dict.fromkeys(args.cameras)),
        )
    )
    _report(args, facts)


def run_libero_object(args: argparse.Namespace) -> None:
    """Runs `flux-data demo libero-object`."""
    from ..demo.generate_libero import LiberoDemoSettings, generate_libero

    _check_options(args)
    facts = generate_libero(
        LiberoDemoSettings(
            out=args.out,
            tasks=tuple(args.task),
            episodes=args.episodes,
            seed=args.seed,
            workers=args.workers,
            noise=args.noise,
            antialiased=args.antialiased,
        )
    )
    _report(args, facts)


def _checked_size(text: str) -> tuple[int, int]:
    """Returns the height and width written as HEIGHTxWIDTH; video needs them even."""
    size = re.fullmatch(r"(\d+)x(\d+)", text)
    height, width = (int(side) for side in size.groups()) if size else (0, 0)
    if min(height, width) < 16 or height % 2 or width % 2:
        raise UsageError(
            f"--size: expected HEIGHTxWIDTH, both even and at least 16, like 192x256, got {text!r}"
        )
    return height, width


def _check_options(args: argparse.Namespace) -> None:
    """Refuses the first option with an invalid number."""
    for option, least in (("episodes", 1), ("workers", 1), ("seed", 0), ("noise", 0)):
        value = getattr(args, option)
        if value is None:  # each script's own
            continue
        if not value >= least:
            raise UsageError(f"--{option}: expected at least {least}, got {value}")
        if value == math.inf:
            raise UsageError(f"--{option}: expected a finite number, got {value}")


def _report(args: argparse.Namespace, facts: dict[str, Any]) -> None:
    from ..info import dataset_info

    info = dataset_info(args.out)
    out = Console(stderr=True, highlight=False, soft_wrap=True)
    out.print(
        f"wrote {args.out}: {info['num_episodes']} episodes, {info['num_frames']} frames "
        f"({facts['successes']} of {facts['attempts']} scripted attempts succeeded)",
        markup=False,
    )
    for name, task in facts.get("tasks", {}).items():
        out.print(f"  {name}: {task['successes']} of {task['attempts']}", markup=False)
    if args.json:
        counts = {key: info[key] for key in ("num_episodes", "num_frames")}
        print_json({"out": str(args.out), **counts, **facts})
