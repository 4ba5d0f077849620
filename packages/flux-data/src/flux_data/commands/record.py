"""The subcommand `flux-data record`."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from rich.console import Console

from flux_core.command_line import add_command, print_json
from flux_core.errors import UsageError

from .write import VERSIONS

EXAMPLE = """\
  flux-runtime run --robot my-arm --bundle my_bundle --record-dataset data/monday --to v3.0
finish a recording whose processes were killed:
  flux-data record data/monday"""


def add_record(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds it to the parser."""
    parser = add_command(
        commands,
        "record",
        "Record a dataset of a run: the process that 'flux-runtime run --record-dataset' starts, "
        "which gives it two sockets. Without them, finish a recording that was killed: remove what "
        "is left of the episode that was cut short, and complete the metadata.",
        EXAMPLE,
    )
    parser.add_argument("dataset", type=Path, help="a new directory, or a recorded dataset")
    parser.add_argument("--to", choices=VERSIONS, help="version (default: that of the dataset)")
    parser.add_argument(
        "--run-socket", type=int, metavar="FD", help="descriptor of a socket to the run"
    )
    parser.add_argument(
        "--frame-socket",
        type=int,
        metavar="FD",
        help="descriptor of a socket to whoever shares the cameras' pictures",
    )
    parser.set_defaults(handler=run_record)


def run_record(args: argparse.Namespace) -> None:
    """Runs `flux-data record`."""
    if args.run_socket is None:
        _finish(args)
        return
    from ..record.packets import MessageSocket
    from ..record.recording import RecordingProcess
    from ..record.streams import Streams

    if args.to is None:
        raise UsageError(f"record: --to: expected one of {', '.join(VERSIONS)}, got none")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run ends the recording
    streams = None if args.frame_socket is None else Streams(MessageSocket(args.frame_socket))
    RecordingProcess(args.dataset, args.to, MessageSocket(args.run_socket), streams).run()


def _finish(args: argparse.Namespace) -> None:
    from ..lerobot.metadata import read_info
    from ..record.growing import GROWING

    info = read_info(args.dataset)
    version = args.to or info.get("codebase_version")
    if version not in GROWING:
        raise UsageError(
            f"{args.dataset}: expected a dataset of version {' or '.join(GROWING)}, got {version}"
        )
    dataset = GROWING[version](
        args.dataset,
        fps=float(info["fps"]),
        robot_type=info.get("robot_type"),
        features=info["features"],
    )
    with dataset:
        pass
    found = {"episodes": len(dataset.episodes), "frames": dataset.num_frames}
    if args.json:
        print_json({"out": str(args.dataset), **found})
        return
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(
        f"{args.dataset}: complete, {found['episodes']} episodes, {found['frames']} frames",
        markup=False,
    )
