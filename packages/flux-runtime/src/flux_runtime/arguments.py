"""Types of command line arguments."""

from __future__ import annotations

import argparse


def count(value: str) -> int:
    """Returns a whole number of at least 1."""
    return _at_least(1, value)


def natural(value: str) -> int:
    """Returns a whole number of at least 0."""
    return _at_least(0, value)


def _at_least(least: int, value: str) -> int:
    number = int(value)
    if number < least:
        raise argparse.ArgumentTypeError(f"expected at least {least}, got {number}")
    return number
