"""How a network is trained: `runner` sections."""

from __future__ import annotations

from typing import Any

COLLATED = (
    *("images", "image_masks", "lang_tokens", "lang_masks", "states"),
    *("actions", "action_masks", "action_dim_masks"),
)
"""The keys of a sample that the loss needs; without the last two, padding would be trained."""


def collator() -> dict[str, Any]:
    """Stacks the keys that the loss needs."""
    return dict(type="DictCollator", keys=list(COLLATED))


def full_runner(**settings: Any) -> dict[str, Any]:
    """Trains every weight that is not frozen, sharded over a node's GPUs and copied between nodes.

    If the vision-language model is frozen, `sharding_strategy="no-shard"` (a copy on every GPU) is
    faster and still fits. `settings` override.
    """
    defaults = dict(type="FSDPTrainRunner", sharding_strategy="hybrid-shard", collator=collator())
    return defaults | settings


def lora_runner(**settings: Any) -> dict[str, Any]:
    """Trains adapters, which are so small that every GPU holds a copy. `settings` override."""
    return dict(type="DDPTrainRunner", collator=collator()) | settings
