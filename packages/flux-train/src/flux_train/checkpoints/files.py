"""Training checkpoints: one `.pt` file that is all that resume and export need."""

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
    """Where in its run a checkpoint was saved; of two, the later one is the greater.

    Attributes:
        rewinds: how often the run had gone back to an older checkpoint by then; what was saved
            before that, at later steps, is not its past.
        step: how many steps were trained.
    """

    rewinds: int = 0
    step: int = 0


def save_checkpoint(work_dir: Path, name: str, state: Mapping[str, Any], keep: int) -> Path:
    """Writes `NAME.pt` and the inference weights beside it; what was there stays until they are.

    Args:
        work_dir: the run's directory.
        name: `checkpoint_epoch_N` or `checkpoint_step_N`.
        state: plain data and tensors; readable with `weights_only=True`.
        keep: how many of the newest checkpoints stay.

    Raises:
        CheckpointError: the disk is full, or what was written is not what is read back.
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
            raise CheckpointError(f"{path}: what was written cannot be read back; look at the disk")
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
    """Refuses what does not fit on the disk, before torch begins and says it in its own words.

    Raises:
        CheckpointError: there are fewer than `needed` bytes.
    """
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise CheckpointError(
            f"{path}: the disk is full: it needs {readable_bytes(needed)}, and "
            f"{readable_bytes(free)} are free. Free some, or lower runner.max_checkpoints"
        )


def remove_old(work_dir: Path, keep: int) -> None:
    """Leaves the latest `keep` checkpoints, each a file, a folder of shards or both."""
    stems = list(dict.fromkeys(path.stem for path in checkpoints(work_dir)))
    for stem in stems[:-keep]:
        for suffix in (".pt", ".safetensors"):
            (work_dir / f"{stem}{suffix}").unlink(missing_ok=True)
        for suffix in (SUFFIX, "_adapter"):
            shutil.rmtree(work_dir / f"{stem}{suffix}", ignore_errors=True)


def checkpoints(work_dir: Path) -> list[Path]:
    """The run's checkpoints, files and folders of shards, in the order of their steps."""
    return [path for _, path in placed(work_dir)]


def placed(work_dir: Path) -> list[tuple[Place, Path]]:
    """The run's checkpoints, each with its place, in the order of places.

    The order of files' times would be that of copying them. It counts only between checkpoints of
    the same step, and for one that does not tell its step (it is damaged, or an older flux-train
    has written it), which is taken to be as late as the one before it.
    """
    found = [path for path in work_dir.glob("checkpoint_*") if NAME.fullmatch(path.name)]
    place, answer = Place(), []
    for path in sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name)):
        place = _place_of(path) or place
        answer.append((place, path))
    return sorted(answer, key=lambda each: each[0])


def rewinds_after(work_dir: Path, place: Place) -> int:
    """How often the run has gone back, once it goes on from `place`.

    One more if `work_dir` has later checkpoints: what is saved from now on outranks them.
    """
    beyond = [other.rewinds for other, _ in placed(work_dir) if other > place]
    return max(beyond) + 1 if beyond else place.rewinds


def remove_partial(work_dir: Path) -> None:
    """Removes what processes that were killed while saving have left."""
    for path in work_dir.glob("checkpoint_*.partial"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _metadata(state: Mapping[str, Any]) -> dict[str, str]:
    """Of the weights beside a checkpoint; `_place_of` reads it back without any tensor."""
    place = {"global_step": state["global_step"], "rewinds": state.get("rewinds", 0)}
    return {"format": "pt", "project": "flux", **{k: str(v) for k, v in place.items()}}


def _place_of(path: Path) -> Place | None:
    """As the checkpoint tells it; None if it does not."""
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
    """Whether the file ends as it should and every byte in it has its checksum."""
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
        CheckpointError: there are checkpoints, and none can be read.
    """
    found = checkpoints(work_dir)
    for path in reversed(found):
        if is_intact(path):
            return path
        logger.warning("%s: is damaged; an older checkpoint is taken", path)
    if found:
        raise CheckpointError(f"{work_dir}: none of its {len(found)} checkpoints can be read")
    return None
