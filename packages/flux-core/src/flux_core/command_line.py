"""What all our commands share: exit codes, one-line errors, `--debug`, `--json`."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from site import getsitepackages
from sysconfig import get_paths
from typing import Any

from .errors import FluxError, UsageError

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


class StoppedBySignal(KeyboardInterrupt):
    """The operator ended the command with SIGINT, SIGTERM or SIGHUP.

    Attributes:
        name: of the signal.
    """

    def __init__(self, number: int) -> None:
        self.name = signal.Signals(number).name
        super().__init__(self.name)


def new_parser(prog: str, description: str, example: str) -> argparse.ArgumentParser:
    """Returns a parser whose `--help` ends with a real example."""
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=f"example:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_command(commands: Any, name: str, text: str, example: str) -> argparse.ArgumentParser:
    """Adds a subcommand with `--json`, whose `--help` shows `text` and ends with a real example."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"example:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def run_cli(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Parses `argv` and calls `args.handler(args)`. An error that the user can fix (a FluxError, or
    an OSError about a file) becomes one line on stderr.

    Returns the exit code: 0, 1 (failed), 2 (usage) or 130 (interrupted).
    """
    _add_debug(parser)
    args = parser.parse_args(argv)
    try:
        with _cleaning_up_on_sigterm():
            return int(args.handler(args) or EXIT_OK)
    except (FluxError, OSError) as error:
        if args.debug:
            traceback.print_exc()
        else:
            print(f"{parser.prog}: error: {_one_line(error)}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
    except KeyboardInterrupt as error:
        by = f" by {error.name}" if isinstance(error, StoppedBySignal) else ""
        print(f"{parser.prog}: interrupted{by}", file=sys.stderr)
        return EXIT_INTERRUPTED


@contextmanager
def _cleaning_up_on_sigterm() -> Iterator[None]:
    """Makes SIGTERM end the command as Ctrl-C does, so that half-written output is removed."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Makes SIGINT, SIGTERM and SIGHUP alike raise StoppedBySignal in the block.

    For commands that drive a robot. A signal that the parent had ignored, as `nohup` does with
    SIGHUP, stays ignored.
    """

    def stop(number: int, _: object) -> None:
        raise StoppedBySignal(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in numbers}
    before = {
        number: handler
        for number, handler in handlers.items()
        if handler not in (None, signal.SIG_IGN)
    }
    try:
        for number in before:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def without_current_directory() -> Iterator[None]:
    """Takes the current directory off the module path, where `python -m` puts it first.

    For commands that drive a robot or read files made elsewhere: a file in the current directory
    must not be imported as a module, nor a folder there count as an installed distribution.
    """
    before, here = list(sys.path), _current_directory()
    installed = [get_paths()[name] for name in ("stdlib", "purelib", "platlib")]
    kept = {os.path.realpath(folder) for folder in (*installed, *getsitepackages())}
    sys.path[:] = [
        entry for entry in before if entry and (os.path.realpath(entry) != here or here in kept)
    ]
    try:
        yield
    finally:
        sys.path[:] = before


def _current_directory() -> str | None:
    try:
        return os.path.realpath(os.curdir)
    except FileNotFoundError:  # it was removed
        return None


@contextmanager
def with_directories(*directories: Path) -> Iterator[None]:
    """Makes the modules in these directories importable; installed modules take precedence."""
    before = list(sys.path)
    sys.path += [os.path.realpath(directory) for directory in directories]
    try:
        yield
    finally:
        sys.path[:] = before


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part)
    return str(error)


def print_json(report: Mapping[str, object]) -> None:
    """Prints `report` as one JSON object on stdout; numbers that are not finite become null."""
    print(json.dumps(finite(report), ensure_ascii=False, allow_nan=False))


def finite(value: object) -> object:
    """Returns plain data with None in place of numbers that are not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return value


def _add_debug(parser: argparse.ArgumentParser) -> None:
    """Adds `--debug` to the parser and to each of its subcommands."""
    if not any("--debug" in action.option_strings for action in parser._actions):
        parser.add_argument(
            "--debug",
            action="store_true",
            default=parser.get_default("debug") or False,
            help="show the traceback of an error",
        )
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in set(action.choices.values()):
                child.set_defaults(debug=False)
                _add_debug(child)
