"""Types of command line arguments, and an argument of several commands."""

from __future__ import annotations

import argparse

from .engine_names import AUTO, ENGINES


def count(value: str) -> int:
    """Returns a whole number of at least 1."""
    return _at_least(1, value)


def natural(value: str) -> int:
    """Returns a whole number of at least 0."""
    return _at_least(0, value)


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Adds `--engine`."""
    parser.add_argument(
        "--engine",
        choices=(AUTO, *ENGINES),
        default=AUTO,
        help="what runs the network (default: auto, an NVIDIA card if ONNX Runtime can use it, "
        "else the processor)",
    )


def _at_least(least: int, value: str) -> int:
    number = int(value)
    if number < least:
        raise argparse.ArgumentTypeError(f"expected at least {least}, got {number}")
    return number
