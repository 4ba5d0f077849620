"""Types of command-line arguments, and arguments that several commands share."""

from __future__ import annotations

import argparse
import os

from .engines.names import AUTO, ENGINES


def count(value: str) -> int:
    """Parses an integer of at least 1."""
    return _at_least(1, value)


def natural(value: str) -> int:
    """Parses an integer of at least 0."""
    return _at_least(0, value)


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


def _at_least(least: int, value: str) -> int:
    number = int(value)
    if number < least:
        raise argparse.ArgumentTypeError(f"expected at least {least}, got {number}")
    return number
