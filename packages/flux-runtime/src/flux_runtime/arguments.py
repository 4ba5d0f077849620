"""Types of command line arguments, and the arguments that several commands have."""

from __future__ import annotations

import argparse
import os

from .engines.names import AUTO, ENGINES


def count(value: str) -> int:
    """Returns a whole number of at least 1."""
    return _at_least(1, value)


def natural(value: str) -> int:
    """Returns a whole number of at least 0."""
    return _at_least(0, value)


def threads(value: str) -> int:
    """Returns a number of threads that this machine can start."""
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
        help="what runs the network (default: auto, an NVIDIA card if ONNX Runtime can use it, "
        "else the processor)",
    )


def add_accept_version(parser: argparse.ArgumentParser) -> None:
    """Adds `--accept-version`."""
    parser.add_argument(
        "--accept-version",
        action="append",
        default=[],
        metavar="NAME",
        dest="accept_versions",
        help="take the installed version of distribution NAME for the components that a bundle "
        "has from another version of it; may be repeated",
    )


def _at_least(least: int, value: str) -> int:
    number = int(value)
    if number < least:
        raise argparse.ArgumentTypeError(f"expected at least {least}, got {number}")
    return number
