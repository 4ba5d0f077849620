"""Types of command-line arguments, and arguments that several commands share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flux_core.config import read_overrides
from flux_core.errors import UsageError

from .engines.names import AUTO, ENGINES

if TYPE_CHECKING:
    from flux_core.agreement import Changes

_LONGEST_S = 86_400.0


def count(value: str) -> int:
    """Parses an integer of at least 1."""
    return _at_least(1, value)


def natural(value: str) -> int:
    """Parses an integer of at least 0."""
    return _at_least(0, value)


def duration(value: str) -> float:
    """Parses a duration in seconds, of at most a day."""
    seconds = float(value)
    if not 0 < seconds <= _LONGEST_S:
        raise argparse.ArgumentTypeError(
            f"expected above 0 and at most {_LONGEST_S:g}, got {value}"
        )
    return seconds


def threads(value: str) -> int:
    """Parses a number of threads, at most four per processor of this machine."""
    number, most = count(value), 4 * (os.cpu_count() or 1)
    if number > most:
        raise argparse.ArgumentTypeError(
            f"expected at most {most} ({os.cpu_count()} processors), got {number}"
        )
    return number


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Adds `--engine`."""
    parser.add_argument(
        "--engine",
        choices=(AUTO, *ENGINES),
        default=AUTO,
        help="the engine that runs the network (default: auto, which uses an NVIDIA card if ONNX "
        "Runtime can use it, and the CPU otherwise)",
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Adds `--threads`."""
    parser.add_argument(
        "--threads",
        type=threads,
        default=1,
        metavar="N",
        help="CPU threads for the network (default: 1)",
    )


def add_accept_version(parser: argparse.ArgumentParser) -> None:
    """Adds `--accept-version`."""
    parser.add_argument(
        "--accept-version",
        action="append",
        default=[],
        metavar="NAME",
        dest="accept_versions",
        help="use the installed version of the distribution NAME even if the bundle's components "
        "come from another version of it; may be repeated",
    )


def add_accept(parser: argparse.ArgumentParser) -> None:
    """Adds `--accept`, which `accepted_from` reads."""
    parser.add_argument(
        "--accept",
        action="append",
        default=[],
        metavar="NAME",
        dest="accepted",
        help="drive the robot although its deployment check refuses it because of NAME, such as "
        "start_pose; may be repeated",
    )


def accepted_from(args: argparse.Namespace) -> tuple[str, ...]:
    """Returns the names of `--accept`, each once.

    Raises:
        UsageError: there is no such check.
    """
    if not args.accepted:
        return ()
    from .deployment import check_accepted

    return check_accepted(args.accepted)


def add_changes(parser: argparse.ArgumentParser) -> None:
    """Adds the options for what may change after training; see `changes_from`."""
    add = parser.add_argument
    add(
        "--execution-horizon",
        "--execute-horizon",
        type=count,
        metavar="N",
        help="steps of a chunk that are executed before the next one (default: as trained)",
    )
    add(
        "--action-chunk",
        type=count,
        metavar="N",
        help="steps of a predicted chunk that may be used (default: as trained)",
    )
    add(
        "--topic",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=TOPIC",
        dest="topics",
        help="fields of the robot's operator, such as img_front_topic=/camera_f/color/image_raw",
    )
    add(
        "--rtc",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help="fields of rtc_config, such as method=guidance prefix_len=4, or enabled=false",
    )


def add_tasks(parser: argparse.ArgumentParser) -> None:
    """Adds `--tasks`, which `changes_from` reads too."""
    parser.add_argument(
        "--tasks",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=TEXT",
        help="the robot's tasks instead of the checkpoint's; the first is the default one",
    )


def changes_from(args: argparse.Namespace) -> Changes:
    """Returns the changes that the options ask for.

    Raises:
        UsageError: a text is not of the form FIELD=VALUE.
    """
    from flux_core.agreement import Changes

    return Changes(
        execution_horizon=args.execution_horizon,
        action_chunk=args.action_chunk,
        tasks=dict(_pairs("--tasks", getattr(args, "tasks", []))),
        topics=dict(_values("--topic", args.topics)),
        rtc=dict(_values("--rtc", args.rtc)),
    )


def _pairs(option: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in texts]
    wrong = [
        text for text, (key, _, value) in zip(texts, pairs, strict=True) if not key or not value
    ]
    if wrong:
        raise UsageError(f"{option}: expected KEY=VALUE, got {wrong[0]!r}")
    return [(key, value) for key, _, value in pairs]


def _values(option: str, texts: Sequence[str]) -> list[tuple[str, object]]:
    """Reads values as `--cfg-options` does: Python literals, true, false, null, or text."""
    return read_overrides([f"{key}={value}" for key, value in _pairs(option, texts)])


def _at_least(least: int, value: str) -> int:
    number = int(value)
    if number < least:
        raise argparse.ArgumentTypeError(f"expected at least {least}, got {number}")
    return number


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """Adds `--record-dataset` and `--to`."""
    parser.add_argument(
        "--record-dataset",
        type=Path,
        metavar="DIR",
        help="record what was seen and sent as a LeRobot dataset, one row per control step, with "
        "the pictures of the policy's cameras; episodes are appended to a dataset that DIR holds. "
        "Needs flux-data",
    )
    parser.add_argument(
        "--to",
        choices=("v2.1", "v3.0"),
        dest="dataset_version",
        help="version of that dataset (default: that of DIR, or v2.1)",
    )
