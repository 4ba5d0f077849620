"""The command `flux-runtime`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux_core.command_line import (
    EXIT_FAILED,
    EXIT_OK,
    add_command,
    new_parser,
    print_json,
    run_cli,
    stopped_by_signals,
    without_current_directory,
)
from flux_core.errors import UsageError
from flux_core.robots import DRIVER_GROUP, provided_names

from .arguments import (
    accepted_from,
    add_accept,
    add_accept_version,
    add_changes,
    add_dataset,
    add_engine,
    add_threads,
    changes_from,
    count,
    duration,
    natural,
    threads,
)
from .bench.command import add_bench, bench, print_parts
from .chunking import MODES
from .cuda.architectures import ARCHITECTURES
from .engines.names import ENGINES
from .realtime import is_inference_stuck
from .realtime.arguments import add_realtime_options, realtime_options_from
from .remote.arguments import add_remote_options, remote_options_from
from .robots.shipped import SHIPPED_ROBOTS
from .serve.options import EXAMPLE as _SERVE_EXAMPLE
from .serve.options import add_serve, serve_options_from

if TYPE_CHECKING:
    from .control.session import RunOptions

_EXAMPLE = """  flux-runtime doctor
  flux-runtime check my_bundle
  flux-runtime run --robot aloha-sim --bundle my_bundle --episodes 20 --report run.html"""
_RUN_EXAMPLE = """  flux-runtime run --robot aloha-sim --episodes 20 --seed 10000 --report run.html
  flux-runtime run --robot aloha-sim --policy hold --episodes 1 --max-steps 50 --json
  flux-runtime run --robot aloha-sim --rtc method=guidance --inference-delay 8 --episodes 20
  flux-runtime run --robot aloha-sim --execution-horizon 8 --task "transfer the cube" --dry-run
example for a real robot, whose driver is installed in another Python; slowly at first:
  flux-runtime run --robot my-real-arm --driver-python /opt/arm/bin/python --bundle my_bundle \\
    --task "grasp the dot" --speed 0.25 --max-velocity 10% --episodes 1 --record monday
