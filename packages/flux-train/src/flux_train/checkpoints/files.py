"""Training checkpoints: one `.pt` file with everything that resuming and exporting need."""

from __future__ import annotations

import logging
import os
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from flux_core.errors import CheckpointError
from flux_core.models.weights import FORMAT, inference_weights, load_checkpoint

from ..run_plan import readable_bytes, tensor_bytes
from .sharded import PLAIN, SUFFIX, is_whole

logger = logging.getLogger("flux.train")

NAME = re.compile(r"checkpoint_(?:epoch|step)_\d+\.(?:pt|shards)")


class Place(NamedTuple):
    """Where in its run a checkpoint was saved; a later place compares greater.

    Attributes:
        rewinds: how often the run had gone back to an older checkpoint by then. Checkpoints with
            fewer rewinds are older, even those of later steps.
        step: the number of steps trained.
    """

    rewinds: int = 0
    step: int = 0


def save_checkpoint(work_dir: Path, name: str, state: Mapping[str, Any], keep: int) -> Path:
    """Writes `NAME.pt` and the inference weights beside it; replaces files of that name at the end.

    Args:
        work_dir: the run's directory.
        name: `checkpoint_epoch_N` or `checkpoint_step_N`.
        state: plain data and tensors; readable with `weights_only=True`.
        keep: how many of the newest checkpoints to keep.

    Raises:
        CheckpointError: the disk is full, or the written file cannot be read back.
    """
    path = work_dir / f"{name}.pt"
    partial = path.with_suffix(".pt.partial")
    tensors = path.with_suffix(".safetensors.partial")
    weights = {k: v.contiguous() for k, v in inference_weights(state).items()}
    check_space(path, tensor_bytes(state) + sum(w.nbytes for w in weights.values()))
    try:
        with partial.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        save_file(weights, tensors, metadata=_metadata(state))
        if not is_intact(partial):
            raise CheckpointError(f"{path}: was written but cannot be read back. Check the disk")
        os.replace(tensors, path.with_suffix(".safetensors"))
        os.replace(partial, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: cannot be written ({reason})") from error
    finally:
        partial.unlink(missing_ok=True)
        tensors.unlink(missing_ok=True)
    remove_old(work_dir, keep)
    return path


def check_space(path: Path, needed: int) -> None:
    """Refuses a file that does not fit on the disk, before torch fails with a vaguer message.

    Raises:
        CheckpointError: fewer than `needed` bytes are free.
    """
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise CheckpointError(
            f"{path}: the disk is full: expected {readable_bytes(needed)} of free space, got "
            f"{readable_bytes(free)}. Free some, or lower runner.max_checkpoints"
        )


def remove_old(work_dir: Path, keep: int) -> None:
    """Removes all but the latest `keep` checkpoints; each is a file, a folder of shards or both."""
    stems = list(dict.fromkeys(path.stem for path in checkpoints(work_dir)))
    for stem in stems[:-keep]:
        for suffix in (".pt", ".safetensors"):
            (work_dir / f"{stem}{suffix}").unlink(missing_ok=True)
        for suffix in (SUFFIX, "_adapter"):
            shutil.rmtree(work_dir / f"{stem}{suffix}", ignore_errors=True)


def checkpoints(work_dir: Path) -> list[Path]:
    """The run's checkpoints, files and folders of shards, in the order they were trained."""
    return [path for _, path in placed(work_dir)]


def placed(work_dir: Path) -> list[tuple[Place, Path]]:
    """The run's checkpoints with their places, in the order of the places.

    File times are no order to rely on, because copying changes them. They decide only between
    checkpoints of the same step, and for one whose step cannot be read (it is damaged, or written
    by an older flux-train): it gets the place of the file before it.
    """
    found = [path for path in work_dir.glob("checkpoint_*") if NAME.fullmatch(path.name)]
    place, answer = Place(), []
    for path in sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name)):
        place = _place_of(path) or place
        answer.append((place, path))
    return sorted(answer, key=lambda each: each[0])


def rewinds_after(work_dir: Path, place: Place) -> int:
    """The rewinds of a run that resumes from `place`.

    One more than those of the later checkpoints in `work_dir`, if there are any, so that new
    checkpoints rank above them.
    """
    beyond = [other.rewinds for other, _ in placed(work_dir) if other > place]
    return max(beyond) + 1 if beyond else place.rewinds


def remove_partial(work_dir: Path) -> None:
    """Removes unfinished files of processes that were killed while saving."""
    for path in work_dir.glob("checkpoint_*.partial"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _metadata(state: Mapping[str, Any]) -> dict[str, str]:
    """Metadata of the weights file; `_place_of` reads it without reading any tensor."""
    place = {"global_step": state["global_step"], "rewinds": state.get("rewinds", 0)}
    return {"format": "pt", "project": "flux", **{k: str(v) for k, v in place.items()}}


def _place_of(path: Path) -> Place | None:
    """The place stored in the checkpoint; None if there is none."""
    try:
        if path.is_dir():
            found: Mapping[str, Any] = load_checkpoint(path / PLAIN)
        else:
            with safe_open(path.with_suffix(".safetensors"), "pt") as file:
                found = file.metadata() or {}
        return Place(int(found.get("rewinds", 0)), int(found["global_step"]))
    except (CheckpointError, SafetensorError, OSError, KeyError, ValueError):
        return None


def is_intact(path: Path) -> bool:
    """Whether the checkpoint is complete and every byte matches its checksum."""
    if path.is_dir():
        return is_whole(path)
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError):
        return False


def newest_intact(work_dir: Path) -> Path | None:
    """The latest checkpoint that can be read; None if the run has not saved any.

    Raises:
        CheckpointError: there are checkpoints, but none can be read.
    """
    found = checkpoints(work_dir)
    for path in reversed(found):
        if is_intact(path):
            return path
        logger.warning("%s: is damaged; using an older checkpoint", path)
    if found:
        raise CheckpointError(
            f"{work_dir}: none of its {len(found)} checkpoints can be read. Restore one, or "
            "start in another WORK_DIR"
        )
    return None
