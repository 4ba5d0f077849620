"""Prepares a collated batch for the network."""

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
    "embodiment_ids",
    "group",
)

PROMPT_MULTIPLE = 16
"""Prompts are trimmed to a multiple of this, to keep the number of batch shapes small."""


def to_device(batch: Mapping[str, Any], device: torch.device) -> Batch:
    """Copies the tensors that the network reads to the device; metadata is dropped."""
    return {key: torch.as_tensor(batch[key]).to(device) for key in MODEL_KEYS if key in batch}


def trim_prompts(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Drops the columns of `lang_tokens` and `lang_masks` (B, L) that are padding in every row.

    No token attends to them, so the loss changes by rounding only. Meant for batches in CPU memory:
    on a GPU it would wait for the device.
    """
    columns = np.flatnonzero(np.asarray(batch["lang_masks"]).any(axis=0))
    first, end = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, 1)
    width = -(-(end - first) // PROMPT_MULTIPLE) * PROMPT_MULTIPLE
    start = max(end - width, 0) if first else 0  # padding is on the left, or on the right
    kept = slice(start, start + width)
    return {**batch, **{key: batch[key][:, kept] for key in ("lang_tokens", "lang_masks")}}