example that records a LeRobot dataset of what the robot sees and is sent:
  flux-runtime run --robot my-real-arm --bundle my_bundle --record-dataset data/monday --to v3.0"""

_REPLAY_EXAMPLE = """  flux-runtime run --robot aloha-sim --episodes 1 --record monday
  flux-runtime replay monday
  flux-runtime replay monday --episode 0 --engine openvino"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    with without_current_directory():
        code = run_cli(build_parser(), argv)
    if is_inference_stuck():
        sys.stdout.flush()
        sys.stderr.flush()
        # An inference that hangs cannot be ended. The interpreter's own exit would unload the
        # engine under it, and crash or wait; everything is on disk and the robot is closed by now.
        os._exit(code)
    return code


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of all subcommands."""
    parser = new_parser("flux-runtime", "Runs a bundle on a robot.", _EXAMPLE)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(_add(commands, "run", "drives a robot, real or simulated", _RUN_EXAMPLE, _run))
    _add_replay(
        _add(
            commands,
            "replay",
            "runs recorded episodes again and compares every command, bit for bit",
            _REPLAY_EXAMPLE,
            _replay,
        )
    )
    add_serve(
        _add(
            commands,
            "serve",
            "infers for robots whose computers cannot: for openpi's clients, and for 'flux-runtime "
            "run --remote'",
            _SERVE_EXAMPLE,
            _serve,
        )
    )
    check = _add(
        commands,
        "check",
        "replays a bundle's golden on this machine",
        "  flux-runtime check my_bundle\n  flux-runtime check my_bundle --engine openvino",
        _check,
    )
    check.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's directory")
    add_engine(check)
    add_accept_version(check)
    add_threads(check)
    add_bench(
        _add(
            commands,
            "bench",
            "times inference on this machine, stage by stage, for one or more engines",
            "  flux-runtime bench my_bundle --engine onnxruntime openvino --threads 2\n"
            "  flux-runtime bench --model pi05 --size small --random-weights\n"
            "  flux-runtime bench --plan --model pi0 --card h200 4090",
            bench,
        )
    )
    _add_build(
        _add(
            commands,
            "build",
            "compiles the kernels of engine cuda ahead of time, for cards that need not be in this "
            "machine; needs flux-runtime[build]",
            "  flux-runtime build --arch sm_89\n"
            "  flux-runtime build --arch sm_87 sm_90a --out kernels --json",
            _build,
        )
    )
    _add_doctor(
        _add(
            commands,
            "doctor",
            "checks what this machine can run, and what it permits the control thread of a real "
            "robot; with --robot, also whether the robot is the one that a bundle was trained on; "
            "with --remote, also how fast a policy server answers, and what that needs",
            "  flux-runtime doctor\n  flux-runtime doctor --json\n"
            "  flux-runtime doctor --robot aloha-agilex --bundle my_bundle\n"
            "  flux-runtime doctor --remote wss://gpu.lab:8000 --token-file token",
            _doctor,
        )
    )
    return parser


def _add(
    commands: Any,
    name: str,
    description: str,
    example: str,
    handler: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    text = f"{description[0].upper()}{description[1:]}."
    parser = add_command(commands, name, text, example)
    parser.set_defaults(handler=handler)
    return parser


def _add_build(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--arch",
        nargs="+",
        required=True,
        metavar="ARCH",
        help=f"architectures of cards: {', '.join(ARCHITECTURES)}",
    )
    add("--out", type=Path, metavar="DIR", help="where to (default: the user's cache)")
    add(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="also compile what this bundle needs, if its sizes are not those of full-size pi0 or "
        "pi0.5",
    )
    add("--jobs", type=count, metavar="N", help="kernels at a time (default: one per processor)")
    add_accept_version(parser)


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_robot(parser)
    add("--bundle", type=Path, metavar="DIR", help="the policy (default: the one shipped for R)")
    add("--task", metavar="T", help="the task in words (default: the bundle's task)")
    add(
        "--episodes",
        type=count,
        metavar="N",
        help="number of episodes (default: 10; 1 for a real robot)",
    )
    add(
        "--seed",
        type=natural,
        default=10_000,
        metavar="S0",
        help="seed of episode 0; episode i uses S0 + i (default: 10000)",
    )
    add(
        "--mode",
        choices=MODES,
        help="how chunks follow each other. sync: hold while a chunk is inferred; async: infer "
        "while the previous chunk runs, and switch; ensemble: infer all the time, and average the "
        "predictions of the same moment; rtc: infer a chunk that continues the running one "
        "(default: sync for a simulated robot; rtc for a real one if the policy can, else sync)",
    )
    add(
        "--policy",
        choices=("bundle", "hold"),
        default="bundle",
        help="hold: stay in the start state, without a bundle (default: bundle)",
    )
    _add_length(parser)
    add(
        "--realtime",
        action="store_true",
        help="drive a simulated robot as a real one: in real time, from a process of its own",
    )
    add(
        "--inference-delay",
        type=natural,
        metavar="N",
        help="control steps from observation to chunk on simulated time (default: 0 with --mode "
        "sync, which holds meanwhile, and 5 with the others)",
    )
    _add_recordings(parser)
    add_dataset(parser)
    add(
        "--dry-run",
        action="store_true",
        help="connect to the robot and run all checks that precede the first command; send none",
    )
    add_changes(parser)
    add_engine(parser)
    add_accept_version(parser)
    add_threads(parser)
    add_accept(parser)
    add_remote_options(parser)
    add_realtime_options(parser)


def _add_length(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--max-steps",
        type=count,
        metavar="N",
        help="longest episode in control steps (default: 400; of a real robot --max-seconds)",
    )
    add(
        "--max-seconds",
        type=duration,
        metavar="SECONDS",
        help="longest episode as time, without pauses (default: 60 for a real robot)",
    )


def _add_recordings(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--report",
        type=Path,
        metavar="FILE",
        help="write an HTML page with plots, and videos of a simulated robot; also if the run ends "
        "early",
    )
    add(
        "--video-episodes",
        type=natural,
        default=2,
        metavar="N",
        help="how many episodes the report shows in detail (default: 2)",
    )
    add(
        "--record",
        type=Path,
        metavar="DIR",
        help="write the states and commands of every episode, while it goes on, and what "
        "'flux-runtime replay' needs to run it again",
    )


def _add_robot(parser: argparse.ArgumentParser, *, is_required: bool = True) -> None:
    add = parser.add_argument
    known = ", ".join((*SHIPPED_ROBOTS, *provided_names(DRIVER_GROUP)))
    add(
        "--robot",
        required=is_required,
        metavar="R",
        help=f"one of {known.replace('%', '%%')}; aloha for the one that the bundle was trained "
        "for; lerobot:TYPE for a robot of your LeRobot environment; dataset:DIR for the recordings "
        "of a dataset; or a driver's MODULE:CLASS",
    )
    add(
        "--robot-config",
        type=Path,
        metavar="FILE",
        help="a .json or .yaml file with what the robot's driver must know, such as its address: "
        "keyword arguments of its class",
    )
    add(
        "--transport",
        choices=("ros1", "ros2", "rtde"),
        help="how to talk to the robot: ros1 or ros2 for ALOHA and UR, rtde for UR without ROS "
        "(default: ros1)",
    )


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_robot(parser, is_required=False)
    add("--bundle", type=Path, metavar="DIR", help="the policy (default: the one shipped for R)")
    add("--task", metavar="T", help="the task in words (default: the bundle's task)")
    add(
        "--driver-python",
        type=Path,
        metavar="PATH",
        help="the Python that runs the robot's driver, as for 'flux-runtime run'",
    )
    add_engine(parser)
    add_changes(parser)
    add_accept_version(parser)
    add_threads(parser)
    add_accept(parser)
    add_remote_options(parser, is_run=False)


def _add_replay(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "directory",
        type=Path,
        metavar="DIR",
        help="what 'flux-runtime run --record DIR' wrote, or one of its .replay files",
    )
    add("--episode", type=natural, metavar="N", help="only this episode, from 0 (default: all)")
    add("--engine", choices=ENGINES, help="instead of the recorded engine")
    add("--bundle", type=Path, metavar="DIR", help="instead of the recorded bundle")
    add("--threads", type=threads, metavar="N", help="instead of the recorded number")
    add(
        "--recorded-chunks",
        action="store_true",
        help="execute the recorded chunks of a run in real time instead of inferring them: needs "
        "no bundle, and is the same on every machine",
    )
    add_accept_version(parser)


def _run(args: argparse.Namespace) -> int:
    with stopped_by_signals():  # the imports take a while too
        return _drive(args)


def _drive(args: argparse.Namespace) -> int:
    from .operator import opened_desk
    from .run.command import RunHooks, RunOptions, run
    from .run.console import RunConsole

    args.changes = changes_from(args)
    args.accepted = accepted_from(args)
    args.realtime_options = realtime_options_from(args)
    args.remote = remote_options_from(args)
    fields = RunOptions.__dataclass_fields__
    options = RunOptions(**{name: getattr(args, name) for name in fields})
    console = RunConsole(options, is_json=args.json)
    reports: list[dict[str, object]] = []

    def on_report(report: dict[str, object]) -> None:
        reports.append(report)
        try:
            console.stop()
        finally:  # The terminal may be gone, and stdout a file.
            print_json(report) if args.json else console.print_report(report)
            sys.stdout.flush()

    hooks = RunHooks(
        on_choice=console.on_choice,
        on_ready=console.on_ready,
        on_episode=console.on_episode,
        on_report=on_report,
        confirm=console.confirm,
        operator=opened_desk,
        screen=console,
    )
    with console:
        run(options, hooks)
    return EXIT_FAILED if reports[0].get("commands_out_of_limit") else EXIT_OK


def _replay(args: argparse.Namespace) -> int:
    from rich.console import Console

    from .replay import ReplayOptions, replay
    from .replay.console import print_episode

    fields = ReplayOptions.__dataclass_fields__
    options = ReplayOptions(**{name: getattr(args, name) for name in fields})
    console = Console()
    if args.json:
        report = replay(options)
        print_json(report)
    else:
        report = replay(options, lambda episode: print_episode(episode, console))
    return EXIT_OK if report["ok"] else EXIT_FAILED


def _serve(args: argparse.Namespace) -> int:
    from .serve.command import make_cert, serve

    if args.make_cert is not None:
        make_cert(args.make_cert, args.cert_dir, is_json=args.json)
        return EXIT_OK
    return EXIT_OK if serve(serve_options_from(args)) else EXIT_FAILED


def _check(args: argparse.Namespace) -> int:
    from .check import check, format_check

    report = check(
        args.bundle,
        engine=args.engine,
        num_threads=args.threads,
        accept_versions=args.accept_versions,
    )
    if args.json:
        print_json(report)
    else:
        print(format_check(report))
    return EXIT_OK if report["ok"] else EXIT_FAILED


def _build(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    from .cuda.cubins.command import BuildOptions, build_kernels, format_build

    fields = BuildOptions.__dataclass_fields__
    options = BuildOptions(**{name: getattr(args, name) for name in fields})
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "{task.description}")
    is_off = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=is_off) as progress:
        bar = progress.add_task("planning", total=None)
        report = build_kernels(
            options,
            lambda what, done, total: progress.update(
                bar, description=what, completed=done, total=total
            ),
        )
    if args.json:
        print_json(report)
    else:
        print_parts(format_build(report))
    return EXIT_OK


def _doctor(args: argparse.Namespace) -> int:
    from .doctor import diagnose, diagnose_robot, diagnose_server, format_checks
    from .realtime import machine_facts

    args.remote = remote_options_from(args)
    options = _doctor_options(args)
    facts = machine_facts()
    checks = diagnose(facts)
    if args.remote is not None:
        with stopped_by_signals():
            checks += diagnose_server(args.remote, args.accept_versions)
    if options is not None:
        with stopped_by_signals():
            checks += diagnose_robot(options)
    if args.json:
        report = {"checks": [check.to_json() for check in checks], "real_time": facts.as_data()}
        print_json(report)
    else:
        print(format_checks(checks))
    return EXIT_OK if all(check.ok or not check.required for check in checks) else EXIT_FAILED


def _doctor_options(args: argparse.Namespace) -> RunOptions | None:
    """Returns the options of a run of the robot to look at; None without a robot."""
    accepted = accepted_from(args)
    if args.robot is None:
        given = {"--bundle": args.bundle, "--robot-config": args.robot_config, "--accept": accepted}
        for option, value in given.items():
            if value:
                raise UsageError(f"{option}: expected --robot R beside it, got none. Add it")
        return None
    from .control.session import SHIPPED_POLICIES, RunOptions
    from .realtime import RealtimeOptions

    has_policy = args.bundle is not None or args.robot in SHIPPED_POLICIES or args.remote
    return RunOptions(
        robot=args.robot,
        bundle=args.bundle,
        task=args.task,
        policy="bundle" if has_policy else "hold",
        engine=args.engine,
        threads=args.threads,
        accept_versions=args.accept_versions,
        changes=changes_from(args),
        accepted=accepted,
        robot_config=args.robot_config,
        transport=args.transport,
        realtime_options=RealtimeOptions(driver_python=args.driver_python),
        remote=args.remote,
    )
