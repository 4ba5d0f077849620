"""The text of a contradiction between training and robot: both dotted paths and both values."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigError


def finding(
    path: str, trained_path: str, *, expected: object, got: object, remedy: str = ""
) -> str:
    """Returns the text of one contradiction.

    Args:
        path: the robot's dotted path.
        trained_path: training's dotted path, or where else the expected value comes from.
        expected: training's value.
        got: the robot's value.
        remedy: what to do; empty if it is obvious.
    """
    more = f". {remedy}" if remedy else ""
    return f"{path}: expected {expected!r} as in training ({trained_path}), got {got!r}{more}"


def refuse(findings: Sequence[str]) -> None:
    """Raises one error for all contradictions, if there are any.

    Raises:
        ConfigError: in one line.
    """
    if findings:
        raise ConfigError("; ".join(dict.fromkeys(findings)))
