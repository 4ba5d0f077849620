"""Sharded checkpoints: each process writes its part into a folder `checkpoint_*.shards`.

No process gathers the network, so saving takes no extra memory and no longer than writing. A run of
any number of processes resumes from such a folder; `consolidate` turns it into the single file that
export and other readers take.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from flux_core.errors import CheckpointError
from flux_core.models.weights import FORMAT, load_checkpoint

from ..distributed.ranks import Ranks

SUFFIX = ".shards"
PLAIN, SUMS = "plain.pt", "files.json"


def save_shards(
    folder: Path, tensors: Mapping[str, Any], plain: Mapping[str, Any], ranks: Ranks
) -> None:
    """Writes a checkpoint; called by all processes. The folder appears once it is complete.

    Args:
        folder: `checkpoint_epoch_N.shards` or `checkpoint_step_N.shards`.
        tensors: nested dicts of tensors, sharded or the same in every process.
        plain: everything else; the main process's is written.
        ranks: the processes.

    Raises:
        CheckpointError: in every process, if any of them could not write.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    problem: str | None = None
    if ranks.is_main:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    ranks.barrier()
    try:
        writer = FileSystemWriter(partial, sync_files=True)
        save(dict(tensors), storage_writer=writer, no_dist=ranks.world_size == 1)
        if ranks.is_main:
            torch.save({"format": FORMAT, **plain}, partial / PLAIN)
            _write_sums(partial)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)
    except (OSError, RuntimeError, CheckpointException) as error:
        problem = f"{folder}: cannot be written ({_first_line(error)})"
    problem = ranks.from_main(problem) or problem
    if problem is not None:
        if ranks.is_main:
            shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(problem)


def load_plain(folder: Path) -> dict[str, Any]:
    """Everything but the tensors of the network, its average and its optimiser.

    Raises:
        CheckpointError: the folder is not a checkpoint.
    """
    return load_checkpoint(folder / PLAIN)


def holds_average(folder: Path) -> bool:
    """Whether a checkpoint has a moving average of its weights.

    Raises:
        CheckpointError: the folder is not a checkpoint.
    """
    try:
        saved = FileSystemReader(folder).read_metadata().state_dict_metadata
    except (OSError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{folder}: cannot be read ({_first_line(error)})") from error
    return any(name.startswith("ema.") for name in saved)


def fill_from_shards(folder: Path, tensors: dict[str, Any], ranks: Ranks) -> None:
    """Fills the tensors of `tensors`, nested as they were saved; called by all processes.

    Raises:
        CheckpointError: a tensor is missing from the checkpoint or has another shape.
    """
    try:
        load(tensors, checkpoint_id=folder, no_dist=ranks.world_size == 1)
    except (CheckpointException, RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(f"{folder}: cannot be read ({_first_line(error)})") from error


def consolidate(folder: Path) -> dict[str, Any]:
    """Reads a whole checkpoint into this process, in the form that `save_checkpoint` takes.

    Raises:
        CheckpointError: the folder is not a checkpoint, or is damaged.
    """
    _check_is_shards(folder)
    if not is_whole(folder):
        raise CheckpointError(f"{folder}: is damaged or incomplete. Use an older checkpoint")
    plain = load_plain(folder)
    whole = folder.with_name(f"{folder.stem}.whole.partial")
    try:
        dcp_to_torch_save(folder, whole)
        tensors = torch.load(whole, map_location="cpu", weights_only=True, mmap=True)
    except (CheckpointException, RuntimeError, OSError) as error:
        raise CheckpointError(f"{folder}: cannot be read ({_first_line(error)})") from error
    finally:
        whole.unlink(missing_ok=True)
    del plain["format"]
    return {"ema": None, **tensors, **plain}


def _check_is_shards(folder: Path) -> None:
    wanted = f"expected a folder checkpoint_*{SUFFIX}"
    if not folder.exists():
        raise CheckpointError(f"{folder}: {wanted}, got a path that does not exist")
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: {wanted}, got a file. A .pt file is already in one piece: "
            "flux-export reads it"
        )
    if not (folder / SUMS).is_file() and not (folder / PLAIN).is_file():
        inside = sorted(path.name for path in folder.glob(f"*{SUFFIX}"))
        hint = f". It contains {', '.join(inside)}: name one of them" if inside else ""
        raise CheckpointError(f"{folder}: {wanted}, got another folder{hint}")


def is_whole(folder: Path) -> bool:
    """Whether every file exists and matches its checksum."""
    try:
        sums: dict[str, list[int]] = json.loads((folder / SUMS).read_text())
        return all(_sum_of(folder / name) == expected for name, expected in sums.items())
    except (OSError, ValueError):
        return False


def _write_sums(folder: Path) -> None:
    sums = {path.name: _sum_of(path) for path in sorted(folder.iterdir())}
    with (folder / SUMS).open("w") as file:
        json.dump(sums, file)
        file.flush()
        os.fsync(file.fileno())


def _sum_of(path: Path) -> list[int]:
    """Size and CRC-32 of a file."""
    size, crc = 0, 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return [size, crc]


def _first_line(error: BaseException) -> str:
    """The reason; CheckpointException lists every process and puts the reason last."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if isinstance(error, CheckpointException) else lines[0]
