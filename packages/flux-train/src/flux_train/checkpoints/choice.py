"""Chooses the checkpoint a run resumes from, and never starts a run over another one.

The main process chooses for all, before data and network are built. It verifies every byte of the
checkpoint; the others only check that they see the same one.
"""

from __future__ import annotations

from pathlib import Path

from flux_core.errors import CheckpointError

from ..distributed.ranks import Ranks
from ..metrics.log import read_metrics
from .files import is_intact, newest_intact, placed
from .sharded import SUFFIX, SUMS


def checkpoint_to_resume(wanted: str | None, work_dir: Path, ranks: Ranks) -> Path | None:
    """Resolves `--resume-from`; `auto` is the newest intact checkpoint in `work_dir`, if any.

    Raises:
        CheckpointError: in every process, if it is damaged or a process does not see it.
    """
    if wanted is None:
        return None
    chosen, problem = ranks.from_main(_choice(wanted, work_dir) if ranks.is_main else None)
    if problem is not None:
        raise CheckpointError(problem)
    if chosen is not None:
        _check_seen_by_all(chosen, ranks)
    return chosen


def check_nothing_is_lost(work_dir: Path, ranks: Ranks) -> None:
    """Refuses to start in a work dir whose run's metrics and checkpoints would be replaced.

    Raises:
        CheckpointError: in every process.
    """
    problem = ranks.from_main(_run_in(work_dir) if ranks.is_main else None)
    if problem is not None:
        raise CheckpointError(problem)


def _choice(wanted: str, work_dir: Path) -> tuple[Path | None, str | None]:
    """The checkpoint and None, or None and what is wrong with it."""
    try:
        if wanted == "auto":
            return newest_intact(work_dir), None
    except CheckpointError as error:
        return None, str(error)
    path = Path(wanted)
    if not path.exists():
        return None, f"{path}: expected a checkpoint, got a path that does not exist"
    if path.is_dir() and path.suffix != SUFFIX:
        return None, (
            f"{path}: expected a checkpoint, a file checkpoint_*.pt or a folder "
            f"checkpoint_*{SUFFIX}, got another folder. If it is a work dir, name one of its "
            "checkpoints or use --resume-from auto"
        )
    if not is_intact(path):
        return None, (
            f"{path}: expected an intact checkpoint of flux-train, got a damaged one or another "
            "file. Name another one; --resume-from auto skips damaged ones"
        )
    return path, None


def _check_seen_by_all(path: Path, ranks: Ranks) -> None:
    """Refuses a node with its own disk: it would wait forever, or train other weights."""
    seen = ranks.gathered(_fingerprint(path))
    for rank, found in enumerate(seen):
        if found != seen[0]:
            what = "sees none" if found is None else "sees another one"
            raise CheckpointError(
                f"{path}: expected every process to see the same checkpoint, but rank {rank} "
                f"{what}. Put {path.absolute().parent} on a file system that all nodes share"
            )


def _fingerprint(path: Path) -> object:
    """Identifies a checkpoint without reading its tensors; None if it does not exist."""
    try:
        return (path / SUMS).read_text() if path.is_dir() else path.stat().st_size
    except OSError:
        return None


def _run_in(work_dir: Path) -> str | None:
    """Describes the run in the folder; None if it never logged or saved a step."""
    saved = [place.step for place, _ in placed(work_dir)]
    logged = [int(line["step"]) for line in read_metrics(work_dir / "metrics.jsonl")]
    if not saved and not logged:
        return None
    how = "resume it" if saved else "start it again (it has no checkpoint)"
    return (
        f"{work_dir}: expected no run, got one of {max(saved + logged)} steps. Add --resume-from "
        f"auto to {how}, or name another WORK_DIR"
    )
