"""What `flux-data validate` tells: one thing that is wrong with a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..lerobot.dataset import LeRobotDataset


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong: its kind, the file, the place within it, and what it is."""

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
    """A fault of one episode, or of one frame of it."""
    where = f"episode {source.episode_indices[position]}"
    if frame is not None:
        where += f", frame {frame}"
    return Fault(kind=kind, file=str(path), where=where, message=message)
