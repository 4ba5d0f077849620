"""The command `flux-eval`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flux_core.command_line import (
    EXIT_FAILED,
    EXIT_OK,
    new_parser,
    print_json,
    run_cli,
    without_current_directory,
)
from flux_core.errors import UsageError

from ..arguments import add_accept_version, add_engine, count, natural
from ..chunking import MODES

if TYPE_CHECKING:
    from .suites import Suite

EXAMPLE = """\
  flux-eval --suite aloha-sim --episodes 20 --report evaluation.html
  flux-eval --suite aloha-insertion --mode rtc --inference-delay 4 --episodes 20
  flux-eval --suite libero-object --bundle my_bundle --task 0 --episodes 5 --video videos
  flux-eval --suite aloha-sim --checkpoint work_dirs/small/checkpoint_epoch_8.pt --json"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    with without_current_directory():
        return run_cli(build_parser(), argv)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    parser = new_parser(
        "flux-eval",
        "Evaluate a policy in simulation, with the same code that drives a robot.",
        EXAMPLE,
    )
    parser.set_defaults(handler=_evaluate)
    add = parser.add_argument
    add(
        "--suite",
        required=True,
        metavar="S",
        help="aloha-sim (alias of aloha-transfer-cube), aloha-insertion, libero-spatial, "
        "libero-object, libero-goal, libero-10 or libero-90",
    )
    policy = parser.add_mutually_exclusive_group()
    policy.add_argument(
        "--bundle", type=Path, metavar="DIR", help="the policy (default: the one shipped for S)"
    )
    policy.add_argument(
        "--checkpoint",
        type=Path,
        metavar="F",
        help="a checkpoint_epoch_N.pt, which is first exported to a bundle beside it",
    )
    add("--episodes", type=count, metavar="N", help="episodes per task (default: 50)")
    add(
        "--seed",
        type=natural,
        metavar="S0",
        help="seed of each task's first episode; episode i uses S0 + i (default: 10000; LIBERO: 0, "
        "the first of its start states)",
    )
    add(
        "--task",
        action="append",
        default=[],
        metavar="T",
        help="only this task, given by its number, name or part of its name; may be repeated",
    )
    add("--max-steps", type=count, metavar="N", help="longest episode (default: the suite's)")
    add(
        "--mode",
        choices=MODES,
        help="how chunks follow each other, as in 'flux-runtime run' (default: sync)",
    )
    add(
        "--inference-delay",
        type=natural,
        metavar="N",
        help="control steps from observation to chunk (default: 0 with --mode sync, 5 with others)",
    )
    add(
        "--execution-horizon",
        type=count,
        metavar="N",
        help="steps of a chunk that are executed before the next one (default: as trained)",
    )
    add("--video", type=Path, metavar="DIR", help="write a video of every episode")
    add("--report", type=Path, metavar="FILE", help="write an HTML page with rates and videos")
    add("--workers", type=count, default=1, metavar="N", help="worker processes (default: 1)")
    add_engine(parser)
    add_accept_version(parser)
    add(
        "--threads",
        type=count,
        default=1,
        metavar="N",
        help="CPU threads for the network in each process (default: 1)",
    )
    add("--json", action="store_true", help="print one JSON object")
    return parser


def _evaluate(args: argparse.Namespace) -> int:
    from .console import EvaluationConsole
    from .evaluation import evaluate
    from .options import DEFAULT_EPISODES, EvaluationOptions
    from .suites import find_suite, select_tasks

    suite = find_suite(args.suite)
    episodes = args.episodes or DEFAULT_EPISODES
    total = episodes * len(select_tasks(suite, args.task))
    with EvaluationConsole(is_json=args.json) as console:
        options = EvaluationOptions(
            suite=args.suite,
            bundle=_bundle(args, suite, console.say),
            episodes=episodes,
            seed=args.seed,
            tasks=tuple(args.task),
            max_steps=args.max_steps,
            mode=args.mode,
            inference_delay=args.inference_delay,
            execution_horizon=args.execution_horizon,
            workers=min(args.workers, total),
            engine=args.engine,
            threads=args.threads,
            video=args.video,
            report=args.report,
            accept_versions=args.accept_versions,
        )
        report = evaluate(options, lambda played: console.on_episode(played, total))
    report["suite"] = args.suite
    if args.json:
        print_json(report)
    else:
        console.print_report(report)
    return EXIT_FAILED if report["commands_out_of_limit"] else EXIT_OK


def _bundle(args: argparse.Namespace, suite: Suite, say: Callable[[str], None]) -> Path:
    """Returns the bundle to evaluate; exports the checkpoint if one is given."""
    if args.bundle is not None:
        return args.bundle
    if args.checkpoint is not None:
        from ..export.cli import export_checkpoint

        out = args.checkpoint.with_suffix("")
        export_checkpoint(args.checkpoint, out, suite.robot, lambda what, *_: say(what))
        return out
    if suite.shipped_policy is None:
        raise UsageError(
            f"--suite {args.suite}: expected a policy, got none, and flux ships none for this "
            f"suite. Name one with --bundle DIR or --checkpoint F."
        )
    from ..control.session import policy_folder

    return policy_folder(suite.shipped_policy)
