"""Training checkpoints: one `.pt` file that is all that resume and export need."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from flux_core.errors import CheckpointError
from safetensors.torch import save_file

FORMAT = "flux-checkpoint-1"


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
    save_file({k: v.contiguous() for k, v in weights.items()}, tensors, metadata={"format": "pt"})
    os.replace(tensors, path.with_suffix(".safetensors"))
    os.replace(partial, path)
    for old in checkpoints(work_dir)[:-keep]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)
    return path


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of ours; anything else is a CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"{path}: not found")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({error})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is not a checkpoint written by flux-train")
    return state


def checkpoints(work_dir: Path) -> list[Path]:
    """The run's checkpoints, oldest epoch first."""
    numbered = {
        int(match.group(1)): path
        for path in work_dir.glob("checkpoint_epoch_*.pt")
        if (match := re.fullmatch(r"checkpoint_epoch_(\d+)\.pt", path.name))
    }
    return [numbered[epoch] for epoch in sorted(numbered)]


def inference_weights(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights to deploy: the moving average where the run kept one."""
    return state["ema"] if state.get("ema") is not None else state["model"]
