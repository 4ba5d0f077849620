"""A collated batch on its way to the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

Batch = dict[str, Tensor]

MODEL_KEYS = (
    "images",
    "image_masks",
    "lang_tokens",
    "lang_masks",
    "states",
    "actions",
    "action_masks",
    "action_dim_masks",
    "group",
)

PROMPT_MULTIPLE = 16
"""Prompts are cut to a multiple of this, so that the shapes of batches stay few."""


def to_device(batch: Mapping[str, Any], device: torch.device) -> Batch:
    """What the network takes of a batch; metadata stays behind."""
    return {key: torch.as_tensor(batch[key]).to(device) for key in MODEL_KEYS if key in batch}


def trim_prompts(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Drops the columns of `lang_tokens` and `lang_masks` (B, L) that are padding in every row.

    Nothing attends to them, so the loss is the same but for rounding. For batches that are still in
    the processor's memory: a GPU would have to be waited for.
    """
    masks = np.asarray(batch["lang_masks"])
    used = int(np.flatnonzero(masks.any(axis=0)).max(initial=0)) + 1
    width = -(-used // PROMPT_MULTIPLE) * PROMPT_MULTIPLE
    return {**batch, **{key: batch[key][:, :width] for key in ("lang_tokens", "lang_masks")}}
