"""Training checkpoints: one `.pt` file that is all that resume and export need."""

from __future__ import annotations

import logging
import os
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from flux_core.errors import CheckpointError
from flux_core.models.checkpoint_file import FORMAT, inference_weights

from .sharded_checkpoints import SUFFIX, is_whole

logger = logging.getLogger("flux.train")

NAME = re.compile(r"checkpoint_(?:epoch|step)_\d+\.(?:pt|shards)")


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
    try:
        with partial.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        save_file(weights, tensors, metadata={"format": "pt", "project": "flux"})
        if not is_intact(partial):
            raise CheckpointError(f"{path}: what was written cannot be read back; look at the disk")
        os.replace(tensors, path.with_suffix(".safetensors"))
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: cannot be written ({reason})") from error
    finally:
        partial.unlink(missing_ok=True)
        tensors.unlink(missing_ok=True)
    remove_old(work_dir, keep)
    return path


def remove_old(work_dir: Path, keep: int) -> None:
    """Leaves the newest `keep` checkpoints, each a file, a folder of shards or both."""
    stems = list(dict.fromkeys(path.stem for path in checkpoints(work_dir)))
    for stem in stems[:-keep]:
        for suffix in (".pt", ".safetensors"):
            (work_dir / f"{stem}{suffix}").unlink(missing_ok=True)
        for suffix in (SUFFIX, "_adapter"):
            shutil.rmtree(work_dir / f"{stem}{suffix}", ignore_errors=True)


def checkpoints(work_dir: Path) -> list[Path]:
    """The run's checkpoints, files and folders of shards, the oldest first."""
    found = [path for path in work_dir.glob("checkpoint_*") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


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
    """The newest checkpoint that can be read; None if the run has not saved any.

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
