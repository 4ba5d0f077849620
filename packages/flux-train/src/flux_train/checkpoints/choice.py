"""Which checkpoint a run goes on from, alike in all processes; a run is never begun over another.

Decided before data and network are built, and by the main process alone: it reads every byte of the
checkpoint, the others only look whether they see the same.
"""

from __future__ import annotations

from pathlib import Path

from flux_core.errors import CheckpointError

from ..distributed.ranks import Ranks
from ..metrics.log import read_metrics
from .files import is_intact, newest_intact, placed
from .sharded import SUFFIX, SUMS


def checkpoint_to_resume(wanted: str | None, work_dir: Path, ranks: Ranks) -> Path | None:
    """What `--resume-from` names; `auto` is the newest intact one in `work_dir`, if it has any.

    Raises:
        CheckpointError: in every process, if it is damaged or one of them does not see it.
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
    """Refuses to begin where another run is, whose metrics and checkpoints would be replaced.

    Raises:
        CheckpointError: in every process.
    """
    problem = ranks.from_main(_run_in(work_dir) if ranks.is_main else None)
    if problem is not None:
        raise CheckpointError(problem)


def _choice(wanted: str, work_dir: Path) -> tuple[Path | None, str | None]:
    """The checkpoint, or what is wrong with it."""
    try:
        if wanted == "auto":
            return newest_intact(work_dir), None
    except CheckpointError as error:
        return None, str(error)
    path = Path(wanted)
    if not path.exists():
        return None, f"{path}: not found"
    if path.is_dir() and path.suffix != SUFFIX:
        return None, (
            f"{path}: expected a checkpoint, a file checkpoint_*.pt or a folder "
            f"checkpoint_*{SUFFIX}, got another folder. Of a work dir, name one of its checkpoints "
            "or give --resume-from auto"
        )
    if not is_intact(path):
        return None, (
            f"{path}: expected a checkpoint of flux-train, got one that is damaged or none at "
            "all. Name another; --resume-from auto would skip it"
        )
    return path, None


def _check_seen_by_all(path: Path, ranks: Ranks) -> None:
    """A node with a disk of its own would wait forever for the others, or train other weights."""
    seen = ranks.gathered(_fingerprint(path))
    for rank, found in enumerate(seen):
        if found != seen[0]:
            what = "does not see" if found is None else "sees another file at"
            raise CheckpointError(
                f"rank {rank} {what} {path}. {path.absolute().parent} must be on a file system "
                "that all nodes share"
            )


def _fingerprint(path: Path) -> object:
    """Tells one checkpoint from another without reading it; None if there is none."""
    try:
        return (path / SUMS).read_text() if path.is_dir() else path.stat().st_size
    except OSError:
        return None


def _run_in(work_dir: Path) -> str | None:
    """Says what run the folder holds; a start that got nowhere is none."""
    saved = [place.step for place, _ in placed(work_dir)]
    logged = [int(line["step"]) for line in read_metrics(work_dir / "metrics.jsonl")]
    if not saved and not logged:
        return None
    how = "go on" if saved else "begin it again (it has no checkpoint)"
    return (
        f"{work_dir}: holds a run of {max(saved + logged)} steps. Add --resume-from auto to {how}, "
        "or name another WORK_DIR"
    )
