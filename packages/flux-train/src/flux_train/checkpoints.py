"""Training checkpoints: one `.pt` file that is all that resume and export need."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from flux_core.models.checkpoint_file import FORMAT, inference_weights


def save_checkpoint(work_dir: Path, epoch: int, state: Mapping[str, Any], keep: int) -> Path:
    """Writes `checkpoint_epoch_N.pt` and the inference weights beside it, atomically.

    Args:
        work_dir: the run's directory.
        epoch: the number of epochs completed.
        state: plain data and tensors; readable with `weights_only=True`.
        keep: how many of the newest checkpoints stay.
    """
    path = work_dir / f"checkpoint_epoch_{epoch}.pt"
    partial = path.with_suffix(".pt.partial")
    torch.save({"format": FORMAT, **state}, partial)
    weights = inference_weights(state)
    tensors = path.with_suffix(".safetensors.partial")
    metadata = {"format": "pt", "project": "flux"}
    save_file({k: v.contiguous() for k, v in weights.items()}, tensors, metadata=metadata)
    os.replace(tensors, path.with_suffix(".safetensors"))
    os.replace(partial, path)
    for old in checkpoints(work_dir)[:-keep]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)
        shutil.rmtree(old.with_name(f"{old.stem}_adapter"), ignore_errors=True)
    return path


def checkpoints(work_dir: Path) -> list[Path]:
    """The run's checkpoints, oldest epoch first."""
    numbered = {
        int(match.group(1)): path
        for path in work_dir.glob("checkpoint_epoch_*.pt")
        if (match := re.fullmatch(r"checkpoint_epoch_(\d+)\.pt", path.name))
    }
    return [numbered[epoch] for epoch in sorted(numbered)]
