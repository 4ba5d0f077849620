"""The checkpoint file that training writes and export reads."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...config import bind
from ...errors import CheckpointError
from ...incomplete_file import why_incomplete
from ..flow.policy import FlowPolicy
from .finite_weights import check_finite
from .lora import merged_weights

FORMAT = "flux-checkpoint-1"
ARCHIVE = b"PK"
"""How the files of torch.save begin; those from before PyTorch 1.6 begin as a pickle does."""


def load_checkpoint(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Reads a checkpoint of flux-train; anything else is a CheckpointError.

    With `mmap`, a tensor is read from the file only when it is used.

    Keys: `model` and `ema` (weights, `ema` only of trained ones, or None), `optimizer`,
    `global_step`, `position` in the data, `config` (the resolved tree as plain data), `norm_stats`,
    `data_summary` (of the training set by group; older checkpoints have none).
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: not found")
    if reason := why_incomplete(path):
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({reason})")
    if first_bytes(path) != ARCHIVE:
        raise CheckpointError(
            f"{path}: cannot be read: expected a checkpoint of flux-train, got another file"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({reason})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected a checkpoint of flux-train, got another file")
    return state


def first_bytes(path: Path) -> bytes:
    """Returns the two bytes that tell what kind of file it is."""
    with path.open("rb") as file:
        return file.read(2)


def deployed_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the weights to deploy, adapters apart: the moving average if the run kept one."""
    # The average contains only trained weights; the others are unchanged.
    return {**state["model"], **(state.get("ema") or {})}


def inference_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns `deployed_weights` as the plain network has them, with the adapters merged."""
    config = bind(FlowPolicy.Config, state["config"]["model"], "model")
    return merged_weights(deployed_weights(state), config)


def load_weights(
    model: torch.nn.Module, weights: Mapping[str, Tensor], where: str, *, assign: bool = False
) -> None:
    """Fills `model` strictly; the first tensor that is missing, unexpected, mis-shaped or not
    finite is named.

    With `assign`, the model takes the tensors themselves, so it may be on the meta device.
    """
    expected = model.state_dict()
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is unexpected" for name in weights if name not in expected]
    problems += [
        f"{name}: expected shape {tuple(expected[name].shape)}, got {tuple(weights[name].shape)}"
        for name in expected
        if name in weights and expected[name].shape != weights[name].shape
    ]
    if problems:
        raise CheckpointError(
            f"{where}: {len(problems)} weights do not fit the config's network; "
            f"first: {problems[0]}"
        )
    for name, value in weights.items():
        check_finite(name, value, where)
    model.load_state_dict(dict(weights), assign=assign)
