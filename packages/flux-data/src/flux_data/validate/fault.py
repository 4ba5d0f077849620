"""A fault that `flux-data validate` reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..lerobot.dataset import LeRobotDataset


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong: its kind, the file, the place in the file, and a message."""

    kind: str
    file: str
    where: str
    message: str


def episode_fault(
    source: LeRobotDataset,
    position: int,
    kind: str,
    path: Path | str,
    message: str,
    frame: int | None = None,
) -> Fault:
    """Returns a fault of one episode, or of one of its frames."""
    where = f"episode {source.episode_indices[position]}"
    if frame is not None:
        where += f", frame {frame}"
    return Fault(kind=kind, file=str(path), where=where, message=message)
